"""The whole audit of a small model, on phantoms."""

import json
import runpy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import typer
import yaml
from mlflow import MlflowClient
from pydantic import ValidationError
from typer.testing import CliRunner

from prichexy.audit.attackers.draws import anonymized
from prichexy.audit.comparison import compare, comparison_table
from prichexy.audit.job import Audited, audit
from prichexy.audit.material import gather
from prichexy.cli import app
from prichexy.cohort.table import open_table
from prichexy.config import AuditConfig, CompareConfig, StorageConfig
from prichexy.deid import create_secret_file
from prichexy.errors import UsageError
from prichexy.networks.classifier import Classifier
from prichexy.networks.coarse_appearance import CoarseAppearance
from prichexy.obfuscation import create_untrained, parse_settings, save, to_bytes
from prichexy.registry import Registry, read_audit
from prichexy.verdict import opened
from tests.training.phantom_table import phantom_table

pytestmark = pytest.mark.usefixtures("local_ray")

ROOT = Path(__file__).resolve().parents[2]

ROWS: list[dict[str, Any]] = [
    {"label": "originals", "obfuscation": {"kind": "identity", "image_size": 64}},
    {"label": "small", "model": "models:/small/1"},
]

SMALL: dict[str, Any] = {
    "seeds": 2,
    "resamples": 200,
    "pairs": {"train": 60, "validation": 24, "test": 80},
    "strength": (20,),
    "attackers": ("correlation-16", "linear-metric", "verifier-adaptive", "inversion"),
    "verifier": {"backbone": "tiny", "epochs": 1, "batch": 16, "learning_rate": 1e-3},
    "classifier": {"backbone": "tiny", "epochs": 1, "optimiser": "adam", "learning_rate": 1e-3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("audit")
    phantom_table(made / "table", patients=70, shares=(0.4, 0.2, 0.4))
    create_secret_file(made / "key")
    create_untrained("flow-field", made / "model", 0, {"features": 4, "mu": 0.02, "image_size": 64})
    Registry(tracking(made)).register(made / "model", "small", "untrained")
    return made


def tracking(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def config(folder: Path, **changes: Any) -> AuditConfig:
    places = {"table": str(folder / "table"), "out": str(folder / "out"), "secret_file": folder / "key"}
    given = {**SMALL, **places, "model": "models:/small/1", "tracking_uri": tracking(folder), **changes}
    return AuditConfig.model_validate(given)


def compared(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> CompareConfig:
    """Cheap attackers on some rows."""
    common = config(folder).model_dump(exclude={"model"})
    cheap = {"attackers": ("correlation-16", "linear-metric"), "strength": (), "seeds": 1}
    return CompareConfig.model_validate({**common, **cheap, "rows": rows, **changes})


@pytest.fixture(scope="module")
def audited(folder: Path, local_ray: None) -> Audited:
    return audit(config(folder))


def kept(done: Audited) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(done.place).rglob("*.npz")}


def test_each_attacker_ran_with_its_seeds_and_the_fusion_is_there(audited: Audited) -> None:
    seeds = {one.name: one.seeds for one in audited.record.attackers}
    assert seeds == {"correlation-16": 1, "linear-metric": 1, "verifier-adaptive": 2, "inversion": 1, "fusion": 2}
    assert [(point.attacker, point.training_pairs) for point in audited.record.strength] == [("verifier-adaptive", 20)]
    for one in audited.record.attackers:
        assert one.auc_low <= one.auc_mean <= one.auc_high, one.name
    by_name = {one.name: one for one in audited.record.attackers}
    assert by_name["linear-metric"].auc_mean > 0.6
    assert by_name["inversion"].details["inversion_psnr_db"] > by_name["inversion"].details["published_psnr_db"]


def test_an_audit_without_every_attacker_can_not_pass(audited: Audited) -> None:
    assert not audited.record.verdict.passed
    assert any("left out" in reason for reason in audited.record.verdict.reasons)


def test_the_record_is_sealed_beside_its_report_and_stored_with_the_model(folder: Path, audited: Audited) -> None:
    secret = (folder / "key").read_bytes()
    assert opened((Path(audited.place) / "audit.json").read_bytes(), secret) == audited.record
    registry = Registry(tracking(folder))
    assert read_audit(registry, registry.find("models:/small/1"), secret) == audited.record
    page = Path(audited.report).read_text()
    assert "fusion" in page
    assert str(folder) not in page


def test_the_same_seeds_give_the_same_figures(folder: Path, audited: Audited) -> None:
    again = audit(config(folder, out=str(folder / "again")))
    assert again.record.attackers == audited.record.attackers
    assert again.record.utility == audited.record.utility
    assert again.record.strength == audited.record.strength


def test_kept_runs_are_not_run_again(folder: Path, audited: Audited) -> None:
    before = kept(audited)
    lost = next(path for path in Path(audited.place).rglob("verifier-adaptive-seed-43.npz"))
    figures = lost.read_bytes()
    lost.unlink()
    again = audit(config(folder))
    assert again.record.attackers == audited.record.attackers
    assert lost.read_bytes() == figures
    after = kept(again)
    assert {name for name in before if before[name] != after[name]} == {"verifier-adaptive-seed-43.npz"}


def test_a_comparison_has_a_row_for_each_model_and_one_page(folder: Path, audited: Audited) -> None:
    rows, page = compare(compared(folder, ROWS))
    assert [row["label"] for row in rows] == ["originals", "small"]
    assert rows[0]["ssim"] == pytest.approx(1)
    assert rows[0]["utility_loss"] == 0
    assert rows[0]["attackers"].keys() == {"correlation-16", "linear-metric", "fusion"}
    assert rows[1]["displacement_max_px"] > 0
    assert "originals" in Path(page).read_text()
    assert json.loads((folder / "out" / "comparison.json").read_text()) == rows


def test_a_sweep_has_a_row_and_a_run_in_mlflow_for_each_combination(folder: Path, tmp_path: Path) -> None:
    sweep = {"label": "DP-Pix", "obfuscation": {"kind": "dp-pix", "image_size": 64}, "over": {"cell": (4, 8)}}
    asked = compared(folder, [sweep], out=str(tmp_path), tracking_uri=tracking(tmp_path))
    rows, _ = compare(asked)
    assert [row["label"] for row in rows] == ["DP-Pix, cell 4", "DP-Pix, cell 8"]
    assert rows[0]["ssim"] != rows[1]["ssim"]
    compare(asked)
    client = MlflowClient(tracking(tmp_path))
    runs = client.search_runs(["0", *(one.experiment_id for one in client.search_experiments())])
    found = {run.data.tags["mlflow.runName"]: run for run in runs}
    assert len(runs) == 2, "made again, a comparison goes on in the same runs"
    assert found.keys() == {"compare: DP-Pix, cell 4", "compare: DP-Pix, cell 8"}
    for row in rows:
        run = found[f"compare: {row['label']}"]
        assert run.info.status == "FINISHED"
        assert run.data.params["cell"] == row["label"][-1]
        assert run.data.metrics["strongest_auc"] == pytest.approx(row["strongest_auc"])
        assert run.data.metrics["utility_loss"] == pytest.approx(row["utility_loss"])
        assert run.data.metrics["attackers/linear-metric"] == pytest.approx(row["attackers"]["linear-metric"])
    compare(asked.model_copy(update={"attackers": ("correlation-16",)}))
    latest = client.search_runs([run.info.experiment_id for run in runs[:1]])
    assert len(latest) == 4, "another outcome is another run"
    assert sorted("attackers/linear-metric" in run.data.metrics for run in latest) == [False, False, True, True]
    drawing = ElementTree.fromstring((tmp_path / "comparison.svg").read_text())
    assert drawing.tag.endswith("svg")
    assert "DP-Pix, cell 8" in "".join(drawing.itertext())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"over": {"kind": ("dp-pix",)}}, "kind stands both in obfuscation and in over"),
        ({"over": {"cell": ()}}, "over has no value for cell"),
        ({"over": {"cell": (4, 4)}}, "each row needs a label of its own"),
        ({"over": {"cell": (4,)}, "obfuscation": None, "model": "models:/small/1"}, "over is for an obfuscation"),
    ],
)
def test_a_sweep_that_can_not_be_is_refused(folder: Path, changed: dict[str, Any], words: str) -> None:
    row = {"label": "DP-Pix", "obfuscation": {"kind": "dp-pix", "image_size": 64}, **changed}
    with pytest.raises(ValidationError, match=words):
        compared(folder, [row])


