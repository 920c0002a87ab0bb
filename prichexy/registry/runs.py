"""Training runs in MLflow: one for a pipeline, a child for each stage; a resumed run goes on in the same ones.

The step of a metric is its epoch, counted from 1. An epoch's metrics are sent in one request that holds the metric
``epoch`` too; an epoch that MLflow knows by it is never sent again.
"""

import math
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from prichexy.provenance import commit
from prichexy.registry.models import Registry, experiment

PARENT_TAG, COMMIT_TAG, DATA_TAG = "mlflow.parentRunId", "mlflow.source.git.commit", "prichexy.data"
EPOCH = "epoch"

_LONGEST_VALUE = 500
_MOST_PARAMS = 100  # of one request


def run_tags(fingerprint: str) -> dict[str, str]:
    """Tags of a run: the data of that fingerprint, and the code."""
    return {DATA_TAG: fingerprint, COMMIT_TAG: commit(), "prichexy.version": version("prichexy")}


class RunLog:
    """One run, to which epochs and figures are logged.

    Attributes:
        id: MLflow's.
    """

    def __init__(self, registry: Registry, run_id: str) -> None:
        self._registry = registry
        self.id = run_id
        self._logged: int | None = None

    @property
    def logged(self) -> int:
        """The last epoch that MLflow has; 0 for none.

        Raises:
            PrichexyError: MLflow can't be reached.
        """
        if self._logged is None:
            with self._registry.asked() as client:
                self._logged = max((found.step for found in client.get_metric_history(self.id, EPOCH)), default=0)
        return self._logged

    def log_epoch(self, epoch: int, metrics: Mapping[str, float], figure: tuple[str, bytes] | None = None) -> bool:
        """Log an epoch, unless MLflow has it.

        Args:
            epoch: from 1.
            metrics: by name; those that are not finite are left out.
            figure: file name and PNG of a picture, or None.

        Returns:
            Whether it was logged now.

        Raises:
            PrichexyError: MLflow can't be reached.
        """
        if epoch <= self.logged:
            return False
        if figure is not None:
            self._log_figure(*figure)  # first: the epoch counts as logged with its metrics
        self._log({**metrics, EPOCH: float(epoch)}, epoch)
        self._logged = epoch
        return True

    def log_result(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Log metrics of the finished run, such as those of held-out patients, unless MLflow has them."""
        with self._registry.asked() as client:
            known = client.get_run(self.id).data.metrics
        missing = {name: value for name, value in metrics.items() if name not in known}
        if missing:
            self._log(missing, epoch)

    def finish(self, failed: bool = False) -> None:
        """Say how it ended."""
        with self._registry.asked() as client:
            client.set_terminated(self.id, "FAILED" if failed else "FINISHED")

    def _log(self, metrics: Mapping[str, float], epoch: int) -> None:
        now = int(time.time() * 1000)
        with self._registry.asked() as client:
            client.log_batch(
                self.id, [Metric(name, value, now, epoch) for name, value in metrics.items() if math.isfinite(value)]
            )

    def _log_figure(self, name: str, png: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="prichexy-figure-") as folder, self._registry.asked() as client:
            file = Path(folder) / name
            file.write_bytes(png)
            client.log_artifact(self.id, str(file), "figures")


def open_run(
    registry: Registry,
    name: str,
    known: str | None,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    parent: RunLog | None = None,
) -> RunLog:
    """A run to log to: the one of an earlier attempt, or a new one.

    Args:
        registry: where.
        name: shown in MLflow's pages.
        known: id of the earlier attempt's run; one that this MLflow does not have, or that was deleted, is made anew.
        params: settings, for a new run.
        tags: for a new run.
        parent: the pipeline's run, for a stage's.

    Raises:
        PrichexyError: MLflow can't be reached.
    """
    with registry.asked() as client:
        if known is not None:
            try:
                if client.get_run(known).info.lifecycle_stage == "active":
                    client.update_run(known, status="RUNNING")
                    return RunLog(registry, known)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        every = {**tags, **({PARENT_TAG: parent.id} if parent else {})}
        run_id = client.create_run(experiment(client, registry.uri), run_name=name, tags=every).info.run_id
        values = [Param(key, str(value)[:_LONGEST_VALUE]) for key, value in params.items()]
        for start in range(0, len(values), _MOST_PARAMS):
            client.log_batch(run_id, params=values[start : start + _MOST_PARAMS])
    return RunLog(registry, run_id)
