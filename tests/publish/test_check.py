"""`prichexy publish` as a user runs it, and what `--check` finds missing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prichexy.config import PublishConfig, load
from prichexy.lake.commit import commit_shard
from prichexy.lake.job import claim
from prichexy.lake.snapshots import finish
from prichexy.lake.storage import Store
from prichexy.publish import Gap, check, publish
from prichexy.registry import Registry, store_audit
from tests.publish.publications import audited, image_id, job, published, rows
from tests.publish.test_documents import STATED
from tests.registry.registered import SECRET, registered
from tests.verdict.records import record


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A registry with an audited model, the secret, and a job that was made with it."""
    folder = tmp_path_factory.mktemp("proven")
    registry = Registry(f"sqlite:///{folder}/mlflow.db")
    model = registered(registry, "net")
    identifier = store_audit(registry, record(model.under_audit()), SECRET)
    (folder / "project.key").write_bytes(SECRET)
    made = audited(job(), identifier, model.fingerprint, model.name, model.version, model.settings.recorded())
    settings = {"secret_file": folder / "project.key", "tracking_uri": registry.uri}
    return {"job": replace(made, resolution="256"), "settings": settings}


@pytest.fixture
def ready(tmp_path: Path, proven: dict[str, Any]) -> PublishConfig:
    """A publication that lacks nothing."""
    store = published(tmp_path / "out", proven["job"])
    config = load(PublishConfig, destination=store.uri, splits=True, verify=False, **STATED, **proven["settings"])
    publish(config)
    return config


def missing(config: PublishConfig) -> list[str]:
    """What is missing, in a word each; that the bytes were not verified is left out."""
    return [gap.what for gap in check(config) if gap.blocking and gap.what != "verify"]


def test_nothing_is_missing_where_all_was_done(ready: PublishConfig) -> None:
    assert check(ready) == [
        Gap("verify", "the published bytes were not verified: check without verify=false, or run `prichexy verify`")
    ]


def test_the_published_bytes_are_verified(ready: PublishConfig) -> None:
    whole = ready.model_copy(update={"verify": True})
    assert check(whole) == []
    path = next((Path(ready.destination) / "data").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    found = [gap for gap in check(whole.model_copy(update={"splits": False})) if gap.what == "verify"]
    assert len(found) == 1


def _rewrite(root: Path, name: str, change: Callable[[str], str]) -> None:
    (root / name).write_text(change((root / name).read_text()))


def _splits(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(root / "splits.parquet")), root / "splits.parquet")


def _one_patient_in_two(table: pa.Table) -> pa.Table:
    others = {"train": "test", "validation": "train", "test": "train"}
    splits = [
        others.get(split, split) if name == image_id(0) else split
        for name, split in zip(*(table[column].to_pylist() for column in table.column_names), strict=True)
    ]
    return table.set_column(1, "split", pa.array(splits))


DAMAGE: list[tuple[Callable[[Path], object], list[str], str]] = [
    (lambda root: (root / "README.md").unlink(), ["card", "checksums"], "README.md is missing"),
    (lambda root: (root / "croissant.json").unlink(), ["croissant", "checksums"], "croissant.json is missing"),
    (lambda root: (root / "SHA256SUMS").unlink(), ["checksums"], "SHA256SUMS is missing"),
    (lambda root: (root / "splits.parquet").unlink(), ["splits", "checksums"], "there is no splits.parquet"),
    (
        lambda root: _rewrite(root, "README.md", lambda text: text.removeprefix("---\n")),
        ["card", "checksums"],
        "has no front matter",
    ),
    (
        lambda root: _rewrite(root, "README.md", lambda text: text.replace("license: cc-by-4.0\n", "")),
        ["licence", "checksums"],
        "no licence is stated",
    ),
    (
        lambda root: _rewrite(root, "README.md", lambda text: text.replace("data/*.parquet", "data/other.parquet")),
        ["card", "checksums"],
        "names other data files",
    ),
    (
        lambda root: _rewrite(
            root, "README.md", lambda text: text.replace("fewer than 5 patients", "fewer than 3 patients")
        ),
        ["card", "checksums"],
        "was made with small_cell=3, and tells of groups of that many patients: publish again with small_cell=5",
    ),
    (
        lambda root: _rewrite(
            root, "README.md", lambda text: text.replace("patients are withheld", "patients are not")
        ),
        ["card", "checksums"],
        "does not say which counts it withholds",
    ),
    (
        lambda root: _rewrite(root, "croissant.json", lambda text: text[:-9]),
        ["croissant", "checksums"],
        "not valid: JSONDecodeError",
    ),
    (
        lambda root: _rewrite(root, "croissant.json", lambda text: text.replace('"@id": "shards"', '"@id": "none"', 1)),
        ["croissant", "checksums"],
        "not valid: Found the following",
    ),
    (lambda root: _splits(root, lambda table: table[1:]), ["splits", "checksums"], "names other images"),
    (lambda root: _splits(root, _one_patient_in_two), ["splits", "checksums"], "patients in two splits"),
    (lambda root: _rewrite(root, "index.html", lambda text: text + " "), ["checksums"], "1 line is missing, wrong"),
]


