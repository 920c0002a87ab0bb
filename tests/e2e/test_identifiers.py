"""60 identifiers planted in 200 DX files: none is left in anything that the command writes, keeps or says.

Exempt by intention: the source, and the private catalog, which names source files so that their owner finds them.
The command runs as a user would run it, with a home, a temporary folder and a folder for Ray of its own. Ray is told to
spill nearly everything that crosses between tasks to its disk, and to log in detail. Temporary and spilled files are
gone when the command ends; while it runs, each is given a second name (a hard link) as soon as it appears, and read
later.
What lives in shared memory only is not looked at.
"""

import io
import json
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydicom import dcmread

from prichexy.deid import CustodianKey, Pseudonyms, create_custodian_key
from prichexy.deid.scan import Canaries
from prichexy.lake.link import read_links
from prichexy.lake.storage import Store
from prichexy.obfuscation import create_untrained
from prichexy.registry import Registry
from tests.e2e.conftest import prichexy
from tests.e2e.planted import BURNED, FILES, IDENTIFIERS, Burned, PlantedLake, planted_lake

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
BY_CHANCE = 6
"""Shorter forms of an identifier stand in megabytes of compressed bytes by chance (see `Canaries`)."""


@dataclass(frozen=True)
class Run:
    """A finished job and a failed one, and where all that they left lies.

    Attributes:
        place: the folder that holds everything else: home, temporary files, Ray's folder, MLflow, link table.
        source: the lake.
        lake: what was planted in it.
        said: standard output and error of every command.
        seen: second names of the files that appeared in the temporary folders while the job ran.
        spilled: how many of these Ray spilled.
        summary: of the job that finished.
    """

    place: Path
    source: Path
    lake: PlantedLake
    said: list[str]
    seen: Path
    spilled: int
    summary: dict[str, Any]

    @property
    def out(self) -> Path:
        return self.place / "out"


@contextmanager
def kept_files(folders: list[Path], into: Path) -> Iterator[None]:
    """Gives a second name to every file that appears below the folders, so that deleting it does not lose it."""
    into.mkdir()
    stop, known = threading.Event(), set[int]()

    def look() -> None:
        for folder in folders:
            for base, _, names in os.walk(folder):
                kind = "spilled" if "ray_spilled_objects" in base else "file"
                for name in names:
                    with suppress(OSError):  # gone already
                        path = Path(base, name)
                        inode = path.lstat().st_ino
                        if inode not in known:
                            os.link(path, into / f"{kind}-{inode}", follow_symlinks=False)
                            known.add(inode)

    def follow() -> None:
        while not stop.wait(0.02):
            look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, secret_file: Path) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("identifiers")
    lake = planted_lake(folder / "lake")
    create_untrained("identity", folder / "identity", 0, {})
    create_custodian_key(folder / "custodian.key")
    place = Path(tempfile.mkdtemp(prefix="px-"))  # short: Ray's sockets have paths of at most 107 bytes
    for name in ("home", "tmp", "ray"):
        (place / name).mkdir()
    registry = f"sqlite:///{place}/mlflow.db"
    Registry(registry).register(folder / "identity", "identity", "for the test")
    environment = {
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        "RAY_TMPDIR": str(place / "ray"),
        "RAY_BACKEND_LOG_LEVEL": "info",
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(80 << 20),
        "RAY_object_spilling_threshold": "0.01",
        "RAY_min_spilling_size": "1",
    }
    words = ["--model", "models:/identity/1", "--tracking-uri", registry, "--secret-file", str(secret_file)]
    words += ["--allow-unaudited", "--also-dicom", "--link-recipient", str(folder / "custodian.key.pub")]
    words += ["rows_per_shard=50", "chunk=10", "transfer_syntax=rle", "--json"]
    whole = ["anonymize", str(folder / "lake"), str(place / "out"), "--link-table", str(place / "link"), *words]
    with kept_files([place / "tmp", place / "ray"], place / "seen"):
        done = prichexy(*whole, env=environment, timeout=1800)
        assert done.returncode == 0, done.stderr
        missing = next(iter(lake.burned))
        (folder / "lake" / missing).rename(folder / "away")
        catalog = f"{place}/out.private/catalog"
        fails = ["anonymize", catalog, str(place / "out2"), "--link-table", str(place / "link2"), *words]
        failed = prichexy(*fails, env=environment, timeout=1800)
        (folder / "away").rename(folder / "lake" / missing)
        shown = prichexy("quarantine", str(place / "out"), env=environment)
    assert failed.returncode == 1, failed.stderr
    assert shown.returncode == 0, shown.stderr
    said = [text for told in (done, failed, shown) for text in (told.stdout, told.stderr)]
    spilled = len(list((place / "seen").glob("spilled-*")))
    try:
        yield Run(place, folder / "lake", lake, said, place / "seen", spilled, json.loads(done.stdout))
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def canaries(run: Run) -> Canaries:
    """The planted identifiers, and those of the invented persons behind the files."""
    return Canaries([*IDENTIFIERS.values(), *run.lake.persons])