def test_a_comparison_leaves_the_record_and_the_runs_of_an_audit_as_they_are(folder: Path, audited: Audited) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(audited.place).rglob("*") if path.is_file()}
    rows, _ = compare(compared(folder, ROWS[1:]))
    assert rows[0]["attackers"].items() >= {
        (one.name, one.auc_mean) for one in audited.record.attackers if one.name in ("correlation-16", "linear-metric")
    }
    after = {path: path.stat().st_mtime_ns for path in Path(audited.place).rglob("*") if path.is_file()}
    assert {path: after[path] for path in before if "compared" not in path.parts} == {
        path: then for path, then in before.items() if "compared" not in path.parts
    }
    assert (Path(audited.place) / "compared" / "report.html").exists()


def test_without_classifiers_a_comparison_has_no_utility_and_no_row_passes(folder: Path, tmp_path: Path) -> None:
    lenient = {"strongest_auc": 1, "strongest_upper": 1, "utility_loss": 1, "folded_share": 1}
    settings = compared(folder, ROWS[1:], out=str(tmp_path), utility=False, attackers=None, seeds=1, thresholds=lenient)
    rows, page = compare(settings)
    assert {rows[0][name] for name in ("utility", "utility_loss", "unseen_loss", "retrained_on_anonymized")} == {None}
    assert rows[0]["ssim"] < 1
    assert rows[0]["displacement_max_px"] > 0
    assert rows[0]["passed"] is False
    assert "Utility was not measured, or could not be, for: small." in Path(page).read_text()
    titles = [column.header for column in comparison_table(rows).columns]
    assert titles == ["model", "strongest attacker", "its AUC", "95 %", "max", "SSIM"]