@pytest.mark.parametrize(("damage", "what", "sentence"), DAMAGE)
def test_each_gap_is_found(
    ready: PublishConfig, damage: Callable[[Path], object], what: list[str], sentence: str
) -> None:
    damage(Path(ready.destination))
    assert missing(ready) == what
    assert any(sentence in gap.sentence for gap in check(ready))


@pytest.mark.parametrize(("small_cell", "what"), [(1, ["card"]), (4, ["card"]), (5, []), (11, [])])
def test_a_card_that_tells_of_small_groups_does_not_go_public(
    ready: PublishConfig, small_cell: int, what: list[str]
) -> None:
    """Whatever the settings of the check say: it is read from the card."""
    publish(ready.model_copy(update={"small_cell": small_cell}))
    assert missing(ready) == what


def test_what_is_not_stated_is_named(store: Store) -> None:
    publish(PublishConfig(destination=store.uri))
    found = [gap for gap in check(PublishConfig(destination=store.uri, verify=False)) if gap.blocking]
    assert [gap.what for gap in found] == ["audit", "audit", "verify", "licence", *["card"] * 5]
    named = " ".join(gap.sentence for gap in found)
    for part in ("'made by'", "'contact'", "'Where the radiographs come from'", "'What allows the publication'"):
        assert part in named


def test_an_audit_without_its_secret_is_not_taken_on_trust(ready: PublishConfig) -> None:
    unproven = ready.model_copy(update={"secret_file": None})
    found = [gap for gap in check(unproven) if gap.what == "audit"]
    assert len(found) == 1
    assert "name secret_file and tracking_uri" in found[0].sentence


def test_older_snapshots_with_rows_that_were_replaced_are_told(ready: PublishConfig, proven: dict[str, Any]) -> None:
    store = Store(ready.destination)
    increment = replace(proven["job"], rows=4, snapshot=2)
    claim(store, increment)
    commit_shard(store, increment, 0, rows(increment, 0, 4))
    assert missing(ready) == ["card"]  # its pattern takes in the files of a snapshot that is being made
    finish(store, increment, replaced=[image_id(row) for row in range(4)])
    assert missing(ready) == ["snapshots", "card", "croissant", "checksums"]
    publish(ready)
    assert missing(ready) == ["snapshots"]
    told = next(gap.sentence for gap in check(ready) if gap.what == "snapshots")
    assert told.startswith("1 file of older snapshots")


def prichexy(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "prichexy"), "publish", *arguments]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120)


def test_the_command_writes_and_checks(store: Store) -> None:
    done = prichexy(store.uri, "--license", "CC0-1.0", "--title", "Drawn", "--splits", "--show", image_id(0), "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["images"], facts["patients"], facts["audited"], facts["version"]) == (38, 24, False, "1.0.0")
    assert facts["files"] == ["README.md", "croissant.json", "splits.parquet", "index.html", "SHA256SUMS"]
    checked = prichexy(store.uri, "--check", "verify=false", "--json")
    assert checked.returncode == 1
    result = json.loads(checked.stdout)
    assert result["ready"] is False
    assert "licence" not in {gap["what"] for gap in result["missing"]}
    assert result["missing"][0]["what"] == "audit"
    assert "things are missing before" in checked.stderr
    for_people = prichexy(store.uri, "--check", "verify=false")
    assert "'contact' is not stated" in for_people.stdout


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    for arguments, code, sentence in (
        ((str(tmp_path / "nothing"),), 1, "nothing found at"),
        ((str(tmp_path),), 1, "is not finished"),
        ((str(tmp_path), "--license", "mine all mine"), 2, "setting license"),
        (("--splits",), 2, "setting destination is missing"),
    ):
        done = prichexy(*arguments)
        assert done.returncode == code, done.stderr
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
