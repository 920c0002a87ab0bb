"""How far the images are: told by the workers to an actor, by that to the progress bar and to the lease."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import ray

from prichexy.lake.lease import Lease
from prichexy.progress import Progress


@ray.remote(num_cpus=0)
class Tally:
    """How many images came through, and since when work is done; what counts are the commits."""

    def __init__(self) -> None:
        """None yet."""
        self.images = 0
        self.began: float | None = None

    def add(self, images: int, seconds: float) -> None:
        """So many more came through, which a worker has had in hand for so many seconds."""
        if self.began is None:
            self.began = time.monotonic() - seconds
        self.images += images

    def told(self) -> tuple[int, float]:
        """How many came through, and how many seconds ago the first of them were begun; 0 before there are any."""
        return self.images, 0.0 if self.began is None else time.monotonic() - self.began


class Following:
    """What the tally last told.

    Attributes:
        began: when the first images were begun, on this process' monotonic clock; None before any came through.
    """

    def __init__(self, tally: Any, progress: Progress, before: int, lease: Lease) -> None:
        """Of a run before which `before` images were done."""
        self.began: float | None = None
        self._tally, self._progress, self._before, self._lease = tally, progress, before, lease

    def ask(self) -> None:
        """Ask the tally, and tell progress and lease.

        Raises:
            GetTimeoutError: it does not answer now.
            RayError: the cluster is going down.
        """
        images, age = ray.get(self._tally.told.remote(), timeout=5)
        if images and self.began is None:
            self.began = time.monotonic() - age
        self._progress.reach(min(self._progress.total, self._before + images))
        self._lease.state = _told_to_others(self._progress)


@contextmanager
def following(tally: Any, progress: Progress, before: int, lease: Lease) -> Iterator[Following]:
    """Let the progress follow the tally while the stages run, and the lease tell it to others."""
    stop = threading.Event()
    follower = Following(tally, progress, before, lease)

    def follow() -> None:
        ended = False
        while not ended:
            ended = stop.wait(1.0)  # asked once more at the end: all of a short run may lie between two questions
            try:
                follower.ask()
            except ray.exceptions.GetTimeoutError:
                continue
            except ray.exceptions.RayError:
                return  # the cluster is going down; the job itself says why

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield follower
    finally:
        stop.set()
        thread.join(timeout=6)


def _told_to_others(progress: Progress) -> dict[str, Any]:
    rate = progress.rate
    return {
        "images": progress.done,
        "images_per_second": round(rate, 2),
        "seconds_left": round((progress.total - progress.done) / rate) if rate else None,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