def test_a_second_classifier_is_asked_where_the_model_had_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    own = Classifier("tiny").eval()
    monkeypatch.setattr("prichexy.audit.job.critics", lambda *_: (None, own))
    rows, page = compare(compared(folder, ROWS, out=str(tmp_path)))
    record = opened(next(tmp_path.rglob("audit.json")).read_bytes(), (folder / "key").read_bytes())
    assert record.utility.unseen is not None
    assert record.utility.unseen.mean_original != record.utility.mean_original
    assert rows[0]["unseen_loss"] == rows[0]["utility_loss"] == 0
    assert rows[1]["unseen_loss"] != rows[1]["utility_loss"]
    assert len(list((tmp_path / "classifiers").iterdir())) == 1, "one for all rows"
    assert "change, another classifier" in Path(page).read_text()
    assert "unseen loss" in [column.header for column in comparison_table(rows).columns]


def test_the_job_compares_as_its_configuration_says(folder: Path) -> None:
    settings = compared(folder, ROWS).model_dump(mode="json", exclude={"seeds"})
    (folder / "compare.yaml").write_text(yaml.safe_dump(settings))
    job = typer.Typer()
    job.command()(runpy.run_path(str(ROOT / "jobs" / "audit.py"))["main"])
    told = CliRunner().invoke(job, ["--compare", "--config", str(folder / "compare.yaml"), "seeds=1", "--json"])
    assert told.exit_code == 0, told.output
    printed = json.loads(told.stdout)
    assert [row["label"] for row in printed["rows"]] == ["originals", "small"]
    assert printed["report"] == f"{folder}/out/comparison.html"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attackers": ("telepathy",)}, "there is no telepathy"),
        ({"secret_file": None}, "no project secret"),
        ({"table": "absent"}, "no finished training table"),
        ({"training_run": "absent"}, "no trained verifier in absent"),
        ({"model": "models:/absent/1"}, "there is no models:/absent/1"),
    ],
)
def test_mistakes_are_told_in_one_sentence(folder: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        audit(config(folder, **changes))


def test_the_evidence_knows_the_keys_that_its_images_were_published_with(folder: Path, tmp_path: Path) -> None:
    create_untrained("dp-pix", tmp_path / "model", 0, {"cell": 4, "image_size": 64})
    settings, table = config(folder), open_table(str(folder / "table"), StorageConfig())
    classifier = Classifier("tiny")

    given = gather(settings, table, to_bytes(tmp_path / "model"), classifier=classifier).evidence

    model = given.obfuscator
    assert model is not None
    assert model.keyed
    for split in (given.train, given.validation, given.test):
        assert split.seeds_N is not None
        assert len(np.unique(split.seeds_N)) == len(split)
        assert np.array_equal(anonymized(model, split.originals_NHW, split.seeds_N), split.anonymized_NHW)
    assert given.classifier is classifier
    assert given.native is False


def test_a_multi_scale_field_model_is_audited_like_any_other(folder: Path, tmp_path: Path) -> None:
    given = {"kind": "multi-scale-field", "backbone": "tiny", "image_size": 64, "coarse_px": 0, "kept": 0}
    model = parse_settings({**given, "fields_px": (6, 3, 1)})
    save(tmp_path / "model", model, CoarseAppearance("tiny", 0, 64).state_dict())
    attackers = ("correlation-16", "inversion")
    done = audit(config(folder, model=str(tmp_path / "model"), out=str(tmp_path / "out"), attackers=attackers))
    record = opened((Path(done.place) / "audit.json").read_bytes(), (folder / "key").read_bytes())
    assert record == done.record
    assert record.model.settings["fields_px"] == (6, 3, 1)
    inversion = next(one for one in record.attackers if one.name == "inversion")
    assert inversion.details["with_key_psnr_db"] > inversion.details["inversion_psnr_db"]
    assert record.utility.folded_share == 0
    assert 0.5 < (record.utility.displacement_max_px or 0) <= 10 * 64 / 256
    assert "fields px" in Path(done.report).read_text()


def test_where_validation_patients_judge_no_test_patient_is_looked_at(folder: Path, tmp_path: Path) -> None:
    create_untrained("identity", tmp_path / "model", 0, {"image_size": 64})
    table = open_table(phantom_table(tmp_path / "table", patients=80, shares=(0.4, 0.4, 0.2)), StorageConfig())
    evidence = gather(config(folder), table, to_bytes(tmp_path / "model"), judges="validation").evidence
    patients = {name: set(getattr(evidence, name).patients_N) for name in ("train", "validation", "test")}
    of_table = {name: set(table.split(name).patients) for name in ("train", "validation", "test")}
    assert patients["test"] == of_table["validation"]
    assert patients["train"] | patients["validation"] == of_table["train"]
    assert not patients["train"] & patients["validation"]
    assert len(patients["validation"]) == len(of_table["train"]) // 7


def test_too_few_patients_for_an_interval_are_refused(folder: Path, tmp_path: Path) -> None:
    small = phantom_table(tmp_path / "table", patients=30, shares=(0.5, 0.2, 0.3))
    with pytest.raises(UsageError, match="an interval needs at least 20"):
        audit(config(folder, table=small, out=str(tmp_path / "out")))


def test_larger_images_than_the_models_are_audited_at_their_own_resolution(folder: Path, tmp_path: Path) -> None:
    large = phantom_table(tmp_path / "table", patients=70, size=96, shares=(0.3, 0.2, 0.5))
    done = audit(config(folder, table=large, out=str(tmp_path / "out"), attackers=("correlation-16",), strength=()))
    assert done.record.resolution == "native"
    assert done.record.data.image_size == 64
    assert done.record.utility.ssim < 1
    given = gather(config(folder), open_table(large, StorageConfig()), to_bytes(folder / "model")).evidence
    assert given.native is True


def test_the_command_prints_the_verdict_and_exits_with_1_when_it_is_no(folder: Path, audited: Audited) -> None:
    settings = {**SMALL, "table": str(folder / "table"), "out": str(folder / "out"), "tracking_uri": tracking(folder)}
    (folder / "audit.yaml").write_text(json.dumps(settings))
    words = ["audit", "models:/small/1", "--config", str(folder / "audit.yaml"), "--secret-file", str(folder / "key")]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 1
    assert "verdict: FAILED" in told.output
    assert "linear-metric" in told.output
    printed = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert printed["verdict"]["passed"] is False
    assert printed["attackers"][0]["name"] == "correlation-16"
    assert printed["stored"] is True


def test_the_attackers_are_listed() -> None:
    told = CliRunner().invoke(app, ["audit", "--list"])
    assert told.exit_code == 0
    for name in ("correlation-16-less-mean", "verifier-adaptive", "inversion", "fusion"):
        assert name in told.output
