"""A clean stop on SIGTERM, which spot machines and schedulers send before they take the machine away.

Python runs a signal's handler in the main thread, in the middle of whatever that does; an exception out of the handler
would end Ray's native code in a crash. So the handler only takes note, and work that lasts runs in another thread while
the main thread listens.
"""

import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from prichexy.errors import PrichexyError

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds that work in hand is given to end; spot machines are taken 30 to 120 s after the notice."""


class StoppedError(PrichexyError):
    """Somebody asked the run to end."""


class Stop:
    """Whether somebody has asked the run to end."""

    def __init__(self) -> None:
        """Nobody has."""
        self._asked = threading.Event()

    def hear(self) -> None:
        """Take note of SIGTERM from now on; again after Ray was started, whose native code takes the signal over.

        Outside the main thread, where Python lets nobody handle signals, it does nothing.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda _number, _frame: self._asked.set())

    def check(self) -> None:
        """End here, if the run is to end.

        Raises:
            StoppedError: it is.
        """
        if self._asked.is_set():
            raise StoppedError("stopped on request (SIGTERM); the same command goes on where it stopped")

    def listening(self, make: Callable[[], Iterable[T]]) -> Iterator[T]:
        """The items of an iterable that runs in a thread of its own, while this one stays ready to stop.

        Args:
            make: gives the iterable; called in that thread.

        Raises:
            StoppedError: the run is to end; the iterable was closed, or given up after `PATIENCE`.
        """
        items: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(maxsize=1)
        ended = threading.Event()

        def put(kind: str, item: T | BaseException | None) -> bool:
            while not ended.is_set():
                try:
                    items.put((kind, item), timeout=0.2)
                except queue.Full:
                    continue
                return True
            return False

        def run() -> None:
            try:
                for item in make():
                    if not put("item", item):
                        return  # leaving closes the iterable
                put("end", None)
            except BaseException as error:
                put("error", error)

        thread = threading.Thread(target=run, name="stages", daemon=True)
        thread.start()
        try:
            while True:
                self.check()
                try:
                    kind, item = items.get(timeout=0.5)
                except queue.Empty:
                    continue
                if kind == "item":
                    yield item  # type: ignore[misc]
                elif isinstance(item, BaseException):
                    raise item
                else:
                    return
        finally:
            ended.set()
            thread.join(timeout=PATIENCE)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within it, SIGTERM asks the run to end: what is committed stays, what is in hand is finished or dropped."""
    stop = Stop()
    before = signal.getsignal(signal.SIGTERM)
    stop.hear()
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
