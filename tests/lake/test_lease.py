"""One run at a time writes to a destination; a dead one is succeeded, a living one is not."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from prichexy.errors import PrichexyError
from prichexy.lake import lease as module
from prichexy.lake.lease import LeaseLostError, current, held
from prichexy.lake.storage import Store


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.05)
    monkeypatch.setattr(module, "LAPSE", 1.5)


def fingerprint(text: str) -> str:
    return f"keyed {len(text)}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def until(condition: object, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_second_run_stops_while_the_first_one_lives_and_starts_when_it_ended(store: Store) -> None:
    with held(store, fingerprint):
        began = time.monotonic()
        with pytest.raises(PrichexyError, match="another run is writing to"), held(store, fingerprint):
            pytest.fail("two runs hold the lease")
        assert time.monotonic() - began < 1.5  # a beat told it, not the lapse
    assert current(store) is None
    with held(store, fingerprint) as lease:
        assert current(store) is not None
        lease.check()


def test_of_many_runs_at_once_one_wins(store: Store) -> None:
    won, lost, ready = [], [], threading.Barrier(8)

    def run() -> None:
        ready.wait()
        try:
            with held(store, fingerprint):
                won.append(1)
                time.sleep(2.5)
        except PrichexyError:
            lost.append(1)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)


def test_a_lease_of_another_machine_that_no_longer_beats_is_succeeded_after_the_lapse(store: Store) -> None:
    dead = {"number": 4, "run": "x", "beat": 17, "machine": "elsewhere", "process": "1@1", "state": {}}
    store.write("_lease/000004.json", json.dumps(dead).encode())
    began = time.monotonic()
    with held(store, fingerprint):
        assert 1.4 < time.monotonic() - began < 5
        now = current(store)
        assert now is not None
        assert now.number == 5
        assert [item.path for item in store.list("_lease")] == ["_lease/000005.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_a_killed_run_of_this_machine_is_succeeded_at_once(store: Store, tmp_path: Path) -> None:
    program = (
        "import sys, time; from prichexy.lake.lease import held; from prichexy.lake.storage import Store\n"
        "with held(Store(sys.argv[1]), lambda text: f'keyed {len(text)}'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, store.uri], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with held(store, fingerprint):
        assert time.monotonic() - began < 1.0


def test_a_run_that_was_succeeded_stops_and_leaves_its_successor_alone(store: Store) -> None:
    def run() -> None:
        with held(store, fingerprint) as lease:
            store.write("_lease/000002.json", b"{}")
            until(lease._lost.is_set)

    with pytest.raises(LeaseLostError, match="has taken over"):
        run()
    assert [item.path for item in store.list("_lease")] == ["_lease/000002.json"]


def test_beats_carry_the_state_and_name_no_machine(store: Store) -> None:
    with held(store, fingerprint) as lease:
        lease.state = {"images": 12}
        until(lambda: (found := current(store)) is not None and found.state == {"images": 12})
        text = next((Path(store.root) / "_lease").iterdir()).read_text()
    assert os.uname().nodename not in text


def test_create_makes_an_object_once(store: Store) -> None:
    assert store.create("a/b", b"1")
    assert not store.create("a/b", b"2")
    assert store.read("a/b") == b"1"
    assert [item.path for item in store.list()] == ["a/b"]
