"""200 real radiographs at both resolutions, and what a consumer sees of them."""

import json
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pytest

from tests.e2e.conftest import prichexy

pytestmark = [pytest.mark.e2e, pytest.mark.real]


@pytest.mark.parametrize(
    ("resolution", "side", "text"),
    [pytest.param("native", 1024, "redact", marks=pytest.mark.long), ("256", 256, "off")],
)
def test_all_real_radiographs_are_published_and_load_as_images(
    real_data: Path, model: Path, secret_file: Path, tmp_path: Path, resolution: str, side: int, text: str
) -> None:
    lake, out = real_data / "chestxray14" / "images_1024", tmp_path / "out"
    arguments = ["anonymize", str(lake), str(out), "--model", str(model), "--secret-file", str(secret_file), "--json"]
    done = prichexy(*arguments, "--allow-unaudited", "--resolution", resolution, f"deid.burned_in_text={text}")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["published"], summary["quarantined"]) == (200, 200, 0)
    verified = prichexy("verify", str(out), "--json")
    assert (verified.returncode, json.loads(verified.stdout)["published"]) == (0, 200)
    loaded = datasets.load_dataset(
        "parquet", data_files=f"{out}/data/*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == 200
    pixels = np.asarray(loaded[17]["image"])
    assert pixels.shape == (side, side)
    assert pixels.std() > 20
    counted = duckdb.connect().execute(
        f"select count(*), count(distinct image_id), min(width), max(height) from '{out}/data/*.parquet'"
    )
    assert counted.fetchall() == [(200, 200, side, side)]
