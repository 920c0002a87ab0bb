"""Weights out of a pickled whole model without running anything that the pickle asks for.

A file written by ``torch.save(model)`` is a program for Python's unpickler: it names classes and functions, and the
unpickler calls them. Here each name is answered from one short list: what rebuilds tensors is real, layers become
inert objects that only hold their attributes, and any other name ends the reading.
"""

import io
import pickle
import types
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from prichexy.errors import UsageError

# Rebuild tensors and plain containers; none of them runs code of the file. `_codecs.encode` is how protocol 2 writes
# bytes, `set` how modules keep their non-persistent buffers' names.
_REAL: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("__builtin__", "set"): set,  # protocol 2 writes Python 2's name of the module
    ("builtins", "set"): set,
    ("_codecs", "encode"): lambda text, _encoding="latin1": text.encode("latin1"),
}

# Layers, optimisers and NumPy numbers (a loss beside the weights): only their attributes are kept.
_INERT_PACKAGES = ("torch.nn.", "torch.optim.", "torch.utils.hooks.", "torchvision.models.", "torchvision.ops.")
_INERT_MODULES = ("torch.utils.hooks", "numpy", "numpy.core.multiarray", "numpy._core.multiarray")

REFUSAL = (
    "the checkpoint asks for more than network layers and tensors, so nothing in it was run or loaded: "
    "save its weights with torch.save(model.state_dict(), FILE) and give that file"
)


class _Refused(Exception):  # noqa: N818 - an outcome; it never leaves this module
    pass


class InertObject:
    """Stands for an object of a pickled model: takes any arguments, does nothing, keeps the attributes as data."""

    attributes: dict[str, Any]
    dump_patches = False  # torch asks a layer whose source code differs whether to write a patch file: never

    def __new__(cls, *_arguments: object, **_named: object) -> Self:
        """An object without attributes."""
        blank = super().__new__(cls)
        blank.attributes = {}
        return blank

    def __init__(self, *_arguments: object, **_named: object) -> None:
        """Ignores what the pickle gives."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.attributes = state


class _Rebuilder:
    """A callable that a pickle can call but, unlike a Python function, not change for the rest of the process."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, _state: object) -> None:
        raise _Refused


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        real = _REAL.get((module, name))
        if real is not None:
            return _Rebuilder(real)
        if module in _INERT_MODULES or module.startswith(_INERT_PACKAGES):
            return InertObject
        raise _Refused


def _load(file: Any, **arguments: Any) -> Any:
    return _RestrictedUnpickler(file, **arguments).load()


def _restricted_pickle() -> types.ModuleType:
    """What `torch.load` takes for the pickle module: every unpickling that it does goes through our unpickler."""
    module = types.ModuleType("restricted_pickle")
    module.Unpickler = _RestrictedUnpickler  # type: ignore[attr-defined]
    module.load = _load  # type: ignore[attr-defined]
    return module


def read_inertly(content: bytes) -> Any:
    """Object tree of a file written by `torch.save`, with real tensors and `InertObject` for every layer.

    Args:
        content: the file; not a TorchScript archive, which `torch.load` would hand to another reader.

    Raises:
        UsageError: if the file names anything but layers, tensors and plain containers; nothing of it has run.
    """
    try:
        with warnings.catch_warnings():
            # Files before torch 1.6 carry the layers' source code, and torch compares it with our stand-ins'.
            warnings.simplefilter("ignore")
            return torch.load(
                io.BytesIO(content), map_location="cpu", weights_only=False, pickle_module=_restricted_pickle()
            )
    except _Refused:
        raise UsageError(REFUSAL) from None
    except Exception:  # whatever a crafted or broken pickle provokes; its text could quote the file
        raise UsageError("the checkpoint can't be read: it is damaged or was not written by torch.save") from None


def module_state(module: InertObject, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers of an inert module and its children, under the names that `state_dict` gives them."""
    attributes = module.attributes
    transient = attributes.get("_non_persistent_buffers_set") or ()
    state: dict[str, Tensor] = {}
    for holder, skipped in (("_parameters", ()), ("_buffers", transient)):
        for name, value in (attributes.get(holder) or {}).items():
            if isinstance(value, Tensor) and name not in skipped:
                state[f"{prefix}{name}"] = value.detach()
    for name, child in (attributes.get("_modules") or {}).items():
        if isinstance(child, InertObject):
            state.update(module_state(child, f"{prefix}{name}."))
    return state


def is_module(value: object) -> bool:
    """Whether an object of the tree stands for a network layer."""
    return isinstance(value, InertObject) and isinstance(value.attributes.get("_modules"), Mapping)
