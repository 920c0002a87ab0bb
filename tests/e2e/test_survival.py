"""The job survives what happens to long jobs: a killed driver, a full disk; and Ray's own job submission."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import free_ports, prichexy

pytestmark = pytest.mark.e2e
BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frozen catalog of a phantom lake, so that two destinations can be compared byte for byte."""
    folder = tmp_path_factory.mktemp("frozen")
    drawn = prichexy("phantom", str(folder / "lake"), "--patients", "60", "--size", "256", "--seed", "3")
    assert drawn.returncode == 0, drawn.stderr
    listed = prichexy("catalog", str(folder / "lake"), "--out", str(folder / "catalog"), "exclude=['*.csv']")
    assert listed.returncode == 0, listed.stderr
    return folder / "catalog"


@pytest.fixture(scope="module")
def command(catalog: Path, model: Path, secret_file: Path) -> list[str]:
    """The job without its destination."""
    flags = [
        "--secret-file",
        str(secret_file),
        "--allow-unaudited",
        "--resolution",
        "256",
        "rows_per_shard=16",
        "chunk=8",
        "deid.burned_in_text=off",
    ]
    return [str(BIN / "prichexy"), "anonymize", str(catalog), "DESTINATION", "--model", str(model), "--json", *flags]


@pytest.fixture(scope="module")
def undisturbed(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every Parquet file of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    subprocess.run(to(command, out), check=True, capture_output=True, timeout=300)
    return files(out)


def to(command: list[str], out: Path) -> list[str]:
    return [str(out) if word == "DESTINATION" else word for word in command]


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def commits(out: Path) -> list[Path]:
    return sorted((out / "_snapshots" / "0001" / "_commits").glob("*.json"))


def test_a_killed_driver_goes_on_where_it_stopped(
    command: list[str], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(to(command, out), stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while len(commits(out)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    finished = {path: path.stat().st_mtime_ns for path in commits(out)}
    shards = sum(name.startswith("data/") for name in undisturbed)
    assert 2 <= len(finished) < shards
    assert not (out / "_SUCCESS").exists()
    again = subprocess.run(to(command, out), capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["resumed"] >= len(finished)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "a finished shard was computed again"
    assert files(out) == undisturbed
    assert prichexy("verify", str(out)).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.long
def test_a_full_disk_fails_the_job_which_goes_on_when_there_is_space(
    command: list[str], undisturbed: dict[str, bytes], small_disk: Path
) -> None:
    out = small_disk / "out"
    assert sum(map(len, undisturbed.values())) > 3 << 20
    full = subprocess.run(to(command, out), capture_output=True, text=True, timeout=300)
    assert full.returncode == 1
    assert "no space is left; make room and run the same command again" in full.stderr
    assert "Traceback" not in full.stderr
    assert not list(out.rglob(".tmp-*"))
    committed = len(commits(out))
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    again = subprocess.run(to(command, out), capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["resumed"] == committed
    assert files(out) == undisturbed


@pytest.fixture
def ray_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A Ray head with its job server; the address for `ray job submit`.

    It ends with its process group: ``ray stop`` would also end the Ray that other tests of this process use.
    """
    port, dashboard, client, agent = free_ports(4)
    short = Path("/tmp") / f"pxr{os.getpid()}"  # socket paths must be short
    start = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}"]
    start += [f"--ray-client-server-port={client}", f"--temp-dir={short}", "--num-cpus=2"]
    start += ["--min-worker-port=40000", "--max-worker-port=49999", f"--dashboard-agent-listen-port={agent}"]
    start += ["--include-dashboard=true", "--disable-usage-stats"]
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # as a cluster that others can reach should run
    subprocess.run([str(BIN / "ray"), "get-auth-token", "--generate"], check=True, capture_output=True, timeout=60)
    with (tmp_path / "head.log").open("w") as log:
        head = subprocess.Popen(start, stdout=log, stderr=log, start_new_session=True)
    try:
        jobs = [str(BIN / "ray"), "job", "list", "--address", f"http://127.0.0.1:{dashboard}"]
        deadline = time.monotonic() + 120
        while subprocess.run(jobs, capture_output=True, timeout=60).returncode:
            assert head.poll() is None, (tmp_path / "head.log").read_text()
            assert time.monotonic() < deadline, "the job server does not answer"
            time.sleep(1)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(short, ignore_errors=True)


def test_a_submitted_job_publishes_the_same_rows(
    command: list[str],
    undisturbed: dict[str, bytes],
    ray_cluster: str,
    catalog: Path,
    model: Path,
    secret_file: Path,
    tmp_path: Path,
) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(
        json.dumps(
            {
                "source": str(catalog),
                "destination": str(tmp_path / "out"),
                "model": str(model),
                "secret_file": str(secret_file),
                "allow_unaudited": True,
                "resolution": "256",
                "rows_per_shard": 999,
                "chunk": 8,
                "deid": {"burned_in_text": "off"},
            }
        )
    )
    entrypoint = [sys.executable, str(ROOT / "jobs" / "anonymize.py"), "--config", str(config), "rows_per_shard=16"]
    submit = [str(BIN / "ray"), "job", "submit", "--address", ray_cluster, "--", *entrypoint]
    done = subprocess.run(submit, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout + done.stderr
    assert files(tmp_path / "out") == undisturbed
    assert secret_file.read_bytes().hex() not in done.stdout
