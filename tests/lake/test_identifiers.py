"""Identifiers that made their way into a publication are found when it is verified; clean ones have no problem."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from prichexy.cli import app
from prichexy.cli.console import exit_codes
from prichexy.cohort.phantom.cohort import PhantomStudy, render
from prichexy.deid import ProfileOptions, deidentify, dicom_bytes
from prichexy.deid.scan import Canaries
from prichexy.errors import PrichexyError
from prichexy.imaging import ENCODINGS
from prichexy.lake.commit import Commit, FileFacts, commit_shard
from prichexy.lake.dicom_files import write_dicom
from prichexy.lake.identifiers import IdentifierScan
from prichexy.lake.job import Job, claim
from prichexy.lake.snapshots import finish
from prichexy.lake.storage import Store
from prichexy.lake.verify import Report, verify
from tests.deid.drawn_text import glyphs
from tests.deid.headers import KEYS, phantom_header
from tests.lake.test_commit import MODEL

COLUMNS = ["modality", "manufacturer", "manufacturer_model"]
DEID = {"device_identity": True}
OPTIONS = ProfileOptions(device_identity=True, pixels_cleaned=True)
PIXELS = np.full((64, 64), 99, np.uint8)
ROWS_PER_SHARD = 4


def image_id(row: int) -> str:
    return KEYS.image_id(f"image {row}")


def file_of(change: dict[str, str] | None = None) -> bytes:
    header = deidentify(phantom_header(), KEYS, OPTIONS)
    for keyword, value in (change or {}).items():
        setattr(header, keyword, value)
    return dicom_bytes(header, PIXELS, 8)


def published(
    root: Path,
    row: dict[int, dict[str, Any]] | None = None,
    pixels: dict[int, NDArray[Any]] | None = None,
    dicom: dict[int, bytes] | None = None,
    encoding: str = "png",
) -> Store:
    """A finished publication of 8 rows in 2 shards; some rows' columns, pixels or DICOM files are other than usual."""
    store = Store(str(root))
    job = Job(8, ROWS_PER_SHARD, "native", 4, {}, "s", "c", "k", MODEL, False, deid=DEID, columns=COLUMNS)
    job = replace(job, transfer_syntax="uncompressed", encoding=encoding)
    written = ENCODINGS[encoding]
    claim(store, job)
    extra = [
        pa.field("dicom_sha256", pa.string()),
        pa.field("dicom_bytes", pa.int64()),
        pa.field("covered", pa.bool_()),
    ]
    facts = [pa.field("row_id", pa.int64())] + [pa.field(name, pa.string()) for name in ("stage", "reason", "message")]
    for shard in range(job.shards):
        made: list[dict[str, Any]] = []
        for number in range(*job.span(shard)):
            if number % 4 == 3:
                made.append({"row_id": number, "stage": "decode", "reason": "Truncated", "message": "cut short"})
            else:
                image = (pixels or {}).get(number, PIXELS)
                name = image_id(number)
                file = write_dicom(store, 1, shard, name, (dicom or {}).get(number, file_of()))
                made.append(
                    {
                        "row_id": number,
                        "image_id": name,
                        "image": {"bytes": written.encode(image, 8), "path": f"{name}{written.suffix}"},
                        "width": image.shape[1],
                        "height": image.shape[0],
                        "bit_depth": 8,
                        "model_version": "m/1",
                        "modality": "DX",
                        "manufacturer": "Isar Imaging, Inc.",
                        "manufacturer_model": "Stand 4711086",
                        "dicom": file.path,
                        "dicom_sha256": file.sha256,
                        "dicom_bytes": file.bytes,
                    }
                )
            made[-1] |= (row or {}).get(number, {})
        commit_shard(store, job, shard, pa.Table.from_pylist(made, pa.schema([*job.schema, *facts, *extra])))
    finish(store, job)
    return store


def checked(store: Store, canaries: Canaries | None = None, images: int = 0) -> Report:
    return verify(store, canaries=canaries, images=images)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_clean_publication_has_no_problems(encoding: str, tmp_path: Path) -> None:
    report = checked(published(tmp_path / "out", encoding=encoding), Canaries(["Roe^Jane", "19610312", "4711087"]))
    assert report.problems == []
    assert (report.published, report.dicom_files, report.canaries, report.images_looked_at) == (6, 6, 3, 0)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {3: {"message": "the file of Roe, Jane is cut"}},
            "shard 0001-000000: column message holds what looks like a person name",
        ),
        ({7: {"reason": "Cut19610312"}}, "shard 0001-000001: column reason holds what looks like a date"),
        ({0: {"modality": "4711086"}}, "shard 0001-000000: column modality holds what looks like a record number"),
        (
            {5: {"manufacturer": "ROE^JANE"}},
            "shard 0001-000001: column manufacturer holds what looks like a person name",
        ),
    ],
)
def test_patterns_in_text_columns_are_problems(row: dict[int, dict[str, Any]], problem: str, tmp_path: Path) -> None:
    problems = checked(published(tmp_path / "out", row)).problems
    assert problems == [problem]


