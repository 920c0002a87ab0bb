"""Progress of long work on stderr: a bar on a terminal, a line now and then in a log."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

log = logging.getLogger("prichexy.progress")

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts images, or what `unit` says, towards a total; use as a context manager."""

    def __init__(self, what: str, total: int, done: int = 0, unit: str = "images") -> None:
        """Start at `done` (by earlier runs) of `total`."""
        self.what, self.total, self.done, self.unit = what, total, done, unit
        self._before = done
        self._began = self._told = time.monotonic()
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
            )
            console = Console(stderr=True)
            self._bar = Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
            self._task = self._bar.add_task(what, total=total, completed=done, rate="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Images a second since this run began."""
        return (self.done - self._before) / max(time.monotonic() - self._began, 1e-9)

    def advance(self, images: int) -> None:
        """`images` more are done."""
        self.reach(self.done + images)

    def reach(self, done: int) -> None:
        """So many are done in all."""
        self.done = done
        if self._bar:
            self._bar.update(self._task, completed=done, rate=f"{self.rate:.1f} {self.unit}/s")
        elif time.monotonic() - self._told > SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            left = f", about {(self.total - done) / self.rate:.0f} s left" if self.rate else ""
            rate = f"{self.rate:.1f}" if self.rate >= 1 else f"{self.rate:.2g}"
            log.info("%s: %d of %d %s, %s %s/s%s", self.what, done, self.total, self.unit, rate, self.unit, left)
