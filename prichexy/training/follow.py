"""What the driver tells of a stage that runs: a line an epoch, and MLflow, both from the stage's stored history.

The history is what a resumed run goes on with, so what is logged from it is logged once, whoever was killed when.
"""

import logging
import threading
from types import TracebackType
from typing import Self

from prichexy.errors import PrichexyError
from prichexy.registry import RunLog
from prichexy.training.checkpoints import Checkpoints, figure_name

log = logging.getLogger("prichexy.training")

SECONDS_BETWEEN_LOOKS = 1.0


class Follower:
    """Logs a stage's epochs while workers train it; use as a context manager.

    Args:
        stage: its name.
        checkpoints: of the stage.
        run: its MLflow run.
        epochs: most epochs, for the lines.
    """

    def __init__(self, stage: str, checkpoints: Checkpoints, run: RunLog, epochs: int) -> None:
        self._stage, self._checkpoints, self._run, self._epochs = stage, checkpoints, run, epochs
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name=f"follow {stage}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def catch_up(self) -> int:
        """Log every epoch that is not yet logged; the last epoch.

        Raises:
            PrichexyError: MLflow or the store can't be reached.
        """
        history = self._checkpoints.read_history()
        for metrics in history[self._run.logged :]:
            epoch = int(metrics["epoch"])
            png = self._checkpoints.read_figure(epoch)
            picture = None if png is None else (figure_name(epoch), png)
            if self._run.log_epoch(epoch, metrics, picture):
                log.info("%s, epoch %d of %d: %s", self._stage, epoch, self._epochs, described(metrics))
        return int(history[-1]["epoch"]) if history else 0

    def _look(self) -> None:
        warned = False
        while not self._ended.wait(SECONDS_BETWEEN_LOOKS):
            try:
                self.catch_up()
            except PrichexyError as error:
                if not warned:  # training goes on; what is missing is logged at its end
                    log.warning("can't log the epochs for now: %s", error)
                warned = True


def described(metrics: dict[str, float]) -> str:
    """An epoch in one line: its losses and AUCs, how fast it was, and how long it waited for data."""
    shown = [
        f"{name} {value:.4g}"
        for name, value in metrics.items()
        if name.startswith(("train/", "validation/")) and "auc/" not in name
    ]
    speed = f"{metrics['images_per_second']:.1f} images/s, {metrics['data_wait_share']:.1%} waiting for data"
    return f"{', '.join(shown)}; {speed}"