def test_every_dicom_file_is_checked_against_the_jobs_own_options(tmp_path: Path) -> None:
    foreign = dicom_bytes(deidentify(phantom_header(), KEYS, ProfileOptions()), PIXELS, 8)
    store = published(tmp_path / "out", dicom={2: file_of({"PatientName": "Roe^Jane"}), 4: foreign})
    problems = checked(store).problems
    path = f"dicom/0001-000000/{image_id(2)}.dcm"
    assert problems[0] == f"{path}: PatientName holds a value that may not be there"
    assert {problem.partition(":")[0] for problem in problems[1:]} == {f"dicom/0001-000001/{image_id(4)}.dcm"}
    assert any("PatientIdentityRemoved" in problem for problem in problems[1:])
    assert "Jane" not in str(problems)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_canaries_are_found_wherever_they_lie(encoding: str, tmp_path: Path) -> None:
    canaries = Canaries(["Roe and Jane", "Room Twelve", "cut short", "Isar Imaging"])
    image = PIXELS.copy()
    image[10, 3:15] = np.frombuffer(b"ROE AND JANE", np.uint8)
    dicom = {1: file_of({"StationName": "Room Twelve"})}
    store = published(tmp_path / "out", {6: {"message": "cut short"}}, {0: image}, dicom, encoding)
    problems = checked(store, canaries).problems
    header = f"the header of dicom/0001-000000/{image_id(1)}.dcm holds 2 of the canaries"
    assert header in problems
    assert "shard 0001-000000: text columns hold 2 of the canaries" in problems
    assert "shard 0001-000000: pixels of an image hold 1 of the canaries" in problems
    assert not any(word in str(problems) for word in ("Room", "Roe", "Isar"))
    assert not any("canaries" in problem for problem in checked(store).problems)


def test_canaries_are_found_in_what_no_shard_names(tmp_path: Path) -> None:
    store = published(tmp_path / "out")
    store.write("notes/of Roe^Jane.txt", b"nothing")
    store.write("notes/text", "Grüße, Roe^Jane".encode("utf-16"))
    problems = checked(store, Canaries(["Roe^Jane"])).problems
    assert "2 files lie in the tree that no manifest names" in problems
    assert "a file name holds 1 of the canaries" in problems
    assert "notes/text holds 1 of the canaries" in problems
    model = Canaries([json.loads(store.read("_snapshots/0001/_job.json"))["model"]["settings"]["kind"]])
    assert "_snapshots/0001/_job.json holds 1 of the canaries" in checked(store, model).problems


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_in_sampled_images_is_a_problem_that_names_them(encoding: str, tmp_path: Path) -> None:
    pytest.importorskip("rapidocr", reason="finding burned-in text needs rapidocr's weights")
    plain = render(PhantomStudy(11, 1, 0, (512, 512), "P00001", (), "PA", "F", 50), 8)
    image = plain.copy()
    letters, _ = glyphs("OKAFOR^Maria 123456", 36, "DejaVuSans-Bold", 1)
    image[430 : 430 + letters.shape[0], 20 : 20 + letters.shape[1]][letters > 127] = 255
    cv2.setNumThreads(1)
    store = published(tmp_path / "out", pixels={1: image, 4: plain}, encoding=encoding)
    report = checked(store, images=99)
    assert report.problems == [f"shard 0001-000000: 1 of 3 sampled images seem to show text: {image_id(1)}"]
    assert report.images_looked_at == 6
    assert checked(store).problems == []


def test_the_command_takes_a_list_and_a_number_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    published(tmp_path / "out")
    Path("absent.txt").write_text("Roe^Jane\n4711087\n", "utf-8")
    Path("present.txt").write_text("Roe^Jane\nIsar Imaging\n", "utf-8")
    Path("short.txt").write_text("Roe\n", "utf-8")

    def run(*options: str) -> tuple[int, str]:
        try:
            with exit_codes():
                result = CliRunner().invoke(app, ["verify", "out", "--json", *options], catch_exceptions=False)
                return result.exit_code, result.stdout
        except SystemExit as stop:
            return int(str(stop.code)), capsys.readouterr().err

    code, text = run("--canaries", "absent.txt")
    assert (code, json.loads(text)["canaries"], json.loads(text)["whole"]) == (0, 2, True)
    code, told = run("--canaries", "present.txt")
    assert code == 1
    assert "1 of the canaries" in told
    assert "Isar" not in told
    assert run("--canaries", "short.txt")[0] == 2


def test_settings_that_the_manifest_invents_are_refused() -> None:
    job = Job(4, 4, "native", 4, {}, "s", "c", "k", MODEL, False, deid={"modified_dates": "perhaps"})
    with pytest.raises(PrichexyError, match="settings of de-identification that don't exist"):
        IdentifierScan.of_job(job, [])


def test_the_sample_is_spread_over_all_published_rows_and_the_same_each_time() -> None:
    facts = [FileFacts("", rows, 0, "") if rows else None for rows in (5, 0, 2, 40)]
    commits = [Commit(1, shard, 0, 50, fact, None) for shard, fact in enumerate(facts)]
    job = Job(200, 50, "native", 4, {}, "s", "c", "k", MODEL, False)
    everything = IdentifierScan.of_job(job, commits, images=1000).images
    assert everything == {"0001-000000": list(range(5)), "0001-000002": [0, 1], "0001-000003": list(range(40))}
    some = IdentifierScan.of_job(job, commits, images=10).images
    assert sum(map(len, some.values())) == 10
    assert some == IdentifierScan.of_job(job, commits, images=10).images
    assert all(row in everything[shard] for shard, rows in some.items() for row in rows)
    assert IdentifierScan.of_job(job, [], images=10).images == {}
