"""Whoever receives a publication loads it with the tools of the field, as its own card and the README say."""

import re
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import polars as pl
import pytest
import s3fs

from prichexy.config import PublishConfig, load
from prichexy.lake.commit import commit_shard
from prichexy.lake.job import claim
from prichexy.lake.snapshots import finish
from prichexy.lake.storage import Store
from prichexy.publish import check, publish
from tests.e2e.conftest import S3Server
from tests.publish.consumers import FOOTER, Place, card_block, decoded, losses, printed, python_blocks
from tests.publish.publications import image_id, job, png, published, rows
from tests.publish.test_documents import STATED

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A publication with its card and splits."""
    root = tmp_path_factory.mktemp("published") / "out"
    store = published(root, job(96, 32))
    publish(load(PublishConfig, destination=store.uri, splits=True, **STATED))
    return root


def test_datasets_streams_decoded_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seen = {row["image_id"]: row["image"] for row in Place(str(folder)).by_datasets()}
    assert sorted(seen) == sorted(image_id(row) for row in range(96))
    for number, depth in ((0, 8), (8, 12)):
        assert np.array_equal(np.asarray(seen[image_id(number)]), decoded(png(number, 64, depth)))


def test_datasets_takes_features_and_configurations_from_the_card(folder: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))
    assert {split: rows.num_rows for split, rows in loaded.items()} == {"unsplit": 96}
    splits = datasets.load_dataset(str(folder), "splits", split="unsplit", cache_dir=str(tmp_path))
    assert set(splits["split"]) == {"train", "validation", "test", None}


def test_pyarrow_reads_only_the_columns_that_are_asked_for(tmp_path: Path) -> None:
    store = published(tmp_path / "large", job(32, 16), side=512)
    size = sum(path.stat().st_size for path in (tmp_path / "large" / "data").iterdir())
    table, taken = Place(store.root).projected(["image_id", "findings"])
    assert sorted(table["image_id"].to_pylist()) == sorted(image_id(row) for row in range(32))
    assert 0 < taken < 3 * FOOTER + 8_192 < size / 40
    _, taken = Place(store.root).projected(["image"])
    assert taken > size * 0.9


def test_polars_reads_all_columns(folder: Path) -> None:
    frame = Place(str(folder)).by_polars().collect()
    assert frame.height == frame["image_id"].n_unique() == 96
    first = frame.filter(pl.col("image_id") == image_id(1))
    assert first["image"][0] == {"bytes": png(1, 64), "path": f"{image_id(1)}.png"}
    assert first["findings"].to_list() == [[]]
    joined = frame.join(Place(str(folder)).by_polars("splits.parquet").collect(), on="image_id")
    by_patient = joined.drop_nulls(["patient_id"]).group_by("patient_id").agg(pl.col("split").n_unique())
    assert by_patient["split"].max() == 1


@pytest.fixture
def bucket(s3: S3Server, credentials: None) -> s3fs.S3FileSystem:
    client = s3.client()
    if not client.exists("public"):
        client.mkdir("public")
    return client


@pytest.mark.e2e
def test_what_was_published_on_s3_is_read_as_the_readme_says(
    bucket: s3fs.S3FileSystem, s3: S3Server, tmp_path: Path
) -> None:
    store = published("s3://public/release-1")
    done = publish(load(PublishConfig, destination=store.uri, splits=True, **STATED))
    assert done.images == 40
    assert {gap.what for gap in check(PublishConfig(destination=store.uri, verify=False))} == {"audit", "verify"}
    place = Place(store.uri, s3)
    counted = place.by_duckdb("select view, count(*), count(distinct image_id) from SHARDS group by view order by view")
    assert counted == [("AP", 20, 20), ("LL", 1, 1), ("PA", 19, 19)]
    train = place.by_duckdb(
        "select count(*) from SHARDS join SPLITS using (image_id) where split = 'train' and len(findings) > 0"
    )
    assert 0 < train[0][0] < 40
    (block,) = [block for block in python_blocks(ROOT / "README.md", "duckdb") if "s3://" in block]
    told = printed(block, tmp_path, tmp_path, s3.environment())
    assert re.search(r"AP\W+20\b", told), told
    assert told.splitlines()[-1] == "(64, 64)"


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


@pytest.fixture(scope="module")
def jpeg_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same publication in JPEG XL."""
    root = tmp_path_factory.mktemp("jpeg-xl") / "out"
    store = published(root, job(96, 32, encoding="jpeg-xl"))
    publish(load(PublishConfig, destination=store.uri, splits=True, **STATED))
    return root


