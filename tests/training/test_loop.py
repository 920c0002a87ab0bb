"""A whole training on a local Ray: from a table to a registered model, and what is refused before a worker starts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from prichexy.config import TrainConfig, load
from prichexy.errors import PrichexyError, UsageError
from prichexy.obfuscation import load as load_model
from prichexy.obfuscation import read
from prichexy.registry import Registry
from prichexy.training import loop
from prichexy.training.loop import TrainedSummary, train
from tests.training.phantom_table import TINY, phantom_table

MULTI_SCALE = {"kind": "multi-scale-field"}

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return phantom_table(tmp_path_factory.mktemp("table") / "table")


def configured(place: str, folder: Path, **changes: Any) -> TrainConfig:
    places = {"table": place, "storage_path": str(folder / "runs"), "tracking_uri": f"sqlite:///{folder}/mlflow.db"}
    return TrainConfig.model_validate({**places, **TINY, **changes})


@pytest.fixture(scope="module")
def trained(table: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, TrainedSummary]:
    """Pretraining and adversarial training, with figures, by two workers."""
    folder = tmp_path_factory.mktemp("trained")
    config = configured(table, folder, stage="generator", figures=True, figure_every=2, compute={"workers": 2})
    return config, train(config)


def child_runs(config: TrainConfig, parent: str) -> dict[str, Any]:
    with Registry(config.tracking_uri).asked() as client:
        experiment = client.get_run(parent).info.experiment_id
        found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    return {run.info.run_name: run for run in found}


def test_each_stage_is_a_child_run_with_every_epoch_once(trained: tuple[TrainConfig, TrainedSummary]) -> None:
    config, summary = trained
    children = child_runs(config, summary.mlflow_run)
    assert set(children) == {"pretraining", "adversarial"}
    with Registry(config.tracking_uri).asked() as client:
        pipeline = client.get_run(summary.mlflow_run)
        for name, run in children.items():
            for metric in (
                "epoch",
                "data_wait_share",
                "images_per_second",
                *(["validation/total"] * (name == "adversarial")),
            ):
                assert [found.step for found in client.get_metric_history(run.info.run_id, metric)] == [1, 2], metric
            pictures = sorted(file.path for file in client.list_artifacts(run.info.run_id, "figures"))
            assert pictures == ["figures/epoch-00001.png", "figures/epoch-00002.png"]
            assert run.info.status == "FINISHED"
    assert pipeline.info.status == "FINISHED"
    assert pipeline.data.params["table.size"] == "64"
    tags = children["adversarial"].data.tags
    table_facts = json.loads((Path(config.table) / "_table.json").read_text())
    assert tags["prichexy.data"] == table_facts["fingerprint"]
    assert len(tags["mlflow.source.git.commit"]) in (40, len("unknown"))
    parameters = children["adversarial"].data.params
    assert (parameters["generator.mu"], parameters["adversarial.batch"], parameters["pairs.train"]) == (
        "0.05",
        "16",
        "64",
    )
    assert (
        children["adversarial"].data.metrics["test/verifier_auc"] == summary.stages["adversarial"]["test/verifier_auc"]
    )


def test_the_registered_model_obfuscates(trained: tuple[TrainConfig, TrainedSummary], tmp_path: Path) -> None:
    config, summary = trained
    assert summary.model == "models:/prichexy-net/1"
    version = Registry(config.tracking_uri).fetch(summary.model, tmp_path)
    recorded = {"kind": "flow-field", "mu": 0.05, "operator": "corrected", "features": 4, "image_size": 64}
    assert version.settings.recorded() == {**recorded, "precision": "float32"}
    image = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    made = load_model(version.folder)(image, torch.zeros(1, dtype=torch.int64))
    assert made.shape == image.shape
    assert 0 < float((made - image).abs().max()) <= 0.05 / 2 + 1e-4  # mu half widths of a ramp of two half widths


@pytest.mark.timeout(1200)  # two trainings of two workers each, which import torch
def test_a_multi_scale_field_learns_in_a_run_of_its_own_stage_and_is_registered(table: str, tmp_path: Path) -> None:
    classifier = {**TINY["classifier"], "epochs": 1}  # type: ignore[dict-item]
    shared = {"classifier": classifier, "figures": True, "compute": {"workers": 2}}
    train(configured(table, tmp_path, stage="classifier", **shared))
    generator = {"kind": "multi-scale-field", "kept": 1, "detail": 0.5, "fields_px": [6, 3, 1]}
    config = configured(table, tmp_path, stage="generator", generator=generator, **shared)
    summary = train(config)
    assert set(summary.stages) == {"multi_scale"}
    assert summary.stages["multi_scale"]["best_epoch"] == 2  # the last, which is what is registered
    assert 0 <= summary.stages["multi_scale"]["test/strongest_auc"] <= 1
    run = child_runs(config, summary.mlflow_run)["multi_scale"]
    assert {"train/critic_1_auc", "validation/correlation_auc", "validation/classifier_auc"} <= set(run.data.metrics)
    assert run.data.params["multi_scale.critics"] == "['tiny-narrow']"
    assert len(list(tmp_path.rglob("epoch-00001.png"))) >= 1
    version = Registry(config.tracking_uri).fetch(str(summary.model), tmp_path / "fetched")
    assert version.aliases == ("staging",)
    recorded = version.settings.recorded()
    assert (recorded["kind"], recorded["backbone"], recorded["kept"]) == ("multi-scale-field", "tiny", 1)
    learned = read(version.folder)[1]["shares"].tolist()
    assert len(set(learned)) > 1
    assert max(abs(share - 0.5) for share in learned) < 0.1
    assert train(config) == summary


def test_the_same_command_again_changes_nothing(trained: tuple[TrainConfig, TrainedSummary]) -> None:
    config, summary = trained
    registry = Registry(config.tracking_uri)
    assert registry.find("models:/prichexy-net@staging").version == "1"
    with registry.asked() as client:  # as a promotion does
        client.set_registered_model_alias("prichexy-net", "champion", "1")
        client.delete_registered_model_alias("prichexy-net", "staging")
    assert train(config) == summary
    assert len(child_runs(config, summary.mlflow_run)) == 2
    assert registry.find("models:/prichexy-net/1").aliases == ("champion",)


def test_a_run_with_other_settings_is_refused(trained: tuple[TrainConfig, TrainedSummary]) -> None:
    config, _ = trained
    with pytest.raises(
        UsageError, match=r"pretraining stage of run 'train' was begun with another seed: choose another"
    ):
        train(config.model_copy(update={"seed": 6}))


def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(table: str, tmp_path: Path) -> None:
    verifier = {**TINY["verifier"], "learning_rate": 1e30}  # type: ignore[dict-item]
    config = configured(table, tmp_path, stage="verifier", verifier=verifier)
    with pytest.raises(PrichexyError) as caught:
        train(config)
    assert caught.value.exit_code == 1
    sentence = str(caught.value)
    assert "the verifier loss is not finite at step" in sentence
    assert "(learning rate 1e+30)" in sentence
    assert sentence.endswith("there is no checkpoint yet")


def never(*_: object) -> None:
    raise AssertionError("a worker was started")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"compute": {"workers": 2, "threads": 64}}, "compute.workers x compute.threads is 128"),
        ({"compute": {"gpu": True}}, "compute.gpu asks for 1 GPUs, but this machine has 0"),
        ({"generator": {"kind": "privacy-net", "mu": 0.01}}, "mu: not a setting of kind 'privacy-net'"),
        ({"verifier": {"weights": "absent.pth"}}, "the checkpoint file can't be opened"),
        ({"generator": MULTI_SCALE | {"fields_px": (17, 0, 0)}}, "fields_px: from 0 to 16, 6, 2, in order"),
        (
            {"generator": MULTI_SCALE, "multi_scale": {"check_weights": "absent.pt"}},
            "the checkpoint file can't be opened",
        ),
        (
            {"generator": MULTI_SCALE, "multi_scale": {"judge_weights": ["absent.pt"]}},
            "the checkpoint file can't be opened",
        ),
        ({"generator": MULTI_SCALE, "stage": "generator"}, "multi-scale-field needs a trained classifier"),
        ({"pairs": {"train_list": "absent.txt"}}, "setting pairs.train_list: there is no such file"),
        ({"table": "absent"}, "there is no finished training table at absent"),
    ],
)
def test_what_cannot_work_is_refused_before_a_worker_starts(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], sentence: str
) -> None:
    monkeypatch.setattr(loop, "fit", never)
    config = configured(table, tmp_path, **changes)
    with pytest.raises(UsageError) as caught:
        train(config)
    assert sentence in str(caught.value)


def test_more_workers_than_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "fit", never)
    table = phantom_table(tmp_path / "table", patients=12)
    with pytest.raises(UsageError, match=r"the validation split has \d+ images for 16 workers: use at most"):
        train(configured(table, tmp_path, compute={"workers": 16}))


def test_a_table_without_same_patient_pairs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "fit", never)
    table = Path(phantom_table(tmp_path / "table", patients=12))
    monkeypatch.setattr("prichexy.cohort.table.same_patient_pairs", lambda patients: 0)
    with pytest.raises(UsageError, match="there is no same-patient pair: no patient of the train split has two images"):
        train(configured(str(table), tmp_path, stage="verifier"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["compute.workers=3"], "classifier.batch must be a multiple of compute.workers"),
        (["compute.sync_batchnorm=true"], "sync_batchnorm needs gpu"),
        (["stage=attacker"], "setting stage: Input should be"),
        (["run=a/b"], "setting run:"),
        (["adversarial.batch=1"], "setting adversarial.batch:"),
        (
            ["generator.kind=multi-scale-field", "multi_scale.batch=5", "compute.workers=2"],
            "multi_scale.batch must be a",
        ),
        (["multi_scale.critics=[huge]"], "setting multi_scale.critics.0: Input should be 'tiny-narrow'"),
        (["multi_scale.critics=[]"], "setting multi_scale.critics:"),
        (["multi_scale.restart_every=0"], "setting multi_scale.restart_every:"),
        (
            ["generator.kind=multi-scale-field", "generator.weights=a.pt"],
            "multi-scale-field starts from what is fitted",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(TrainConfig, None, overrides, table="t", storage_path="r")
    assert sentence in str(caught.value)


def test_no_image_enters_mlflow_unless_the_settings_say_so(table: str, tmp_path: Path) -> None:
    pretraining = {**TINY["pretraining"], "epochs": 1}  # type: ignore[dict-item]
    adversarial = {**TINY["adversarial"], "epochs": 1}  # type: ignore[dict-item]
    config = configured(table, tmp_path, stage="generator", pretraining=pretraining, adversarial=adversarial)
    train(config)
    assert not list(tmp_path.rglob("*.png"))
    pixels = pq.read_table(next(Path(table).glob("data/train-*.parquet")))["pixels"][0].as_py()
    assert len(np.frombuffer(pixels, np.uint8)) == 64 * 64
    for file in (tmp_path / "mlartifacts").rglob("*"):
        assert not file.is_file() or pixels not in file.read_bytes()
