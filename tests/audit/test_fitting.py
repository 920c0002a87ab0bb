"""multi-scale-field models fitted to a table: for a comparison's row, and at the prompt."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prichexy.audit.comparison import row_model
from prichexy.audit.fitting import fit_to_table
from prichexy.config import AuditSettings
from prichexy.config.audit import ComparedModel
from prichexy.errors import UsageError
from prichexy.networks.classifier import Classifier
from prichexy.obfuscation import load
from prichexy.registry import Registry
from tests.test_cli import run
from tests.training.phantom_table import phantom_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fitting")
    phantom_table(made / "table", patients=10)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        save_file(Classifier("densenet121").state_dict(), made / "classifier.safetensors")
    return made


def settings(folder: Path, **changes: object) -> AuditSettings:
    given = {"table": str(folder / "table"), "classifier_weights": folder / "classifier.safetensors", **changes}
    return AuditSettings.model_validate(given)


def test_a_row_of_a_comparison_is_fitted_to_its_table(folder: Path, tmp_path: Path) -> None:
    obfuscation = {"kind": "multi-scale-field", "kept": 1, "fields_px": [6, 3, 1]}
    row = ComparedModel.model_validate({"label": "fields", "obfuscation": obfuscation})
    model = row_model(row, settings(folder), Registry(f"sqlite:///{tmp_path}/mlflow.db"), tmp_path)
    assert model.settings.image_size == 64
    assert model.settings.backbone == "densenet121"
    assert model.settings.fields_px == (6, 3, 1)
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    published = load(model.folder)(images, torch.tensor([1, 2]))
    assert published.shape == images.shape
    assert (published - images).abs().mean() > 0.01


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({"classifier_weights": None}, {}, "give training_run or classifier_weights"),
        ({}, {"image_size": 128}, "setting image_size: the table's images are 64 pixels wide"),
        ({}, {"backbone": "tiny"}, "setting backbone: the classifier's is densenet121"),
        ({}, {"kept": 99}, "obfuscation setting kept"),
    ],
)
def test_what_can_not_be_fitted_is_refused(
    folder: Path, tmp_path: Path, changes: dict[str, object], given: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fit_to_table(settings(folder, **changes), given, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_command_registers_what_it_fitted(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = ["--table", str(folder / "table"), "--classifier-weights", str(folder / "classifier.safetensors")]
    code, text = run("models", "fit", *places, "kept=0", "detail=0.5", "--name", "fields", "--json")
    assert code == 0
    facts = json.loads(text)
    assert (facts["model"], facts["kind"], facts["detail"]) == ("models:/fields/1", "multi-scale-field", 0.5)
    code, text = run("models", "list", "--json")
    assert [model["kind"] for model in json.loads(text)] == ["multi-scale-field"]
