"""A job whose machine's clock is set back an hour, in the middle of a run and before the next one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from prichexy.cohort.phantom import PhantomCohort, write_png
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify
from prichexy.obfuscation import create_untrained

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1500)]


@pytest.fixture
def start(tmp_path: Path, secret_file: Path) -> "Callable[..., subprocess.Popen[str]]":
    """Starts the job to a destination; its clock is set back once there is a file ``mark``."""
    write_png(PhantomCohort(3, 7, size=128), tmp_path / "drawn")
    for number in range(20):  # as many as take a while
        shutil.copytree(tmp_path / "drawn", tmp_path / "lake" / str(number))
    create_untrained("identity", tmp_path / "model", 0, {})
    program = str(Path(sys.executable).parent / "prichexy")
    command = [program, "anonymize", str(tmp_path / "lake"), "", "--allow-unaudited"]
    command += ["--model", str(tmp_path / "model"), "--secret-file", str(secret_file), "--resolution", "256", "--json"]
    command += ["rows_per_shard=8", "chunk=4", "exclude=['*.csv']", "deid.burned_in_text=off"]
    path = [str(Path(__file__).parents[1] / "clock"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "CLOCK_SET_BACK": str(tmp_path / "mark")}

    def started(out: Path) -> "subprocess.Popen[str]":
        words = [word or str(out) for word in command]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)

    return started


def ended(run: "subprocess.Popen[str]") -> dict[str, Any]:
    """The summary of a run that ended well."""
    printed, told = run.communicate(timeout=300)
    assert run.returncode == 0, told
    summary: dict[str, Any] = json.loads(printed)
    return summary


def until_committed(out: Path, shards: int, run: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 200
    while len([path for path in out.rglob("*.json") if path.parent.name == "_commits"]) < shards:
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)


def finished(out: Path) -> datetime:
    (manifest,) = out.rglob("_MANIFEST.json")
    return datetime.fromisoformat(json.loads(manifest.read_text())["finished"])


def published(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.parquet")}


def test_set_back_within_a_run_and_between_two_it_ends_with_the_rows_of_an_undisturbed_job(
    start: "Callable[..., subprocess.Popen[str]]", tmp_path: Path
) -> None:
    expected = ended(start(tmp_path / "undisturbed"))
    assert expected["shards"] >= 10

    out, began = tmp_path / "out", datetime.now(UTC)
    run = start(out)
    until_committed(out, 1, run)
    (tmp_path / "mark").touch()
    until_committed(out, 3, run)
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=60)
    # What the first run wrote before its clock was set back lies in the future of the second.
    for path in (*out.rglob("*"), *tmp_path.glob("out.private/**/*")):
        later = path.stat().st_mtime + 3600
        os.utime(path, (later, later))

    summary = ended(start(out))
    assert summary["resumed"] >= 3
    assert summary["resumed"] < summary["shards"]
    same = ("rows", "published", "quarantined", "reasons", "bytes", "shards")
    assert {name: summary[name] for name in same} == {name: expected[name] for name in same}
    assert published(out) == published(tmp_path / "undisturbed")
    assert verify(Store(str(out))).whole
    assert (began - finished(out)).total_seconds() > 3000, "the clock was not set back"
    assert 0 < summary["seconds"] < 1500
    assert summary["images_per_second"] > 0
