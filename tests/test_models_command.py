"""`prichexy models check` and `prichexy models recompute` at the prompt."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.obfuscation import ObfuscationSettings, save
from tests.networks.rule_weights import rule_state
from tests.test_cli import run


def weights() -> dict[str, torch.Tensor]:
    state = FlowFieldGenerator(features=2).state_dict()
    return rule_state({key: (list(value.shape), str(value.dtype)[6:]) for key, value in state.items()})


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "model", ObfuscationSettings(kind="flow-field", features=2, image_size=64, mu=0.01), weights())
    return tmp_path / "model"


def test_check_tells_for_each_engine_and_precision_what_changes_and_what_is_allowed(model: Path) -> None:
    code, text = run("models", "check", str(model), "--most", "2", "--json")
    assert code == 0
    found = {(facts["engine"], facts["precision"]): facts for facts in json.loads(text)}
    assert set(found) == {
        (e, p) for e in ("torch", "winograd", "openvino", "cuda-graph") for p in ("float32", "bfloat16")
    }
    own = found["torch", "float32"]
    assert own["the_model_s_own"] is True
    assert own["at_size"] == {"largest": 0, "mean": 0, "changed_share": 0, "allowed": True}
    assert own["native"]["allowed"] is True
    assert own["images_per_second"] > 0
    rounded = found["torch", "bfloat16"]
    assert rounded["the_model_s_own"] is False
    assert 0 < rounded["native"]["changed_share"] < 1


def test_check_reads_a_folder_of_radiographs_and_passes_over_what_is_none(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "radiographs" / "deeper"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("no radiograph")
    levels = np.random.default_rng(0).integers(0, 256, (100, 90)).astype(np.uint8)
    Image.fromarray(levels).save(folder / "b.png")
    code, text = run("models", "check", str(model), "--images", str(tmp_path / "radiographs"))
    assert code == 0
    assert "images/s a core" in text
    assert "64, native" in text
    (folder / "b.png").unlink()
    assert run("models", "check", str(model), "--images", str(folder))[0] == 2
    assert run("models", "check", str(model), "--images", str(tmp_path / "absent"))[0] == 2


def test_check_fails_a_model_whose_own_precision_changes_too_much(tmp_path: Path) -> None:
    settings = ObfuscationSettings(kind="flow-field", features=2, image_size=64, mu=0.1, precision="bfloat16")
    save(tmp_path / "model", settings, weights())
    (tmp_path / "noise").mkdir()
    levels = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "noise" / "a.png")
    arguments = ("models", "check", str(tmp_path / "model"), "--images", str(tmp_path / "noise"), "--json")
    code, text = run(*arguments)
    own = next(facts for facts in json.loads(text) if facts["the_model_s_own"])
    assert own["at_size"]["largest"] > 1
    assert own["at_size"]["allowed"] is False
    assert code == 1


def test_recompute_registers_the_same_weights_as_a_version_of_its_own(model: Path) -> None:
    code, text = run("models", "recompute", str(model), "--engine", "openvino", "--precision", "bfloat16", "--json")
    assert code == 0
    made = json.loads(text)
    assert (made["model"], made["engine"], made["precision"], made["mu"]) == (
        "models:/prichexy-net/1",
        "openvino",
        "bfloat16",
        0.01,
    )
    code, text = run("models", "recompute", "models:/prichexy-net/1", "--engine", "torch", "--json")
    again = json.loads(text)
    assert (code, again["model"], again["precision"]) == (0, "models:/prichexy-net/2", "bfloat16")
    assert "engine" not in again
    assert again["fingerprint"] != made["fingerprint"]
    listed = json.loads(run("models", "list", "--json")[1])
    assert [(entry["model"], entry["aliases"]) for entry in listed] == [
        ("models:/prichexy-net/2", "staging"),
        ("models:/prichexy-net/1", ""),
    ]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((), "give --engine, --precision or both"),
        (("--precision", "float32"), "has this engine and precision already"),
        (("--engine", "winograd", "--precision", "bfloat16"), "winograd computes in float32 only"),
        (("--engine", "abacus"), "engine: Input should be 'torch', 'winograd', 'openvino' or 'cuda-graph'"),
    ],
)
def test_a_recomputation_that_is_none_is_refused(
    model: Path, given: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("models", "recompute", str(model), *given)[0] == 2
    assert sentence in capsys.readouterr().err
