"""Who may write to a destination now: one run at a time, without anybody's help after a crash.

A run that takes the lease makes the next numbered file in ``_lease/`` (create-if-absent, so of two runs one wins), and
writes a growing number of beats into it. Who finds a lease watches it: while it beats, its holder lives, and the
newcomer stops. A lease that misses beats for `LAPSE` seconds, by the watcher's own monotonic clock, is dead and
succeeded by the next number: no two machines' clocks are ever compared. A holder that finds a higher number than its
own has been succeeded (it was cut off, or stood still) and stops.

The lease saves work and tells people. Exactness doesn't rest on it: two runs of one job write equal shards, and a run
of another job is refused by `prichexy.lake.commit.claim`.
"""

import json
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prichexy.errors import PrichexyError, StorageFault
from prichexy.lake.storage import Store

log = logging.getLogger("prichexy.lake")

FOLDER = "_lease"
BEAT = 5.0
"""Seconds from one beat to the next."""
LAPSE = 45.0
"""Seconds without a beat after which a lease is dead: several beats, and one write with all its retries."""

Fingerprint = Callable[[str], str]
"""Keyed, so that a public destination doesn't name the machines that wrote it."""


class LeaseLostError(PrichexyError):
    """Another run has succeeded this one."""


@dataclass(frozen=True, slots=True)
class Sign:
    """What a lease's file says.

    Attributes:
        number: of the lease; each is one higher than the one that it succeeds.
        run: random name of the run that holds it.
        beat: how often the holder has written it.
        machine: keyed fingerprint of the holder's machine (its boot, its process namespace); "" if unknown.
        process: the holder's process number and start, as ``pid@start``.
        state: what the holder tells of its progress.
    """

    number: int
    run: str
    beat: int
    machine: str
    process: str
    state: dict[str, Any]

    def to_bytes(self) -> bytes:
        """As the file holds it."""
        facts = {name: getattr(self, name) for name in ("number", "run", "beat", "machine", "process", "state")}
        return (json.dumps(facts) + "\n").encode()


def current(store: Store) -> Sign | None:
    """The newest lease's sign of life; None where nobody holds one.

    Raises:
        StorageFault: the destination can't be read.
    """
    numbers = _numbers(store)
    while numbers:
        number = numbers.pop()
        try:
            facts = json.loads(store.read(_path(number)))
            return Sign(number, *(facts[name] for name in ("run", "beat", "machine", "process", "state")))
        except FileNotFoundError:
            continue  # released this moment
        except (ValueError, KeyError, TypeError):
            raise StorageFault(f"the lease in {store.uri} is damaged: remove its folder {FOLDER}") from None
    return None


def is_lease(path: str) -> bool:
    """Whether a path below the destination is a lease's file."""
    folder, _, name = path.partition("/")
    return folder == FOLDER and name.endswith(".json") and name.removesuffix(".json").isdecimal()


class Lease:
    """A lease that this process holds; `held` makes one."""

    def __init__(self, store: Store, sign: Sign) -> None:
        """Begin to beat for a lease whose file this process has just made."""
        self.state: dict[str, Any] = {}
        """What `prichexy status` shows of the run; may be replaced at any time."""
        self._store, self._sign = store, sign
        self._stop, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._live, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Stop a run that has been succeeded.

        Raises:
            LeaseLostError: it has.
        """
        if self._lost.is_set():
            raise LeaseLostError(
                f"another run has taken over {self._store.uri}, since this one gave no sign of life for "
                f"{LAPSE:.0f} s: look at it with `prichexy status`"
            )

    def release(self) -> None:
        """End the lease, so that the next run starts at once."""
        self._stop.set()
        self._thread.join(timeout=LAPSE)
        try:
            self._store.delete(_path(self._sign.number))
        except StorageFault:
            log.info("the lease could not be removed: the next run waits for it to lapse")

    def _live(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                if max(_numbers(self._store), default=0) > self._sign.number:
                    self._lost.set()
                    return
                sign = self._sign
                self._sign = Sign(sign.number, sign.run, sign.beat + 1, sign.machine, sign.process, self.state)
                self._store.write(_path(sign.number), self._sign.to_bytes())
            except StorageFault:
                continue  # a store that stays away stops the stages, which say so


@contextmanager
def held(store: Store, fingerprint: Fingerprint) -> Iterator[Lease]:
    """The destination's lease for the time of a run.

    Args:
        store: the destination.
        fingerprint: keyed.

    Raises:
        PrichexyError: another run holds it and lives.
        StorageFault: the destination failed.
    """
    machine = _machine()
    mine = fingerprint(machine) if machine else ""
    lease = Lease(store, _taken(store, mine))
    try:
        yield lease
        lease.check()
    finally:
        lease.release()


def _taken(store: Store, machine: str) -> Sign:
    found = current(store)
    if found is not None and not _ended_here(found, machine):
        _watch(store, found)
        found = current(store)
    number = (found.number if found else 0) + 1
    sign = Sign(number, secrets.token_hex(8), 0, machine, _process(os.getpid()), {})
    if not store.create(_path(number), sign.to_bytes()):
        raise _busy(store)
    for dead in _numbers(store):
        if dead < number:
            store.delete(_path(dead))
    return sign


def _watch(store: Store, found: Sign) -> None:
    """Wait until a lease is certainly dead, or stop as soon as it is seen to live."""
    log.info("another run may be writing to the destination: watching it for %d s", LAPSE)
    began = time.monotonic()
    while time.monotonic() - began < LAPSE:
        time.sleep(min(1.0, LAPSE / 10))
        now = current(store)
        if now is None:
            return
        if (now.number, now.run, now.beat) != (found.number, found.run, found.beat):
            raise _busy(store)


def _busy(store: Store) -> PrichexyError:
    return PrichexyError(
        f"another run is writing to {store.uri}: look at it with `prichexy status`; "
        "this one stops, and is needed only if that one fails"
    )


def _numbers(store: Store) -> list[int]:
    """Numbers of all leases, ascending."""
    return sorted(
        int(item.path.rpartition("/")[2].removesuffix(".json")) for item in store.list(FOLDER) if is_lease(item.path)
    )


def _path(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def _machine() -> str:
    """What two processes share only if each can see whether the other lives; "" where that can't be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return f"{platform.node()} {boot.strip()} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _process(pid: int) -> str:
    """``pid@start``, since numbers are used again; "" for a process that is not there."""
    try:
        # proc(5): the fields after the last parenthesis begin with the third; the 22nd is the start, in clock ticks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else f"{pid}@{fields[19]}"


def _ended_here(sign: Sign, machine: str) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    pid = sign.process.partition("@")[0]
    return bool(machine) and sign.machine == machine and pid.isdecimal() and _process(int(pid)) != sign.process
