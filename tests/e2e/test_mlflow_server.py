"""A real MLflow server, its artifacts on a real S3 server, as tracking and registry of a training."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from prichexy.registry import Registry
from tests.e2e.conftest import S3Server, free_ports, prichexy
from tests.training.phantom_table import TINY, phantom_table

pytestmark = pytest.mark.e2e


@pytest.fixture
def mlflow_server(s3: S3Server, tmp_path: Path) -> Iterator[str]:
    """An MLflow server with its own database, whose artifacts lie on the S3 server."""
    pytest.importorskip("boto3", reason="MLflow reaches S3 by boto3, which is in the dev extras")
    s3.client().mkdir("mlflow")
    (port,) = free_ports(1)
    database = f"sqlite:///{tmp_path}/server.db"
    words = ["server", "--backend-store-uri", database, "--artifacts-destination", "s3://mlflow/artifacts"]
    words += ["--serve-artifacts", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, **s3.environment(), "MLFLOW_S3_ENDPOINT_URL": s3.endpoint}
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words], env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            uri = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 180
            while not _answers(uri):
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline, "the MLflow server does not answer"
                time.sleep(0.5)
            yield uri
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


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
    stored = s3.client().find("mlflow/artifacts")
    assert sum(name.endswith("weights.safetensors") for name in stored) == 1
    assert sum(name.endswith("figures/epoch-00001.png") for name in stored) == 2
    with registry.asked() as client:
        assert client.get_run(summary["mlflow_run"]).info.status == "FINISHED"
