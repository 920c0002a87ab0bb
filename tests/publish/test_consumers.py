"""Whoever receives a publication loads it with the tools of the field, as its own card says."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pyarrow.dataset as ds
import pyarrow.fs
import pytest
import s3fs
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from prichexy.config import PublishConfig, load
from prichexy.lake.storage import Store
from prichexy.publish import check, publish
from tests.e2e.conftest import S3Server
from tests.publish.publications import image_id, job, png, published
from tests.publish.test_documents import STATED


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A publication with its card and splits."""
    root = tmp_path_factory.mktemp("published") / "out"
    store = published(root, job(96, 32))
    publish(load(PublishConfig, destination=store.uri, splits=True, **STATED))
    return root


def blocks(folder: Path, imported: str) -> list[str]:
    """The card's Python blocks that import something."""
    found = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return [block for block in found if re.search(rf"^import {imported}\b", block, re.MULTILINE)]


def run(block: str, folder: Path, home: Path) -> str:
    """What a block prints in the data set's folder, in a process of its own and without a network."""
    environment = {**os.environ, "HOME": str(home), "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=folder, env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_datasets_streams_decoded_images(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    streamed = datasets.load_dataset(str(folder), "default", split="unsplit", streaming=True, cache_dir=str(tmp_path))
    assert streamed.features["image"] == datasets.Image()
    seen = {row["image_id"]: row["image"] for row in streamed}
    assert sorted(seen) == sorted(image_id(row) for row in range(96))
    for number, depth in ((0, 8), (8, 12)):
        expected = np.asarray(Image.open(io.BytesIO(png(number, 64, depth))))
        assert np.array_equal(np.asarray(seen[image_id(number)]), expected)


def test_datasets_takes_features_and_configurations_from_the_card(folder: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))
    assert {split: rows.num_rows for split, rows in loaded.items()} == {"unsplit": 96}
    splits = datasets.load_dataset(str(folder), "splits", split="unsplit", cache_dir=str(tmp_path))
    assert set(splits["split"]) == {"train", "validation", "test", None}


class CountingFile(io.RawIOBase):
    """A local file that counts what is read of it."""

    def __init__(self, file: Any, filesystem: "CountingFileSystem") -> None:
        self.file, self.filesystem = file, filesystem

    def read(self, size: int = -1) -> bytes:
        data = bytes(self.file.read(size))
        self.filesystem.taken += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class CountingFileSystem(LocalFileSystem):  # type: ignore[misc]
    """A local file system that counts the bytes that are read."""

    cachable = False
    taken = 0

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return CountingFile(super()._open(path, mode, **options), self)


def test_pyarrow_reads_only_the_columns_that_are_asked_for(tmp_path: Path) -> None:
    store = published(tmp_path / "large", job(32, 16), side=512)
    size = sum(path.stat().st_size for path in (tmp_path / "large" / "data").iterdir())
    counting = CountingFileSystem()
    filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(counting))
    dataset = ds.dataset(f"{store.root}/data", filesystem=filesystem, format="parquet")
    table = dataset.to_table(columns=["image_id", "findings"])
    assert sorted(table["image_id"].to_pylist()) == sorted(image_id(row) for row in range(32))
    ends = (
        3 * 65_536
    )  # pyarrow reads the last 64 KiB of a file for its footer: of both, and of the first for the schema
    assert 0 < counting.taken < ends + 8_192 < size / 40
    counting.taken = 0
    dataset.to_table(columns=["image"])
    assert counting.taken > size * 0.9


def test_polars_reads_all_columns(folder: Path, tmp_path: Path) -> None:
    import polars as pl

    frame = pl.scan_parquet(f"{folder}/data/*.parquet").collect()
    assert frame.height == frame["image_id"].n_unique() == 96
    first = frame.filter(pl.col("image_id") == image_id(1))
    assert first["image"][0] == {"bytes": png(1, 64), "path": f"{image_id(1)}.png"}
    assert first["findings"].to_list() == [[]]
    joined = frame.join(pl.read_parquet(f"{folder}/splits.parquet"), on="image_id")
    by_patient = joined.drop_nulls(["patient_id"]).group_by("patient_id").agg(pl.col("split").n_unique())
    assert by_patient["split"].max() == 1


