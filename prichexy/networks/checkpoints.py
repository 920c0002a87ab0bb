"""Published checkpoints in, safetensors out: weights only, no pickle is ever executed."""

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as safetensors_from_bytes
from safetensors.torch import save as safetensors_to_bytes
from torch import Tensor, nn

from prichexy.errors import UsageError
from prichexy.networks.pickled_model import REFUSAL, InertObject, is_module, module_state, read_inertly

State = dict[str, Tensor]
NetworkKind = Literal["flow-field", "privacy-net", "verifier", "classifier"]

# Where training scripts put the weights inside what they save, in the order in which they are looked for.
_NESTED_UNDER = ("state_dict", "model_state_dict", "generator_state_dict", "weights", "model", "net", "generator")

# torchvision before 0.3 wrote `norm.1` where it writes `norm1` now.
_OLD_DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")

# For each architecture: keys that only it has, and the one whose first axis is its feature count.
_SIGNATURES: tuple[tuple[NetworkKind, tuple[str, ...], str | None], ...] = (
    ("flow-field", ("encoder1.enc1conv1.weight", "conv.weight"), "encoder1.enc1conv1.weight"),
    ("privacy-net", ("down_1.0.0.weight", "out.0.weight"), "down_1.0.0.weight"),
    ("verifier", ("model.conv1.weight", "fc_end.weight"), None),
    ("classifier", ("features.conv0.weight", "classifier.0.weight"), None),
)


class Architecture(NamedTuple):
    """What a state dict belongs to.

    Attributes:
        kind: the network.
        features: filters of its first block, for the two generators; None for the others, which have one size.
    """

    kind: NetworkKind
    features: int | None


def load_published(path: Path) -> State:
    """Weights of a checkpoint file, under the published key names.

    Takes safetensors, state dicts written by `torch.save` (also nested under the usual keys), and pickled whole
    models; a ``module.`` prefix (`nn.DataParallel`) and DenseNet's old key names are mapped away.

    Args:
        path: the file.

    Returns:
        Tensors on the CPU by key.

    Raises:
        UsageError: if the file is missing, is no checkpoint, holds no weights, or asks to run code.
    """
    try:
        content = path.read_bytes()
    except OSError:
        raise UsageError("the checkpoint file can't be opened: check that it exists and is readable") from None
    state = load_safetensors_bytes(content) if _is_safetensors(content) else _weights(_read_torch_file(content))
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return {_OLD_DENSE_LAYER.sub(r"\1\2.", key): value for key, value in state.items()}


def _is_safetensors(content: bytes) -> bool:
    # Eight bytes of header length, then a JSON object; a zip starts with "PK", a pickle with 0x80.
    return len(content) > 8 and content[8:9] == b"{" and 0 < int.from_bytes(content[:8], "little") <= len(content) - 8


def _read_torch_file(content: bytes) -> Any:
    if content[:2] == b"PK" and _is_torchscript(content):
        raise UsageError(REFUSAL)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # perhaps a whole model
        return read_inertly(content)
    except Exception:  # damaged files provoke many kinds; their text could quote the file
        raise UsageError("the checkpoint can't be read: it is damaged or was not written by torch.save") from None


def _is_torchscript(content: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(name.rsplit("/", 1)[-1] == "constants.pkl" for name in archive.namelist())
    except zipfile.BadZipFile:
        return False  # torch.load says that it is damaged


def _weights(tree: Any) -> State:
    """The state dict inside what a training script saved."""
    if isinstance(tree, InertObject) and is_module(tree):
        return module_state(tree)
    if isinstance(tree, Mapping):
        for name in _NESTED_UNDER:
            if is_module(tree.get(name)) or isinstance(tree.get(name), Mapping):
                return _weights(tree[name])
        if tree and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in tree.items()):
            return {key: value.detach() for key, value in tree.items()}
    raise UsageError(
        "the checkpoint holds no weights: expected a state dict, alone or under one of " + ", ".join(_NESTED_UNDER)
    )


def identify(state: Mapping[str, Tensor]) -> Architecture:
    """Architecture that a state dict belongs to, by its key names and shapes.

    Raises:
        UsageError: if it is none of the four networks.
    """
    for kind, keys, sized_by in _SIGNATURES:
        if all(key in state for key in keys):
            return Architecture(kind, None if sized_by is None else int(state[sized_by].shape[0]))
    raise UsageError(
        f"the checkpoint is of no known network ({len(state)} keys): expected the flow-field generator, "
        "the Privacy-Net generator, the verifier or the classifier"
    )


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def load_into(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill a network with weights, strictly: the same keys and shapes, or an error.

    Batch-norm counters (``num_batches_tracked``) may be missing, as in files before torch 0.4.1; nothing reads them
    in inference.

    Raises:
        UsageError: one sentence with how many keys are missing, extra or of another shape, and the first of them.
    """
    expected = network.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in expected]
    reshaped = [key for key in state if key in expected and state[key].shape != expected[key].shape]
    faults = [
        f"{len(keys)} {what} ({_listed(keys)})"
        for what, keys in (("missing", missing), ("extra", extra), ("of another shape", reshaped))
        if keys
    ]
    if faults:
        raise UsageError("the checkpoint's keys don't fit the network: " + "; ".join(faults))
    counters = {key: torch.zeros_like(value) for key, value in expected.items() if key not in state}
    network.load_state_dict({**state, **counters}, strict=True)


def save_safetensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write weights as one safetensors file, overwriting what was there."""
    path.write_bytes(safetensors_bytes(state))


def safetensors_bytes(state: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Weights in the safetensors format, with text metadata in its header."""
    # Clones, since two names may share memory and safetensors wants each to have its own.
    content: bytes = safetensors_to_bytes(
        {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, metadata
    )
    return content


def load_safetensors(path: Path) -> State:
    """Weights of a safetensors file, on the CPU.

    Raises:
        UsageError: if the file is missing or damaged.
    """
    try:
        content = path.read_bytes()
    except OSError:
        raise UsageError("the weights file can't be opened: check that it exists and is readable") from None
    return load_safetensors_bytes(content)


def load_safetensors_bytes(content: bytes) -> State:
    """Weights in the safetensors format, on the CPU.

    Raises:
        UsageError: if the content is no whole safetensors file.
    """
    try:
        return dict(safetensors_from_bytes(content))
    except (SafetensorError, ValueError, KeyError):
        raise UsageError("the weights are no whole safetensors file: copy or import them again") from None
