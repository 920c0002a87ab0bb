import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prichexy.errors import UsageError
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.obfuscation.model_files import (
    build,
    fingerprint,
    fingerprint_of,
    from_bytes,
    load,
    read,
    save,
    to_bytes,
)
from prichexy.obfuscation.settings import ObfuscationSettings

SETTINGS = ObfuscationSettings(kind="flow-field", mu=0.05, features=2, image_size=64)
IMAGES = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
SEEDS = torch.tensor([1, 2])


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return FlowFieldGenerator(features=2).state_dict()


def test_a_saved_model_gives_the_same_images(state: dict[str, Tensor], tmp_path: Path) -> None:
    save(tmp_path / "model", SETTINGS, state)
    expected = build(SETTINGS, state)(IMAGES, SEEDS)
    assert not torch.equal(expected, IMAGES)
    loaded = load(tmp_path / "model")
    assert loaded.settings == SETTINGS
    assert torch.equal(loaded(IMAGES, SEEDS), expected)
    sent = from_bytes(to_bytes(tmp_path / "model"))
    assert sent.settings == SETTINGS
    assert torch.equal(sent(IMAGES, SEEDS), expected)


@pytest.mark.parametrize("kind", ["dp-pix", "identity"])
def test_kinds_without_a_network_have_no_weights_file(kind: str, tmp_path: Path) -> None:
    settings = ObfuscationSettings.model_validate({"kind": kind, "image_size": 64})
    save(tmp_path, settings)
    assert [path.name for path in tmp_path.iterdir()] == ["obfuscation.json"]
    for obfuscate in (load(tmp_path), from_bytes(to_bytes(tmp_path))):
        assert torch.equal(obfuscate(IMAGES, SEEDS), build(settings)(IMAGES, SEEDS))


def test_a_model_saved_over_another_leaves_nothing_of_it(state: dict[str, Tensor], tmp_path: Path) -> None:
    save(tmp_path, SETTINGS, state)
    save(tmp_path, ObfuscationSettings(kind="identity"))
    assert [path.name for path in tmp_path.iterdir()] == ["obfuscation.json"]
    assert read(tmp_path)[1] == {}


def test_the_fingerprint_says_which_settings_and_weights(state: dict[str, Tensor], tmp_path: Path) -> None:
    save(tmp_path, SETTINGS, state)
    known = fingerprint(tmp_path)
    assert len(known) == 64
    reordered = dict(reversed(list(state.items())))
    assert fingerprint_of(SETTINGS, reordered) == known
    changed = {**state, "conv.bias": state["conv.bias"] + 1e-7}
    other_mu, other_operator = (SETTINGS.model_copy(update=u) for u in ({"mu": 0.01}, {"operator": "reference"}))
    prints = {
        known,
        fingerprint_of(SETTINGS, changed),
        fingerprint_of(other_mu, state),
        fingerprint_of(other_operator, state),
        fingerprint_of(SETTINGS),
    }
    assert len(prints) == 5


def test_settings_and_weights_that_do_not_fit_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="shape"):
        save(tmp_path / "model", SETTINGS.model_copy(update={"features": 3}), state)
    assert not (tmp_path / "model").exists()
    with pytest.raises(UsageError, match="'flow-field' model needs weights"):
        build(SETTINGS)
    with pytest.raises(UsageError, match="'identity' model has no network"):
        build(ObfuscationSettings(kind="identity"), state)


def test_damaged_folders_are_refused_in_one_sentence(state: dict[str, Tensor], tmp_path: Path) -> None:
    def refusal(match: str) -> None:
        with pytest.raises(UsageError, match=match) as error:
            load(tmp_path / "model")
        assert str(tmp_path) not in str(error.value)

    refusal("no readable obfuscation.json")
    save(tmp_path / "model", SETTINGS, state)
    settings_file = tmp_path / "model" / "obfuscation.json"
    record = json.loads(settings_file.read_text())
    assert record["format"] == 1
    settings_file.write_text(json.dumps({**record, "format": 2}))
    refusal("format must be 1")
    settings_file.write_text(json.dumps({**record, "mu": 5}))
    refusal("mu: Input should be less than or equal to 0.1")
    settings_file.write_text("[]")
    refusal("no JSON object")
    settings_file.write_text(json.dumps(record))
    (tmp_path / "model" / "weights.safetensors").unlink()
    refusal("weights file can't be opened")


def test_an_unwritable_destination_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can't be written"):
        save(tmp_path / "file" / "model", ObfuscationSettings(kind="identity"))


def test_other_bytes_are_refused() -> None:
    with pytest.raises(UsageError, match="no whole safetensors"):
        from_bytes(b"something else")