@pytest.fixture
def bucket(s3: S3Server, credentials: None) -> s3fs.S3FileSystem:
    client = s3.client()
    if not client.exists("public"):
        client.mkdir("public")
    return client


@pytest.mark.e2e
def test_duckdb_reads_what_was_published_on_s3(bucket: s3fs.S3FileSystem) -> None:
    store = published("s3://public/release-1")
    done = publish(load(PublishConfig, destination=store.uri, splits=True, **STATED))
    assert done.images == 40
    assert {gap.what for gap in check(PublishConfig(destination=store.uri, verify=False))} == {"audit", "verify"}
    # DuckDB's own S3 reader, httpfs, is downloaded at first use; any fsspec file system does as well.
    with duckdb.connect() as connection:
        connection.register_filesystem(bucket)
        shards = "read_parquet('s3://public/release-1/data/*.parquet')"
        counted = connection.sql(
            f"select view, count(*), count(distinct image_id) from {shards} group by view order by view"
        ).fetchall()
        assert counted == [("AP", 20, 20), ("LL", 1, 1), ("PA", 19, 19)]
        train = connection.sql(
            f"select count(*) from {shards} join 's3://public/release-1/splits.parquet' using (image_id) "
            "where split = 'train' and len(findings) > 0"
        ).fetchall()
        assert 0 < train[0][0] < 40


@pytest.mark.e2e
def test_counting_on_s3_reads_no_image(bucket: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    store = published("s3://public/large", job(16, 16), side=512)
    taken = 0
    fetched = s3fs.S3File._fetch_range

    def counted(self: Any, start: int, end: int) -> Any:
        nonlocal taken
        taken += end - start
        return fetched(self, start, end)

    monkeypatch.setattr(s3fs.S3File, "_fetch_range", counted)
    done = publish(load(PublishConfig, destination=store.uri, splits=True, **STATED))
    assert done.images == 16
    size = sum(item.size for item in store.list("data"))
    assert size > 16 * 512 * 512
    assert 0 < taken < size / 20


@pytest.mark.parametrize("library", ["datasets", "pyarrow", "duckdb", "polars"])
def test_the_cards_own_lines_run(folder: Path, tmp_path: Path, library: str) -> None:
    chosen = [block for block in blocks(folder, library) if "torch" not in block]
    assert len(chosen) == 1
    printed = run(chosen[0], folder, tmp_path)
    expected = {"datasets": r"[0-9a-f]{32} \(64, 64\)", "pyarrow": r"^96$", "duckdb": r"PA\W+47", "polars": r"PA\W+47"}
    assert re.search(expected[library], printed, re.MULTILINE), printed


def test_the_cards_training_loop_runs(folder: Path, tmp_path: Path) -> None:
    (loop,) = blocks(folder, "torch")
    assert len([line for line in loop.splitlines() if line.strip()]) <= 36
    printed = run(loop, folder, tmp_path)
    losses = [float(loss) for loss in re.findall(r"^epoch \d: loss ([\d.]+)$", printed, re.MULTILINE)]
    assert len(losses) == 2
    assert losses[1] < losses[0] < 1.5


def test_the_training_loop_runs_where_nothing_is_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.publish import publications

    plain = publications.row
    monkeypatch.setattr(publications, "row", lambda number, side: {**plain(number, side), "findings": None})
    store: Store = published(tmp_path / "out")
    publish(load(PublishConfig, destination=store.uri, **STATED))
    (loop,) = blocks(tmp_path / "out", "torch")
    assert "autoencoder" in (tmp_path / "out" / "README.md").read_text()
    assert len(re.findall(r"^epoch \d: loss [\d.]+$", run(loop, tmp_path / "out", tmp_path), re.MULTILINE)) == 2


def test_fsspec_and_the_card_agree_on_names(folder: Path) -> None:
    names = {Path(path).name for path in fsspec.filesystem("file").find(folder, maxdepth=1)}
    assert {"README.md", "croissant.json", "SHA256SUMS", "splits.parquet", "index.html", "_SUCCESS"} <= names
