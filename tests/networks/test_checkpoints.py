import io
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prichexy.errors import UsageError
from prichexy.networks.checkpoints import (
    Architecture,
    identify,
    load_into,
    load_published,
    load_safetensors,
    save_safetensors,
)
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.networks.privacy_net import PrivacyNetGenerator

DENSENET_SOURCE = """
from collections import OrderedDict
from torch import nn

class _DenseLayer(nn.Sequential):
    def __init__(self, channels):
        super().__init__()
        self.add_module("norm1", nn.BatchNorm2d(channels))
        self.add_module("conv1", nn.Conv2d(channels, 4, 1, bias=False))

class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(OrderedDict([("conv0", nn.Conv2d(3, 8, 7)), ("denselayer1", _DenseLayer(8))]))
        self.classifier = nn.Sequential(nn.Linear(4, 14), nn.Sigmoid())
        self.register_buffer("scratch", self.classifier[0].bias.detach().clone(), persistent=False)
"""


@pytest.fixture
def foreign_densenet(monkeypatch: pytest.MonkeyPatch) -> Callable[[], nn.Module]:
    """A network whose classes can be imported while it is saved, and not afterwards."""
    modules = {name: types.ModuleType(name) for name in ("torchvision", "torchvision.models")}
    densenet = types.ModuleType("torchvision.models.densenet")
    exec(DENSENET_SOURCE, densenet.__dict__)
    for name, module in {**modules, "torchvision.models.densenet": densenet}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return lambda: densenet.DenseNet()


def forget_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)


def assert_states_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert sorted(actual) == sorted(expected)
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("beside", [{}, {"epoch": 3, "best_loss": np.float64(0.2), "rng_state": torch.arange(3)}])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_of_a_pickled_whole_model_are_recovered_without_its_classes(
    zipped: bool,
    beside: dict[str, Any],
    foreign_densenet: Callable[[], nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = foreign_densenet()
    expected = network.state_dict()
    whole = nn.DataParallel(network)
    torch.save(
        {"model": whole, **beside} if beside else whole,
        tmp_path / "checkpoint",
        _use_new_zipfile_serialization=zipped,
    )
    forget_torchvision(monkeypatch)
    state = load_published(tmp_path / "checkpoint")
    assert_states_equal(state, expected)
    assert identify(state) == Architecture("classifier", None)
    assert "torchvision" not in sys.modules


class Malicious:
    """Runs a command when an ordinary unpickler meets it."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


class Evaluating(Malicious):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.proof)!r}, 'w')",)


@pytest.mark.parametrize("kind", [Malicious, Evaluating])
@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle", "beside weights"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(kind: type[Malicious], form: str, tmp_path: Path) -> None:
    proof, path = tmp_path / "proof", tmp_path / "checkpoint"
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(kind(proof)))
    else:
        content = {"weight": torch.zeros(2), "x": kind(proof)} if form == "beside weights" else kind(proof)
        torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(UsageError) as refusal:
        load_published(path)
    assert not proof.exists()
    assert str(tmp_path) not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_refused_pickle_says_what_to_do(tmp_path: Path) -> None:
    torch.save({"x": Malicious(tmp_path / "proof")}, tmp_path / "checkpoint")
    with pytest.raises(UsageError, match=r"save its weights with torch\.save\(model\.state_dict\(\)"):
        load_published(tmp_path / "checkpoint")


def test_a_pickle_cannot_change_the_functions_that_rebuild_tensors(tmp_path: Path) -> None:
    # GLOBAL torch._utils._rebuild_tensor_v2, then BUILD with (None, {"__defaults__": (1,)}) as its slot state.
    program = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NX\x0c\x00\x00\x00__defaults__K\x01\x85d\x86b."
    program = program.replace(b"(NX", b"N(X")
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with zipfile.ZipFile(tmp_path / "checkpoint", "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
    with pytest.raises(UsageError, match="nothing in it was run"):
        load_published(tmp_path / "checkpoint")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "checkpoint"))
    with pytest.raises(UsageError, match="nothing in it was run"):
        load_published(tmp_path / "checkpoint")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"text named .pth", b"\x80\x02]q\x00."])
def test_what_is_no_checkpoint_is_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(UsageError) as error:
        load_published(tmp_path / "checkpoint")
    assert "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_truncated_and_missing_files_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(100)}, buffer)
    (tmp_path / "torn").write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(UsageError, match="damaged"):
        load_published(tmp_path / "torn")
    with pytest.raises(UsageError, match="can't be opened"):
        load_published(tmp_path / "absent")
    save_safetensors({"weight": torch.zeros(100)}, tmp_path / "weights")
    (tmp_path / "weights").write_bytes((tmp_path / "weights").read_bytes()[:-8])
    with pytest.raises(UsageError, match="no whole safetensors"):
        load_published(tmp_path / "weights")


@pytest.mark.parametrize("nest", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dicts_are_found_where_training_scripts_put_them(nest: str | None, prefix: str, tmp_path: Path) -> None:
    expected = FlowFieldGenerator(features=2).state_dict()
    saved = {prefix + key: value for key, value in expected.items()}
    torch.save(saved if nest is None else {"epoch": 7, nest: saved}, tmp_path / "checkpoint")
    state = load_published(tmp_path / "checkpoint")
    assert_states_equal(state, expected)
    assert identify(state) == Architecture("flow-field", 2)


def test_safetensors_come_back_exactly_and_are_recognized(tmp_path: Path) -> None:
    expected = PrivacyNetGenerator(features=4).state_dict()
    save_safetensors(expected, tmp_path / "any-name")
    assert_states_equal(load_safetensors(tmp_path / "any-name"), expected)
    state = load_published(tmp_path / "any-name")
    assert_states_equal(state, expected)
    assert identify(state) == Architecture("privacy-net", 4)


def test_tied_weights_can_be_saved(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    save_safetensors({"a": shared, "b": shared.view(2, 3).t()}, tmp_path / "weights")
    assert load_safetensors(tmp_path / "weights")["b"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_old_densenet_key_names_are_mapped(tmp_path: Path) -> None:
    old = "module.features.denseblock1.denselayer12.norm.1.weight"
    torch.save({old: torch.ones(3), "module.features.norm0.bias": torch.zeros(1)}, tmp_path / "checkpoint")
    assert set(load_published(tmp_path / "checkpoint")) == {
        "features.denseblock1.denselayer12.norm1.weight",
        "features.norm0.bias",
    }


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no known network \(1 keys\)"):
        identify({"weight": torch.zeros(1)})


def test_the_verifier_is_recognized() -> None:
    state = {"model.conv1.weight": torch.zeros(64, 3, 7, 7), "fc_end.weight": torch.zeros(1, 128)}
    assert identify(state) == Architecture("verifier", None)


def test_weights_that_do_not_fit_are_told_in_one_sentence() -> None:
    network = FlowFieldGenerator(features=2)
    state = dict(network.state_dict())
    del state["conv.bias"], state["upconv1.bias"]
    state["extra"] = torch.zeros(1)
    state["conv.weight"] = torch.zeros(1, 1, 1, 1)
    with pytest.raises(UsageError) as error:
        load_into(network, state)
    assert str(error.value) == (
        "the checkpoint's keys don't fit the network: 2 missing (upconv1.bias, conv.bias); 1 extra (extra); "
        "1 of another shape (conv.weight)"
    )


def test_files_without_batch_norm_counters_load() -> None:
    network, source = FlowFieldGenerator(features=2), FlowFieldGenerator(features=2)
    state = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    load_into(network, state)
    assert_states_equal(network.state_dict(), source.state_dict())
