"""The lease compares no wall clocks: it lives, and is succeeded, while a clock is set back an hour."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prichexy.errors import PrichexyError
from prichexy.lake import lease as module
from prichexy.lake.lease import current, held
from prichexy.lake.storage import Store

LAPSE = 1.5
HOLDER = """
import sys, time
from prichexy.lake import lease as module
from prichexy.lake.storage import Store

module.BEAT, module.LAPSE = 0.05, float(sys.argv[2])
began = time.monotonic()
print(time.time(), flush=True)
with module.held(Store(sys.argv[1]), lambda text: "another machine") as lease:
    print(time.monotonic() - began, time.time(), flush=True)
    while True:
        lease.state = {"clock": time.time()}
        lease.check()
        time.sleep(0.02)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def holder(store: Store, mark: Path) -> "subprocess.Popen[str]":
    """A process that takes the lease, and tells its clock: before, and, with the seconds that it took, after."""
    path = [str(Path(__file__).parents[1] / "clock"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "CLOCK_SET_BACK": str(mark)}
    command = [sys.executable, "-c", HOLDER, store.uri, str(LAPSE)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def told(run: "subprocess.Popen[str]") -> list[float]:
    assert run.stdout is not None
    return [float(word) for word in run.stdout.readline().split()]


def sign_with_clock(store: Store, since: float, until: float) -> module.Sign:
    """The holder's sign once its clock is between two times."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        found = current(store)
        if found is not None and since <= found.state.get("clock", 0.0) < until:
            return found
        time.sleep(0.02)
    pytest.fail("the holder's clock does not show that time")


def test_a_holder_whose_clock_is_set_back_goes_on_beating_and_nobody_succeeds_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT", 0.05)
    monkeypatch.setattr(module, "LAPSE", LAPSE)
    run, began = holder(store, tmp_path / "mark"), time.time()
    try:
        told(run), told(run)
        before = sign_with_clock(store, began, began + 60)
        (tmp_path / "mark").touch()
        after = sign_with_clock(store, began - 3600, began - 3500)
        assert (after.number, after.run) == (before.number, before.run)
        assert after.beat > before.beat
        with pytest.raises(PrichexyError, match="another run is writing to"), held(store, lambda text: "here"):
            pytest.fail("two runs hold the lease")
        assert run.poll() is None, "the holder lost its lease"
    finally:
        run.kill()
        run.wait()


def test_a_watcher_whose_clock_is_set_back_succeeds_a_dead_lease_of_the_future_after_the_lapse(
    store: Store, tmp_path: Path
) -> None:
    dead = {"number": 4, "run": "x", "beat": 17, "machine": "elsewhere", "process": "1@1", "state": {}}
    store.write("_lease/000004.json", json.dumps(dead).encode())
    later = time.time() + 3600
    os.utime(Path(store.root) / "_lease" / "000004.json", (later, later))
    run = holder(store, tmp_path / "mark")
    try:
        (before,) = told(run)
        (tmp_path / "mark").touch()
        seconds, after = told(run)
        assert before - 3600 < after < before - 3500
        assert LAPSE - 0.1 < seconds < LAPSE + 5
        found = current(store)
        assert found is not None
        assert found.number == 5
        assert [item.path for item in store.list("_lease")] == ["_lease/000005.json"]
    finally:
        run.kill()
        run.wait()
