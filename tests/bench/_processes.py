"""What a process and all that it started use, as /proc tells (Linux): CPU time and memory."""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

PROC = Path("/proc")


def family(root: int) -> dict[int, list[str]]:
    """A process and its descendants: by number, the fields of proc(5)'s ``stat`` from the third on."""
    found: dict[int, list[str]] = {}
    children = defaultdict(list)
    for folder in PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            found[int(folder.name)] = fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        children[int(fields[1])].append(int(folder.name))
    members, waiting = {}, [root]
    while waiting:
        process = waiting.pop()
        if process in found:
            members[process] = found[process]
            waiting += children[process]
    return members


class CpuTime:
    """CPU seconds of this process and of its whole family, sampled as time goes by."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float, float]] = []
        self._used: dict[int, float] = {}

    def sample(self) -> None:
        """Look once."""
        ticks = os.sysconf("SC_CLK_TCK")
        members = family(os.getpid())
        # A process that has ended keeps what it used.
        self._used |= {pid: (int(fields[11]) + int(fields[12])) / ticks for pid, fields in members.items()}
        self._samples.append((time.monotonic(), self._used[os.getpid()], sum(self._used.values())))

    def between(self, began: float, ended: float) -> tuple[float, float]:
        """Seconds of this process, and of the family (this process included), between two monotonic times."""
        times, own, whole = np.array(self._samples).T
        return (
            float(np.diff(np.interp([began, ended], times, own))[0]),
            float(np.diff(np.interp([began, ended], times, whole))[0]),
        )


@contextmanager
def cpu_time(period: float = 0.5) -> Iterator[CpuTime]:
    """The CPU time used inside, sampled every `period` seconds."""
    used, ended = CpuTime(), threading.Event()

    def follow() -> None:
        while not ended.wait(period):
            used.sample()

    used.sample()
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield used
    finally:
        ended.set()
        thread.join()
        used.sample()


def memory(process: int) -> dict[str, int]:
    """Bytes of a process by proc(5)'s ``smaps_rollup``: ``Pss``, its fair share of all pages that it maps; of that,
    ``Pss_Anon`` (its own heap), ``Pss_File``, ``Pss_Shmem`` (the object store's); empty for one that has ended.
    """
    try:
        lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    pairs = (line.split()[:2] for line in lines)
    return {name.rstrip(":"): 1024 * int(kibibytes) for name, kibibytes in pairs if name.startswith("Pss")}