def test_datasets_streams_jpeg_xl_once_pillow_knows_it(jpeg_xl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pillow_jxl", reason="pillow-jxl-plugin is not installed: pip install pillow-jxl-plugin")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seen = {row["image_id"]: row["image"] for row in Place(str(jpeg_xl)).by_datasets()}
    assert sorted(seen) == sorted(image_id(row) for row in range(96))
    assert np.array_equal(np.asarray(seen[image_id(0)]), decoded(png(0, 64)))
    twelve = np.asarray(seen[image_id(8)])
    assert np.array_equal(twelve >> 4, decoded(png(8, 64, 12)) >> 4)
    assert np.abs(twelve.astype(int) - decoded(png(8, 64, 12))).max() <= 1  # full range, rounded otherwise


def test_the_bytes_of_jpeg_xl_are_the_levels_of_the_png(folder: Path, jpeg_xl: Path) -> None:
    import imagecodecs

    read = "select image_id, image.bytes, bit_depth from SHARDS"
    expected = {name: (decoded(image), depth) for name, image, depth in Place(str(folder)).by_duckdb(read)}
    seen = Place(str(jpeg_xl)).by_duckdb(read)
    assert {depth for _, _, depth in seen} == {8, 12}
    assert len(seen) == len(expected) == 96
    for name, image, depth in seen:
        pixels, same_depth = expected[name]
        assert depth == same_depth
        assert np.array_equal(imagecodecs.jpegxl_decode(image), pixels >> (4 if depth == 12 else 0))


@pytest.mark.parametrize("library", ["datasets", "pyarrow", "duckdb", "polars", "imagecodecs", "torch"])
def test_the_lines_of_a_card_of_jpeg_xl_run(jpeg_xl: Path, tmp_path: Path, library: str) -> None:
    if library in ("datasets", "torch"):
        pytest.importorskip("pillow_jxl", reason="pillow-jxl-plugin is not installed: pip install pillow-jxl-plugin")
    output = printed(card_block(jpeg_xl, library), jpeg_xl, tmp_path)
    expected = {"datasets": r"[0-9a-f]{32} \(64, 64\)", "pyarrow": r"^96$", "imagecodecs": r"\(64, 64\) (8|12)$"}
    if library == "torch":
        first, second = losses(output)
        assert second < first < 1.5
    else:
        assert re.search(expected.get(library, r"PA\W+47"), output, re.MULTILINE), output


@pytest.mark.parametrize("library", ["datasets", "pyarrow", "duckdb", "polars"])
def test_the_cards_own_lines_run(folder: Path, tmp_path: Path, library: str) -> None:
    expected = {"datasets": r"[0-9a-f]{32} \(64, 64\)", "pyarrow": r"^96$", "duckdb": r"PA\W+47", "polars": r"PA\W+47"}
    output = printed(card_block(folder, library), folder, tmp_path)
    assert re.search(expected[library], output, re.MULTILINE), output


def test_the_training_loop_of_the_readme_is_the_cards_and_runs(folder: Path, tmp_path: Path) -> None:
    (loop,) = python_blocks(ROOT / "README.md", "torch")
    assert loop == card_block(folder, "torch")
    assert len([line for line in loop.splitlines() if line.strip()]) <= 20
    first, second = losses(printed(loop, folder, tmp_path))
    assert second < first < 1.5


def test_the_readmes_other_lines_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "published").symlink_to(folder)
    others = [block for block in python_blocks(ROOT / "README.md") if "published/" in block]
    assert len(others) == 1
    assert printed(f"{others[0]}\nprint(images.num_rows)", tmp_path, tmp_path).splitlines()[-1] == "96"


def test_the_training_loop_runs_where_nothing_is_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.publish import publications

    plain = publications.row
    monkeypatch.setattr(publications, "row", lambda number, side: {**plain(number, side), "findings": None})
    store: Store = published(tmp_path / "out")
    for splits in (False, True):
        publish(load(PublishConfig, destination=store.uri, splits=splits, **STATED))
        assert "autoencoder" in (tmp_path / "out" / "README.md").read_text()
        assert len(losses(printed(card_block(tmp_path / "out", "torch"), tmp_path / "out", tmp_path))) == 2


def test_the_cards_lines_read_the_newest_snapshot_only(tmp_path: Path) -> None:
    store = published(tmp_path / "out")
    increment = job(20, 10, snapshot=2)
    claim(store, increment)
    for shard in range(increment.shards):
        commit_shard(store, increment, shard, rows(increment, *increment.span(shard)))
    finish(store, increment, replaced=[image_id(row) for row in range(20)])
    publish(load(PublishConfig, destination=store.uri, splits=True, **STATED))
    out = tmp_path / "out"
    assert printed(card_block(out, "pyarrow"), out, tmp_path) == "40\n"
    assert (out / "README.md").read_text().count('["s3://BUCKET/PREFIX/" + file for file in files]') == 2
    assert len(losses(printed(card_block(out, "torch"), out, tmp_path))) == 2


def test_fsspec_and_the_card_agree_on_names(folder: Path) -> None:
    names = {Path(path).name for path in fsspec.filesystem("file").find(folder, maxdepth=1)}
    assert {"README.md", "croissant.json", "SHA256SUMS", "splits.parquet", "index.html", "_SUCCESS"} <= names
