"""The phantoms as files: labels, PNG, and DX DICOM that other readers decode to the same pixels."""

import csv
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_voi_lut
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, HTJ2KLossless, JPEGBaseline8Bit

from prichexy.cohort.phantom import (
    DEFAULT_TRANSFER_SYNTAXES,
    LABEL_COLUMNS,
    PhantomCohort,
    render,
    variant,
    write_dicom,
    write_mixed,
    write_png,
)
from prichexy.errors import UsageError
from prichexy.findings import FINDINGS


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def dicoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[PhantomCohort, Path]:
    cohort = PhantomCohort(10, seed=7, studies=(2, 2), size=(96, 80))
    folder = tmp_path_factory.mktemp("lake") / "dicom"
    write_dicom(cohort, folder)
    return cohort, folder


def test_png_files_hold_the_rendered_pixels_and_labels_have_the_columns_of_the_nih(tmp_path: Path):
    cohort = PhantomCohort(8, size=64)
    seen: list[tuple[int, int]] = []
    labels = write_png(cohort, tmp_path / "png", progress=lambda done, total: seen.append((done, total)))
    rows = _rows(labels)
    assert tuple(rows[0]) == LABEL_COLUMNS
    assert len(rows) == len(cohort.studies) == seen[-1][0] == seen[-1][1]
    for row, study in zip(rows, cohort.studies, strict=True):
        assert row["Image Index"] == f"{int(row['Patient ID']):08d}_{int(row['Follow-up #']):03d}.png"
        stored = cv2.imread(str(labels.parent / row["Image Index"]), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(stored, render(study))
        found = tuple(row["Finding Labels"].split("|"))
        assert found == (study.findings or ("No Finding",))
        assert set(found) <= {*FINDINGS, "No Finding"}
        assert row["Patient Gender"] == study.sex
        assert row["View Position"] == study.view
    boxes = _rows(labels.parent / "boxes.csv")
    assert {b["Finding Label"] for b in boxes} == {f for s in cohort.studies for f in s.findings}


def test_dicom_files_cycle_through_syntaxes_and_decode_to_the_rendered_pixels(dicoms: tuple[PhantomCohort, Path]):
    cohort, folder = dicoms
    kinds = set()
    for index, (path, study) in enumerate(zip(sorted(folder.glob("*.dcm")), cohort.studies, strict=True)):
        how = variant(index, DEFAULT_TRANSFER_SYNTAXES)
        ds = pydicom.dcmread(path)
        assert ds.file_meta.TransferSyntaxUID == how.transfer_syntax
        assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1.1"
        assert (how.bits, how.inverted) == (ds.BitsStored, ds.PhotometricInterpretation == "MONOCHROME1")
        shown = np.asarray(apply_voi_lut(ds.pixel_array, ds), dtype=np.float64)
        if how.inverted:
            shown = 2**how.bits - 1 - shown
        error = np.abs(shown - render(study, how.bits)).max()
        assert error < (16 if how.transfer_syntax == JPEGBaseline8Bit else 1e-6)
        kinds.add((how.transfer_syntax, how.inverted, how.bits, how.voi))
    assert len({k[0] for k in kinds}) == 10
    assert {k[1] for k in kinds} == {False, True}
    assert {k[2] for k in kinds} == {8, 10, 12, 14, 16}
    assert {k[3] for k in kinds} == {"window", "lut"}


def test_planted_identifiers_are_in_the_files_and_their_table_is_outside_the_folder(dicoms: tuple[PhantomCohort, Path]):
    _, folder = dicoms
    table = folder.parent / "dicom.planted.csv"
    rows = _rows(table)
    assert not list(folder.rglob("*planted*"))
    dumps: dict[str, str] = {}
    for path in folder.glob("*.dcm"):
        values = [str(element.value) for element in pydicom.dcmread(path).iterall() if element.keyword != "PixelData"]
        dumps[path.name] = "\n".join(values)
    assert len(rows) > 35 * len(dumps)
    missing = [(row["file"], row["attribute"]) for row in rows if row["value"] not in dumps[row["file"]]]
    assert missing == []
    attributes = {row["attribute"] for row in rows}
    assert {
        "PatientName",
        "PatientAddress",
        "(0009,xx01)",
        "RequestAttributesSequence.RequestingPhysician",
    } <= attributes


def test_a_patients_identity_is_stable_and_uids_are_unique(dicoms: tuple[PhantomCohort, Path]):
    _, folder = dicoms
    headers = [pydicom.dcmread(p, stop_before_pixels=True) for p in sorted(folder.glob("*.dcm"))]
    assert len({h.SOPInstanceUID for h in headers}) == len(headers) == 20
    assert len({h.PatientID for h in headers}) == 10
    assert all(a.PatientName == b.PatientName for a, b in zip(headers[::2], headers[1::2], strict=True))
    assert all(h.SOPInstanceUID.startswith("2.25.") and h.SOPInstanceUID.is_valid for h in headers)


def test_dicom_files_are_reproducible(tmp_path: Path):
    cohort = PhantomCohort(1, seed=3, studies=(2, 2), size=64)
    for name in "ab":
        write_dicom(cohort, tmp_path / name)
    first, second = ([p.read_bytes() for p in sorted((tmp_path / n).glob("*.dcm"))] for n in "ab")
    assert first == second


def test_burned_in_text_changes_only_a_corner_and_is_declared(tmp_path: Path):
    cohort = PhantomCohort(1, studies=(1, 1), size=256)
    write_dicom(cohort, tmp_path / "lake", burn_in=True, planted=tmp_path / "private" / "p.csv")
    ds = pydicom.dcmread(next((tmp_path / "lake").glob("*.dcm")))
    assert ds.BurnedInAnnotation == "YES"
    rows, cols = np.nonzero(ds.pixel_array != render(cohort.studies[0], 12))
    assert rows.min() > 200
    assert cols.max() < 160
    assert len(rows) > 300
    burned = [r["value"] for r in _rows(tmp_path / "private" / "p.csv") if r["attribute"].startswith("burned-in")]
    assert str(ds.PatientID) in burned


def test_mixed_lake_holds_each_study_once_half_as_dicom(tmp_path: Path):
    cohort = PhantomCohort(6, studies=(2, 2), size=64)
    labels = write_mixed(cohort, tmp_path / "lake")
    names = [row["Image Index"] for row in _rows(labels)]
    assert sum(name.endswith(".dcm") for name in names) == 6
    assert sorted(names) == sorted(p.name for p in (tmp_path / "lake").iterdir() if p.suffix in (".png", ".dcm"))
    assert len({name.split(".")[0] for name in names}) == len(cohort.studies)


def test_a_share_without_window_is_written_on_request():
    voi = [variant(i, DEFAULT_TRANSFER_SYNTAXES, without_voi=True).voi for i in range(14)]
    assert voi.count("none") == 2


def test_an_unknown_transfer_syntax_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="transfer syntax"):
        write_dicom(PhantomCohort(1, size=64), tmp_path / "x", transfer_syntaxes=["1.2.3"])


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy not found: install the Debian package dicom3tools"
)
def test_an_independent_validator_finds_no_error(dicoms: tuple[PhantomCohort, Path], tmp_path: Path):
    _, folder = dicoms
    for path in sorted(folder.glob("*.dcm"))[:10]:
        ds = pydicom.dcmread(path)
        # dciodvfy's Debian build reads neither of these encodings; the header is the same without them
        if ds.file_meta.TransferSyntaxUID == HTJ2KLossless:
            ds.decompress()
        elif ds.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.save_as(tmp_path / "one.dcm", enforce_file_format=True)
        told = subprocess.run(["dciodvfy", str(tmp_path / "one.dcm")], capture_output=True, text=True, check=False)
        lines = (told.stdout + told.stderr).splitlines()
        assert "DXImageForPresentation" in lines
        assert [line for line in lines if line.startswith("Error")] == []
