"""On PYTHONPATH of a program under test: its wall clock goes back an hour when the file CLOCK_SET_BACK names appears.

As when somebody sets a machine's clock, the monotonic clock goes on. What is set back is `time.time` for all, and
`datetime.now` for prichexy's own modules (C extensions don't bear another class in its place). libfaketime 0.9.10 can
do neither: with the monotonic clock left alone, Python 3.11 can't sleep.
"""

import datetime
import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Sequence
from types import ModuleType

MARK = os.environ.get("CLOCK_SET_BACK", "")
HOUR = 3600

_time, _time_ns = time.time, time.time_ns
_is_back = False


def back() -> int:
    """Seconds by which the clock is set back now."""
    global _is_back
    _is_back = _is_back or os.path.exists(MARK)  # noqa: PTH110 - asked whenever somebody asks for the time
    return HOUR if _is_back else 0


def seconds() -> float:
    """In place of `time.time`; by its name it may be pickled."""
    return _time() - back()


def nanoseconds() -> int:
    """In place of `time.time_ns`."""
    return _time_ns() - back() * 1_000_000_000


class SetBack(datetime.datetime):
    """A datetime whose `now` is the clock's."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        return datetime.datetime.now(tz) - datetime.timedelta(seconds=back())


class Finder(importlib.abc.MetaPathFinder):
    """Gives prichexy's modules, once imported, the class above."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec, with a loader that does so."""
        if not name.startswith("prichexy."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def run(module: ModuleType) -> None:
            execute(module)
            if getattr(module, "datetime", None) is datetime.datetime:
                module.datetime = SetBack  # type: ignore[attr-defined]

        spec.loader.exec_module = run  # type: ignore[method-assign]
        return spec


if MARK:
    time.time, time.time_ns = seconds, nanoseconds
    sys.meta_path.insert(0, Finder())
