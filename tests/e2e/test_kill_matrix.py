"""Killed at every point where a job can die, it ends with the rows of an undisturbed run, byte for byte."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from prichexy.config import AnonymizeConfig, DeidConfig
from prichexy.lake.snapshots import read_manifest
from prichexy.lake.storage import Store
from tests.e2e.conftest import prichexy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
BIN = Path(sys.executable).parent

POINTS = [
    # where, who is killed
    ("prichexy.anonymize.job:frozen_catalog:before", "driver"),  # before the plan
    ("prichexy.lake.storage:Store.write:before:_catalog.json", "driver"),  # in the plan: listed, not frozen
    ("prichexy.lake.job:claim:after", "driver"),
    ("prichexy.anonymize.ingest:_ingested:before", "itself"),  # a fetching and decoding worker
    ("prichexy.anonymize.stages:Obfuscate._obfuscated:before", "itself"),  # the generator's actor
    ("prichexy.anonymize.stages:Obfuscate._obfuscated:before", "driver"),
    ("prichexy.imaging.encode:_png:after", "itself"),  # one that has encoded an image
    ("prichexy.lake.storage:_write_local:after:part-", "driver"),  # between shard and commit record
    ("prichexy.lake.storage:_write_local:before:000002.json", "driver"),  # before a commit record
    ("prichexy.lake.storage:_write_local:after:000003.json", "itself"),  # after a commit record
    ("prichexy.anonymize.job:finish:before", "driver"),  # between the last commit and the manifest
    ("prichexy.lake.storage:_write_local:before:_MANIFEST.json", "driver"),
    ("prichexy.lake.storage:_write_local:after:_MANIFEST.json", "driver"),  # before _SUCCESS
    ("prichexy.lake.storage:_write_local:after:_SUCCESS", "driver"),
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "lake"
    drawn = prichexy("phantom", str(folder), "--patients", "30", "--size", "128", "--seed", "5")
    assert drawn.returncode == 0, drawn.stderr
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    return folder


@pytest.fixture(scope="module")
def flags(model: Path, secret_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    flags = ["--model", str(model), "--secret-file", str(secret_file), "--allow-unaudited", "--resolution", "256"]
    return [*flags, "rows_per_shard=16", "chunk=8", "exclude=['*.csv']", "deid.burned_in_text=off", "--json"]


def started(lake: Path, out: Path, flags: list[str], **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(BIN / "prichexy"), "anonymize", str(lake), str(out), *flags],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def check_what_a_reader_sees(out: Path) -> None:
    """Whatever happened: every committed file is whole, no row is in two of them, and unfinished is not finished."""
    seen: set[str] = set()
    for record in (out / "_snapshots" / "0001" / "_commits").glob("*.json"):
        commit = json.loads(record.read_text())
        if commit["data"] is None:
            continue
        data = (out / commit["data"]["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == commit["data"]["sha256"]
        ids = pq.read_table(out / commit["data"]["path"], columns=["image_id"])["image_id"].to_pylist()
        assert not seen & set(ids)
        seen |= set(ids)
    if not (out / "_SUCCESS").exists():
        assert read_manifest(Store(str(out))) is None


@pytest.mark.long
def test_killed_at_every_point_in_turn_it_ends_with_the_undisturbed_rows(
    lake: Path, flags: list[str], tmp_path: Path
) -> None:
    undisturbed = started(lake, tmp_path / "undisturbed", flags)
    printed, told = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, told
    expected = json.loads(printed)
    assert expected["shards"] >= 5
    out, killing = tmp_path / "out", str(Path(__file__).parent / "killing")
    for number, (where, whom) in enumerate(POINTS):
        marks = tmp_path / f"marks{number}"
        marks.mkdir()
        run = started(lake, out, flags, PYTHONPATH=killing, KILL_AT=where, KILL_WHOM=whom, KILL_FOLDER=str(marks))
        _, told = run.communicate(timeout=300)
        # Work that earlier runs have done comes up no more: then the point is not reached, and the job just ends.
        if whom == "driver" and (marks / "struck").exists():
            assert run.returncode == -signal.SIGKILL, (where, told)
        else:
            assert run.returncode == 0, (where, told)
        check_what_a_reader_sees(out)
        if run.returncode == 0:  # make it struggle again: two shards and the end are to be done anew
            for lost in (
                "_SUCCESS",
                "_snapshots/0001/_MANIFEST.json",
                "_snapshots/0001/_commits/000002.json",
                "_snapshots/0001/_commits/000003.json",
            ):
                (out / lost).unlink(missing_ok=True)
        assert (marks / "struck").exists(), f"{where} was never reached"
    last = started(lake, out, flags)
    printed, told = last.communicate(timeout=300)
    assert last.returncode == 0, told
    got = json.loads(printed)
    same = ("rows", "published", "quarantined", "reasons", "bytes", "shards")
    assert {name: got[name] for name in same} == {name: expected[name] for name in same}
    assert files(out) == files(tmp_path / "undisturbed")
    assert prichexy("verify", str(out)).returncode == 0


def wait_for(path: Path, run: "subprocess.Popen[str]", seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.long
def test_sigterm_stops_it_within_30_seconds_and_the_same_command_goes_on(
    lake: Path, flags: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = started(lake, out, [*flags, "rows_per_shard=8"])
    wait_for(out / "_snapshots" / "0001" / "_commits" / "000000.json", run)
    began = time.monotonic()
    run.send_signal(signal.SIGTERM)
    _, told = run.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert run.returncode == 1
    assert told.splitlines()[-1] == "error: stopped on request (SIGTERM); the same command goes on where it stopped"
    assert "Traceback" not in told
    check_what_a_reader_sees(out)
    assert not list((out / "_lease").glob("*"))
    seen = json.loads(prichexy("status", str(out), "--json").stdout)
    assert (seen["state"], seen["done"] + seen["to_do"], seen["writer"]) == ("stopped", seen["rows"], {})
    again = started(lake, out, [*flags, "rows_per_shard=8"])
    printed, told = again.communicate(timeout=300)
    assert again.returncode == 0, told
    assert json.loads(printed)["resumed"] == seen["shards"]
    assert json.loads(prichexy("status", str(out), "--json").stdout)["state"] == "finished"


def test_of_two_submissions_at_once_one_publishes_and_the_other_says_so(
    lake: Path, flags: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    runs = [started(lake, out, flags) for _ in range(2)]
    told = [run.communicate(timeout=300) for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 1], told
    loser = next(number for number, run in enumerate(runs) if run.returncode)
    assert f"error: another run is writing to {out}" in told[loser][1]
    summary = json.loads(told[1 - loser][0])
    assert summary["published"] + summary["quarantined"] == summary["rows"]
    verified = prichexy("verify", str(out), "--json")
    assert (verified.returncode, json.loads(verified.stdout)["published"]) == (0, summary["published"])


def test_status_follows_a_running_job_from_outside(lake: Path, flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "no job has written" in prichexy("status", str(tmp_path)).stderr
    run = started(lake, out, [*flags, "rows_per_shard=8"])
    wait_for(out / "_snapshots" / "0001" / "_commits" / "000001.json", run)
    seen = json.loads(prichexy("status", str(out), "--json").stdout)
    _, told = run.communicate(timeout=300)
    assert run.returncode == 0, told
    assert seen["state"] in ("running", "finished")
    assert seen["done"] >= 16
    assert seen["published"] + sum(seen["quarantined"].values()) == seen["done"]


@pytest.mark.long
def test_a_node_that_is_removed_costs_no_row(
    lake: Path, flags: list[str], model: Path, secret_file: Path, tmp_path: Path
) -> None:
    undisturbed = started(lake, tmp_path / "undisturbed", [*flags, "rows_per_shard=4", "chunk=4"])
    _, told = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, told
    config = AnonymizeConfig(
        source=str(lake),
        destination=str(tmp_path / "out"),
        model=str(model),
        secret_file=secret_file,
        allow_unaudited=True,
        resolution="256",
        rows_per_shard=4,
        chunk=4,
        exclude=("*.csv",),
        deid=DeidConfig(burned_in_text="off"),
    )
    (tmp_path / "job.json").write_text(config.model_dump_json())
    script = Path(__file__).parent / "node_loss.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "job.json"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["nodes"], summary["resumed"]) == (3, 0)
    assert 2 <= summary["committed_when_lost"] < summary["shards"]
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")
    assert prichexy("verify", str(tmp_path / "out")).returncode == 0
