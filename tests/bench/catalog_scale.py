"""A job of ten million images, but for the images: catalog, plan, commits, a kill at half of it, resume, finish.

The lake is made up (a listing of files that are not there, in pages as S3 sends them), and stages are left out: each
shard's rows are published with one tiny PNG. All else is the real thing on local files: listing pieces, catalog parts,
the job's claim, its shards, their commit records, the manifest. Each phase runs in a process of its own, whose peak
memory is what the kernel says; half of the shards are committed by the process that is then killed.

    python -m tests.bench.catalog_scale [--rows 10000000] [--keep FOLDER]
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from prichexy.cohort.catalog import build_catalog, open_catalog, read_rows
from prichexy.config import CatalogConfig, StorageConfig
from prichexy.imaging import encode_png
from prichexy.lake.commit import commit_shard, committed_shards
from prichexy.lake.job import Job, claim
from prichexy.lake.listing import Page, StoredObject
from prichexy.lake.shards import PUBLISHED
from prichexy.lake.snapshots import finish
from prichexy.lake.storage import Store
from tests.bench import report

FOLDERS = 1000
ROWS_PER_SHARD = 1024
STORAGE = StorageConfig()


def main() -> None:
    parser = argparse.ArgumentParser(description="Catalog, plan, commits and resume of a large job.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--keep", type=Path, help="Folder for catalog and destination; a temporary one by default.")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.phase:
        PHASES[given.phase](given.keep, given.rows)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        (folder / "lake").mkdir(parents=True)
        figures = {name: _run(name, folder, given.rows) for name in PHASES}
    report("catalog_scale", {"rows": given.rows, "rows a shard": ROWS_PER_SHARD, "phases": figures})


def _run(phase: str, folder: Path, rows: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.catalog_scale"]
    command += ["--rows", str(rows), "--keep", str(folder), "--phase", phase]
    began = time.monotonic()
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    wanted = -signal.SIGKILL if phase == "first half" else 0
    if done.returncode != wanted:
        raise SystemExit(f"{phase} ended with {done.returncode}")
    figures: dict[str, Any] = json.loads((folder / f"{phase}.json").read_text())
    figures = {"seconds": round(time.monotonic() - began, 1), **figures}
    print(f"{phase}: {figures}", file=sys.stderr, flush=True)
    return figures


def _told(folder: Path, phase: str, **figures: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    (folder / f"{phase}.json").write_text(json.dumps({"peak GiB": round(peak, 2), **figures}))


def _catalog(folder: Path, rows: int) -> None:
    """List the made-up lake, through all that a bucket's listing goes through but the network."""
    each = -(-rows // FOLDERS)

    def pages(store: Store, below: str = "", deep: bool = True, token: str = "") -> Iterator[Page]:
        if store.root != str(folder / "lake"):
            yield from real(store, below, deep, token)
        elif not below:
            yield Page([], [f"patients-{number:03d}" for number in range(FOLDERS)])
        else:
            for first in range(0, each, 1000):
                names = (f"{below}/{number:08d}-CR-AP.dcm" for number in range(first, min(first + 1000, each)))
                yield Page([StoredObject(name, 4_000_000, f"{hash(name):016x}"[-16:]) for name in names], [])

    real = Store.pages
    Store.pages = pages  # type: ignore[method-assign]
    config = CatalogConfig(source=str(folder / "lake"), out=str(folder / "catalog"))
    catalog = build_catalog(config, salt=b"s" * 16)
    assert catalog.rows == each * FOLDERS
    _told(folder, "catalog", parts=len(catalog.parts))


def _first_half(folder: Path, rows: int) -> None:
    began = time.monotonic()
    job, store, todo = _planned(folder)
    planned = time.monotonic() - began
    _commit(folder, job, store, todo[: len(todo) // 2])
    _told(folder, "first half", **{"seconds to plan": round(planned, 1), "shards": len(todo) // 2})
    os.kill(os.getpid(), signal.SIGKILL)


def _resumed(folder: Path, rows: int) -> None:
    began = time.monotonic()
    job, store, todo = _planned(folder)
    planned = time.monotonic() - began
    _commit(folder, job, store, todo)
    committed = time.monotonic()
    manifest = finish(store, job)
    assert manifest["counts"]["published"] == job.rows
    finished = time.monotonic() - committed
    figures = {"seconds to plan": round(planned, 1), "shards": len(todo), "seconds to finish": round(finished, 1)}
    _told(folder, "resumed", **figures)


def _planned(folder: Path) -> tuple[Job, Store, list[int]]:
    """What `anonymize` does between the catalog and Ray."""
    catalog = open_catalog(str(folder / "catalog"), STORAGE)
    assert catalog is not None
    model = {"name": "bench", "version": "1", "fingerprint": "", "settings": {}}
    job = Job(catalog.rows, ROWS_PER_SHARD, "256", 16, {}, "source", catalog.content, "key", model, audited=False)
    store = Store(str(folder / "out"))
    claim(store, job)
    committed = committed_shards(store, job.snapshot)
    return job, store, [shard for shard in range(job.shards) if shard not in committed]


def _commit(folder: Path, job: Job, store: Store, shards: list[int]) -> None:
    catalog = open_catalog(str(folder / "catalog"), STORAGE)
    assert catalog is not None
    png = encode_png(np.zeros((1, 1), np.uint8), 8)
    facts = [pa.field(name, pa.string()) for name in ("stage", "reason", "message")]
    schema = pa.schema([*PUBLISHED, *facts, pa.field("row_id", pa.int64()), pa.field("covered", pa.bool_())])
    for shard in shards:
        ids = read_rows(catalog, STORAGE, *job.span(shard))["row_id"].to_pylist()
        rows = [{"row_id": row, "image_id": f"{row:032x}", "image": {"bytes": png, "path": ""}} for row in ids]
        commit_shard(store, job, shard, pa.Table.from_pylist(rows, schema))


PHASES = {"catalog": _catalog, "first half": _first_half, "resumed": _resumed}

if __name__ == "__main__":
    main()
