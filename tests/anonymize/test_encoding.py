"""The job in JPEG XL publishes the pixels of the job in PNG, and the same bytes each time."""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pyarrow.parquet as pq
import pytest

from prichexy.anonymize import anonymize
from prichexy.cohort.phantom import PhantomCohort, write_dicom, write_mixed
from prichexy.config import AnonymizeConfig
from prichexy.errors import UsageError
from prichexy.imaging import decode_published
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify
from prichexy.obfuscation import create_untrained

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PNG of 8 bits, DICOM of 8 to 16."""
    folder = tmp_path_factory.mktemp("phantoms") / "lake"
    write_mixed(PhantomCohort(5, 7, size=150), folder)
    write_dicom(PhantomCohort(4, 8, size=120), folder / "dicom")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    create_untrained("flow-field", folder / "flow", 0, {"features": 4, "mu": 0.05})
    return folder


def configured(lake: Path, out: Path, models: Path, secret_file: Path, **more: Any) -> AnonymizeConfig:
    return AnonymizeConfig(
        source=str(lake),
        destination=str(out),
        model=str(models / "flow"),
        secret_file=secret_file,
        allow_unaudited=True,
        exclude=("*.csv",),
        chunk=4,
        rows_per_shard=10,
        also_dicom=True,
        **{"deid": {"burned_in_text": "off"}, **more},
    )


def rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for file in out.glob("data/*") for row in pq.read_table(file).to_pylist()}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_jpeg_xl_holds_the_pixels_of_the_png_and_is_the_same_again(
    lake: Path, models: Path, tmp_path: Path, secret_file: Path
) -> None:
    for name, encoding in (("png", "png"), ("jxl", "jpeg-xl"), ("again", "jpeg-xl")):
        done = anonymize(configured(lake, tmp_path / name, models, secret_file, encoding=encoding))
        assert verify(Store(str(tmp_path / name))).problems == []
        assert done.quarantined == 0
    png, jxl = rows(tmp_path / "png"), rows(tmp_path / "jxl")
    assert png.keys() == jxl.keys()
    assert {8, 10, 12, 14, 16} <= {row["bit_depth"] for row in jxl.values()}
    for name, row in jxl.items():
        depth, image = row["bit_depth"], row["image"]
        expected = decode_published(png[name]["image"]["bytes"])
        assert depth == expected.bit_depth
        np.testing.assert_array_equal(imagecodecs.jpegxl_decode(image["bytes"]), expected.pixels)
        assert image["path"] == f"{name}.jxl"
        assert {**row, "image": None} == {**png[name], "image": None}
    # DICOM files have encodings of their own.
    assert files(tmp_path / "jxl" / "dicom") == files(tmp_path / "png" / "dicom")
    assert files(tmp_path / "jxl" / "data") == files(tmp_path / "again" / "data")


def test_a_destination_keeps_the_encoding_that_it_began_with(
    lake: Path, models: Path, tmp_path: Path, secret_file: Path
) -> None:
    config = configured(lake, tmp_path / "out", models, secret_file, encoding="jpeg-xl", resolution="256")
    anonymize(config)
    before = files(tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds another job's shards \(differing: encoding\)"):
        anonymize(config.model_copy(update={"encoding": "png"}))
    more = tmp_path / "lake"
    more.mkdir()
    for path in lake.rglob("*.png"):
        (more / path.name).write_bytes(path.read_bytes())
    grown = config.model_copy(update={"source": str(more), "destination": str(tmp_path / "grown"), "increment": True})
    anonymize(grown)
    (more / "new.png").write_bytes(next(iter(lake.rglob("*.png"))).read_bytes())
    with pytest.raises(UsageError, match=r"holds earlier snapshots of another kind \(differing: encoding\)"):
        anonymize(grown.model_copy(update={"encoding": "png"}))
    assert anonymize(grown).snapshot == 2
    assert verify(Store(grown.destination)).problems == []
    assert {Path(row["image"]["path"]).suffix for row in rows(tmp_path / "grown").values()} == {".jxl"}
    assert files(tmp_path / "out") == before
