"""Training survives what happens to long jobs: a killed worker and a killed driver."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prichexy.lake.storage import Store
from prichexy.registry import Registry
from prichexy.training.checkpoints import Checkpoints
from tests.training.phantom_table import TINY, phantom_table

pytestmark = pytest.mark.e2e
BIN = Path(sys.executable).parent
EPOCHS = 8
Outcome = tuple[list[dict[str, float]], dict[str, float]]
TIMINGS = ("images_per_second", "train_seconds", "data_wait_share")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return phantom_table(tmp_path_factory.mktemp("table") / "table", patients=80)


def command(table: str, folder: Path, tracking_uri: str | None = None, epochs: int = EPOCHS) -> list[str]:
    """A training of the verifier whose epochs take seconds, so that a kill meets one in its middle."""
    config = {**TINY, "verifier": {**TINY["verifier"], "epochs": epochs}, "pairs": {"train": 2000, "validation": 24}}  # type: ignore[dict-item]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.yaml").write_text(json.dumps(config))
    places = ["--table", table, "--out", str(folder / "runs"), "--tracking-uri", tracking_uri or tracking(folder)]
    words = ["train", "verifier", "--config", str(folder / "train.yaml"), *places, "--json", "pairs.per_patient=100"]
    return [str(BIN / "prichexy"), *words]


def tracking(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(Store(str(folder / "runs" / "train" / "verifier")))


def outcome(folder: Path) -> Outcome:
    """Every epoch's losses and AUCs, and those of the held-out patients."""
    found = checkpoints(folder)
    history = [{name: value for name, value in entry.items() if name not in TIMINGS} for entry in found.read_history()]
    return history, found.read_test()


def logged_steps(folder: Path) -> dict[str, list[list[int]]]:
    """The steps of some metrics, a list for each run of the stage."""
    with Registry(tracking(folder)).asked() as client:
        experiments = [found.experiment_id for found in client.search_experiments()]
        runs = [run for run in client.search_runs(experiments) if run.info.run_name == "verifier"]
        return {
            metric: [[found.step for found in client.get_metric_history(run.info.run_id, metric)] for run in runs]
            for metric in ("epoch", "validation/auc", "images_per_second")
        }


@pytest.fixture(scope="module")
def undisturbed(
    table: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, float]], dict[str, float]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(table, folder), check=True, capture_output=True, timeout=300)
    return outcome(folder)


def wait_for(condition: Callable[[], Any], seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def train_workers(of: int) -> list[int]:
    """Processes of Ray Train's workers that descend from a driver."""
    table = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = status.read_text().rpartition(")")[2].split()
            table[int(status.parent.name)] = (int(words[1]), (status.parent / "cmdline").read_bytes())
        except (OSError, IndexError):
            continue

    def descends(process: int) -> bool:
        while process in table and process != of:
            process = table[process][0]
        return process == of

    return [process for process, (_, name) in table.items() if b"RayTrainWorker" in name and descends(process)]


def approximately(found: Outcome, expected: Outcome) -> None:
    (history, tested), (expected_history, expected_tested) = found, expected
    assert [entry["epoch"] for entry in history] == list(range(1, EPOCHS + 1))
    for entry, wanted in zip(history, expected_history, strict=True):
        assert entry == pytest.approx(wanted, rel=1e-6)
    assert tested == pytest.approx(expected_tested, rel=1e-6)


def test_a_killed_worker_is_replaced_and_changes_nothing(table: str, undisturbed: Outcome, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command(table, tmp_path), stdout=log, stderr=log, start_new_session=True)
        wait_for(lambda: len(checkpoints(tmp_path).epochs()) > 1)
        (worker,) = train_workers(driver.pid)
        time.sleep(0.3)  # into the next epoch
        reached = checkpoints(tmp_path).epochs()[0]
        os.kill(worker, signal.SIGKILL)
        assert driver.wait(timeout=300) == 0, (tmp_path / "log").read_text()
    assert reached < EPOCHS
    assert "workers were lost" in (tmp_path / "log").read_text()
    approximately(outcome(tmp_path), undisturbed)
    once = [list(range(1, EPOCHS + 1))]
    assert logged_steps(tmp_path) == {"epoch": once, "validation/auc": once, "images_per_second": once}


def test_a_killed_driver_goes_on_in_the_same_mlflow_run(table: str, undisturbed: Outcome, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command(table, tmp_path), stdout=log, stderr=log, start_new_session=True)
        wait_for(lambda: len(checkpoints(tmp_path).epochs()) > 1)
        time.sleep(0.3)  # into the next epoch
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    reached = checkpoints(tmp_path).epochs()[0]
    assert 2 <= reached < EPOCHS
    again = subprocess.run(command(table, tmp_path), capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    told = re.search(r"verifier: goes on after epoch (\d+)", again.stderr)
    assert told, again.stderr
    assert reached <= int(told[1]) <= EPOCHS  # a worker may end its epoch before it notices that the driver is gone
    approximately(outcome(tmp_path), undisturbed)
    once = [list(range(1, EPOCHS + 1))]
    assert logged_steps(tmp_path) == {"epoch": once, "validation/auc": once, "images_per_second": once}
