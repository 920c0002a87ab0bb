"""A publication in JPEG XL: claimed, verified and withdrawn from as one in PNG, and of that encoding for good."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prichexy.deid import Pseudonyms
from prichexy.errors import UsageError
from prichexy.imaging import encode_jpegxl, encode_png
from prichexy.lake.commit import commit_shard
from prichexy.lake.images import image_is_sound
from prichexy.lake.job import claim, read_job
from prichexy.lake.shards import digest
from prichexy.lake.snapshots import finish, jobs_of, read_manifest
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify
from prichexy.lake.withdrawal import Named, withdraw
from tests.imaging.dx import picture
from tests.lake.test_commit import rewrite
from tests.publish.publications import image_id, job, published, rows

KEYS = Pseudonyms.from_secret(bytes(range(32)))
JPEG_XL = replace(job(), encoding="jpeg-xl", key_id=KEYS.key_id)
FIRST = Path("data/part-0001-000000-of-000003.parquet")


def image_of(encoding: str, bits: int) -> dict[str, Any]:
    pixels = picture(bits, 80, 70)
    file, suffix = (encode_png(pixels, bits), "png") if encoding == "png" else (encode_jpegxl(pixels, bits), "jxl")
    image = {"bytes": file, "path": f"{image_id(0)}.{suffix}"}
    return {"image_id": image_id(0), "image": image, "width": 70, "height": 80, "bit_depth": bits}


@pytest.mark.parametrize("encoding", ["png", "jpeg-xl"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_an_image_is_sound_as_what_its_row_says(encoding: str, bits: int) -> None:
    row = image_of(encoding, bits)
    image = row["image"]
    assert image_is_sound(row, encoding)
    other = "png" if encoding == "jpeg-xl" else "jpeg-xl"
    assert not image_is_sound(row, other)
    assert not image_is_sound(row, "webp")
    for change in (
        {"width": 80, "height": 70},
        {"height": 81},
        {"bit_depth": 16 if bits == 8 else 8},
        {"image_id": image_id(1)},
        {"image": None},
        {"image": {**image, "bytes": None}},
        {"image": {**image, "bytes": image["bytes"] + b"Roe^Jane"}},
        {"image": {**image, "bytes": image["bytes"][:-20]}},
        {"image": {**image, "bytes": image_of(other, bits)["image"]["bytes"]}},
        {"image": {**image, "path": "roe_jane.jxl"}},
    ):
        assert not image_is_sound({**row, **change}, encoding), change


def test_a_publication_is_whole_and_its_images_are_named_for_what_they_are(tmp_path: Path) -> None:
    store = published(tmp_path / "out", JPEG_XL, bad=(3,))
    report = verify(store)
    assert (report.problems, report.published, report.quarantined) == ([], 39, 1)
    names = [image["path"] for file in Path(store.root, "data").iterdir() for image in read_images(file)]
    assert sorted(names) == sorted(f"{image_id(row)}.jxl" for row in range(40) if row != 3)


def read_images(file: Path) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = pq.read_table(file)["image"].to_pylist()
    return images


def with_bytes(change: Callable[[bytes], bytes]) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        listed = table.to_pylist()
        listed[0]["image"]["bytes"] = change(listed[0]["image"]["bytes"])
        return pa.Table.from_pylist(listed, table.schema)

    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image + b"Roe^Jane",
        lambda image: image[:-9],
        lambda image: b"",
        lambda image: encode_png(picture(8, 64, 64), 8),
        lambda image: encode_jpegxl(picture(8, 64, 65), 8),
    ],
)
def test_verify_notices_images_that_are_damaged_or_hold_more(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    store = published(tmp_path / "out", JPEG_XL)
    rewrite(Path(store.root) / FIRST, with_bytes(change))
    assert verify(store).problems == ["shard 0001-000000: 1 images are damaged or carry more than pixels"]


def test_png_among_jpeg_xl_is_noticed_and_the_other_way_round(tmp_path: Path) -> None:
    for made, said in ((JPEG_XL, job()), (job(), JPEG_XL)):
        store = Store(str(tmp_path / made.encoding))
        claim(store, said)
        for shard in range(said.shards):
            commit_shard(store, said, shard, rows(made, *made.span(shard)))
        finish(store, said)
        assert [problem.partition(":")[2] for problem in verify(store).problems] == [
            f" {count} images are damaged or carry more than pixels" for count in (16, 16, 8)
        ]


def test_a_withdrawal_leaves_the_other_images_as_they_were(tmp_path: Path) -> None:
    store = published(tmp_path / "out", JPEG_XL)
    before = {image["path"]: image for image in read_images(Path(store.root) / FIRST)}
    done = withdraw(store, KEYS, Named(images=frozenset([image_id(0)])))
    assert (done.outcome, done.images) == ("withdrawn", 1)
    (file,) = Path(store.root, "data").glob("*from-0001-000000*")
    del before[f"{image_id(0)}.jxl"]
    assert {image["path"]: image for image in read_images(file)} == before
    for snapshot in (1, 2):
        assert verify(store, snapshot=snapshot).problems == []


def test_another_encoding_than_that_of_the_beginning_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    claim(store, JPEG_XL)
    with pytest.raises(UsageError, match=r"holds another job's shards \(differing: encoding\): choose another dest"):
        claim(store, replace(JPEG_XL, encoding="png"))
    claim(store, JPEG_XL)


def test_a_destination_that_was_begun_before_encodings_goes_on_in_png(tmp_path: Path) -> None:
    store = published(tmp_path / "out")
    manifest = json.loads(store.read("_snapshots/0001/_MANIFEST.json"))
    record = json.loads(store.read("_snapshots/0001/_job.json"))
    del record["encoding"], manifest["jobs"][0]["encoding"]
    text = json.dumps(manifest).encode()
    store.write("_snapshots/0001/_job.json", json.dumps(record).encode())
    store.write("_snapshots/0001/_MANIFEST.json", text)
    switch = {"snapshot": 1, "manifest": "_snapshots/0001/_MANIFEST.json", "sha256": digest(text)}
    store.write("_SUCCESS", json.dumps(switch).encode())
    assert read_job(store) == job()
    assert verify(store).problems == []
    claim(store, job())
    with pytest.raises(UsageError, match=r"earlier snapshots of another kind \(differing: encoding\)"):
        claim(store, replace(job(), snapshot=2, encoding="jpeg-xl"))
    increment = job(10, 10, snapshot=2)
    claim(store, increment)
    commit_shard(store, increment, 0, rows(increment, 0, 10))
    finish(store, increment, replaced=[image_id(row) for row in range(10)])
    assert verify(store).problems == []
    now = read_manifest(store)
    assert now is not None
    assert [each.encoding for each in jobs_of(now)] == ["png", "png"]
