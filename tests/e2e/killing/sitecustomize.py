"""On PYTHONPATH of a command under test: ends a process by SIGKILL at a named point of the program, once.

Environment: KILL_FOLDER, for marks; KILL_AT, ``module:function:before`` or ``...:after``, a path's beginning behind
another colon if only calls count that name it; KILL_WHOM, ``itself`` or ``driver``.
"""

import functools
import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(os.environ.get("KILL_FOLDER", "/nonexistent"))
MODULE, FUNCTION, WHEN, PATH = (os.environ.get("KILL_AT", "") + ":::").split(":")[:4]


def strike() -> None:
    """Kill whom the environment names, if nobody did yet."""
    try:
        os.close(os.open(FOLDER / "struck", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if os.environ.get("KILL_WHOM") == "driver":
        os.kill(int((FOLDER / "driver").read_text()), signal.SIGKILL)
        time.sleep(60)  # the driver's workers end with it; this call must not end before
    os.kill(os.getpid(), signal.SIGKILL)


def deadly(work: Callable[..., Any]) -> Callable[..., Any]:
    """The function, ending the process before or after it."""

    @functools.wraps(work)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        meant = not PATH or any(isinstance(arg, str | Path) and Path(arg).name.startswith(PATH) for arg in args)
        if meant and WHEN == "before":
            strike()
        result = work(*args, **kwargs)
        if meant and WHEN == "after":
            strike()
        return result

    return wrapped


class Finder(importlib.abc.MetaPathFinder):
    """Wraps one function of one module when that is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec, with a loader that wraps the function."""
        if name != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def run(module: ModuleType) -> None:
            execute(module)
            *owners, last = FUNCTION.split(".")
            owner = functools.reduce(getattr, owners, module)
            setattr(owner, last, deadly(getattr(owner, last)))

        spec.loader.exec_module = run  # type: ignore[method-assign]
        return spec


if MODULE:
    sys.meta_path.insert(0, Finder())
    if sys.argv and "anonymize" in " ".join(getattr(sys, "orig_argv", [])):
        (FOLDER / "driver").write_text(str(os.getpid()))
