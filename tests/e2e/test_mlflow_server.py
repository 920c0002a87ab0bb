"""A real MLflow server, its artifacts on a real S3 server, as tracking and registry of a training."""

import json
from pathlib import Path

import pytest

from prichexy.registry import Registry
from tests.e2e.conftest import S3Server, prichexy
from tests.training.phantom_table import TINY, phantom_table

pytestmark = pytest.mark.e2e


def test_an_mlflow_server_with_artifacts_on_s3_keeps_runs_figures_and_model(
    mlflow_server: str, s3: S3Server, tmp_path: Path
) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(json.dumps(TINY))
    places = ["--table", phantom_table(tmp_path / "table"), "--out", str(tmp_path / "runs")]
    words = ["train", "generator", "--config", str(config), *places, "--tracking-uri", mlflow_server, "--json"]
    one_epoch = ["pretraining.epochs=1", "adversarial.epochs=1", "pairs.train=48", "figures=true"]
    done = prichexy(*words, *one_epoch, timeout=400)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    registry = Registry(mlflow_server)
    assert summary["model"] == "models:/prichexy-net/1"
    version = registry.fetch(summary["model"], tmp_path)
    assert (version.settings.mu, version.settings.image_size) == (0.05, 64)
    assert version.aliases == ("staging",)
    assert registry.find("models:/prichexy-net@staging").version == "1"
    stored = s3.client().find("mlflow/artifacts")
    assert sum(name.endswith("weights.safetensors") for name in stored) == 1
    assert sum(name.endswith("figures/epoch-00001.png") for name in stored) == 2
    with registry.asked() as client:
        assert client.get_run(summary["mlflow_run"]).info.status == "FINISHED"