def unpacked(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what they hold in compressed or paged form."""
    data = path.read_bytes()
    yield data
    if data.startswith(b"PAR1"):
        table = pq.read_table(io.BytesIO(data))
        yield repr(table.schema.metadata).encode() + b"\n".join(_values(table))
        for image in table["image"].to_pylist() if "image" in table.column_names else ():
            yield np.asarray(Image.open(io.BytesIO(image["bytes"]))).tobytes()
    elif data.startswith(b"SQLite format 3\0"):
        with sqlite3.connect(path) as database:
            yield "\n".join(database.iterdump()).encode()
    elif data[128:132] == b"DICM":
        yield dcmread(io.BytesIO(data)).pixel_array.tobytes()


def _values(table: pa.Table) -> Iterator[bytes]:
    for row in table.to_pylist():
        for value in row.values():
            if isinstance(value, dict):
                yield from (part if isinstance(part, bytes) else str(part).encode() for part in value.values())
            elif isinstance(value, bytes):
                yield value
            else:
                yield str(value).encode()


def searched(run: Run) -> dict[str, list[Path]]:
    """The files that are looked at, by what they are: everything below the run's place, but the private catalog."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(run.place.rglob("*")):
        parts = path.relative_to(run.place).parts
        if path.is_symlink() or not path.is_file() or parts[0] == "out.private":
            continue
        known = {"data": "shards", "_quarantine": "quarantine", "dicom": "DICOM files"}
        kind = known.get(parts[1] if len(parts) > 2 else "", "job files") if parts[0] == "out" else parts[0]
        if kind == "seen" and parts[1].startswith("spilled"):
            kind = "spilled by Ray"
        elif kind == "ray" and "logs" in parts:
            kind = "Ray's logs"
        kinds.setdefault(kind, []).append(path)
    return kinds


def found(data: bytes) -> list[str]:
    """Where the identifiers stood in the source that are in the bytes."""
    return [where for where, text in IDENTIFIERS.items() if Canaries([text]).found_in(data, BY_CHANCE)]


def test_the_search_finds_each_identifier_in_the_source(run: Run) -> None:
    """Those in the pixels are searched as bytes too, but stand nowhere as such."""
    paths = [path for path in run.source.rglob("*") if path.is_file()]
    assert len(paths) == FILES
    names = "\n".join(str(path.relative_to(run.source)) for path in paths).encode()
    everything = names + b"\n".join(path.read_bytes() for path in paths)
    assert set(IDENTIFIERS) - set(found(everything)) == {f"burned in {number}" for number in range(len(BURNED))}
    assert len(IDENTIFIERS) >= 60


def test_the_search_finds_an_identifier_in_every_kind_of_file(run: Run, canaries: Canaries, tmp_path: Path) -> None:
    text = IDENTIFIERS["nested description"]
    image = {"bytes": _png(np.frombuffer(text.encode().ljust(64 * 64, b"\0"), np.uint8).reshape(64, 64)), "path": "p"}
    pq.write_table(pa.table({"image": [image]}), tmp_path / "pixels.parquet", compression="zstd")
    pq.write_table(pa.table({"view": [text] * 9}), tmp_path / "text.parquet", compression="zstd")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("create table tags (value text)")
        database.execute("insert into tags values (?)", ["-" * 4090 + text])  # may lie across a page's border
    (tmp_path / "log").write_text(f"worker died at {text.encode('utf-16-be').hex()}")
    for path in tmp_path.iterdir():
        assert max(canaries.found_in(data, BY_CHANCE) for data in unpacked(path)) == 1, path.name


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_no_identifier_is_left_in_any_file(run: Run, canaries: Canaries) -> None:
    kinds = searched(run)
    expected = {"shards", "quarantine", "DICOM files", "job files", "mlflow.db", "link", "Ray's logs", "spilled by Ray"}
    assert expected <= set(kinds)
    assert run.spilled >= 10
    assert len(kinds["DICOM files"]) == run.summary["dicom_files"] >= 160
    leaks = []
    for kind, paths in kinds.items():
        for path in paths:
            for data in unpacked(path):
                if count := canaries.found_in(data, BY_CHANCE):
                    leaks.append(f"{kind}: {path.name}: {found(data) or f'{count} of the persons'}")
    assert leaks == []
    names = "\n".join(str(path.relative_to(run.place)) for paths in kinds.values() for path in paths)
    assert found(names.encode()) == []


def test_no_identifier_is_left_in_what_the_command_says(run: Run, canaries: Canaries) -> None:
    for text in run.said:
        assert found(text.encode()) == []
        assert canaries.found_in(text.encode(), BY_CHANCE) == 0
        assert "Traceback" not in text
    assert "a listed file is gone from the lake (row " in run.said[3]


def test_broken_files_are_in_quarantine_and_all_are_accounted_for(run: Run) -> None:
    summary = run.summary
    assert (summary["rows"], summary["published"] + summary["quarantined"]) == (FILES, FILES)
    assert summary["reasons"].keys() >= {
        "Truncated",
        "NotAChestRadiograph",
        "ColourPhotograph",
        "Corrupt",
        "UnsupportedTransferSyntax",
        "NotAnImage",
    }
    assert 12 <= summary["quarantined"] <= FILES // 5


def test_the_link_table_is_sealed_and_opens_for_the_custodian(run: Run) -> None:
    key = CustodianKey.from_file(run.source.parent / "custodian.key")
    opened = [key.open(entry) for entry in read_links(Store(str(run.place / "link")))]
    assert len(opened) == run.summary["published"]
    names = {str(path.relative_to(run.source)) for path in run.source.rglob("*") if path.is_file()}
    assert {entry.uri for entry in opened} <= names
    assert IDENTIFIERS["PatientID"] in {entry.patient_old for entry in opened}


def test_burned_in_text_is_covered(run: Run, secret_file: Path) -> None:
    """Of the ink, 98 % look like what surrounds the letters in the published image, and none of the texts is legible.

    The published pixel may differ from the published pixels around the ink by a third of what the letters differed.
    """
    keys = Pseudonyms.from_file(secret_file)
    rows = {row["image_id"]: row for shard in run.out.glob("data/*") for row in pq.read_table(shard).to_pylist()}
    judged, changed = {}, {}
    for path, text in run.lake.burned.items():
        row = rows.get(keys.image_id(path))
        if row is not None:  # else in quarantine: says that it holds text, and none was found
            image = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
            levels = image if row["bit_depth"] == 8 else image >> (16 - row["bit_depth"])
            judged[path] = covered(text, levels)
            far = (
                np.abs(levels.astype(int) - text.source) > 0.1 * 2 ** row["bit_depth"]
            )  # more than JPEG baseline's loss
            changed[path] = float(far[~text.ink].mean())
    assert len(judged) >= 0.9 * len(run.lake.burned)
    ink = np.concatenate(list(judged.values()))
    assert ink.mean() >= 0.98, {path: round(float(share.mean()), 3) for path, share in judged.items()}
    assert np.mean([share.mean() >= 0.9 for share in judged.values()]) >= 0.95
    assert max(changed.values()) < 0.25, "an image was blanked rather than its text covered"
    sizes = {(text.size, text.light) for path, text in run.lake.burned.items() if path in judged}
    assert {size for size, _ in sizes} == set(range(10, 33, 2))
    assert {light for _, light in sizes} == {True, False}


def covered(text: Burned, published: np.ndarray) -> np.ndarray:
    """Of each pixel of ink, whether it changed and now looks like its surroundings."""
    wide = cv2.dilate(text.ink.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    contrast = np.abs(text.source - _around(text.source, wide))
    left = np.abs(published - _around(published, wide))
    similar: np.ndarray = (left <= contrast / 3) & (published != text.source)
    return similar[text.ink]


def _around(levels: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """The mean of the pixels without ink within 7 pixels, (H, W) float32."""
    weight, window = (~ink).astype(np.float32), (15, 15)
    total: np.ndarray = cv2.blur(levels.astype(np.float32) * weight, window)
    return total / np.maximum(cv2.blur(weight, window), np.float32(1e-6))
