"""Ids depend on the key and the files alone: not on workers, chunks, shards, the order of files or the lake's place."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID, RLELossless

from prichexy.anonymize import anonymize
from prichexy.config import AnonymizeConfig
from prichexy.deid import Pseudonyms
from prichexy.obfuscation import create_untrained
from tests.deid.headers import as_file, phantom_file

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
PATIENTS, STUDIES = 3, 3


def source_files() -> dict[str, bytes]:
    """10 files: three patients with three studies each, every one with references to the patient's other images."""
    headers = {
        (patient, study): dcmread(io.BytesIO(phantom_file(patient, study)))
        for patient in range(PATIENTS)
        for study in range(STUDIES)
    }
    studies = {which: header.StudyInstanceUID for which, header in headers.items()}
    for (patient, study), header in headers.items():
        header.FrameOfReferenceUID = f"1.2.826.0.1.9999.{patient}"
        header.ReferencedImageSequence = [reference(headers[patient, other]) for other in range(STUDIES)]
        header.StudyInstanceUID = studies[patient, study // 2]  # two images of one study, one apart
    files = {f"{patient}/{study}.dcm": as_file(header) for (patient, study), header in headers.items()}
    stray = headers[0, 0]
    stray.SOPInstanceUID, stray.PatientID = "1.2.826.0.1.9999.1.1", ""
    return files | {"stray.dcm": as_file(stray)}


def reference(other: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = other.SOPClassUID, other.SOPInstanceUID
    return item


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def run(source: Path, out: Path, model: Path, key: Path, **settings: Any) -> Path:
    """The job's destination."""
    common = {"model": str(model), "secret_file": key, "allow_unaudited": True, "also_dicom": True}
    config = {"source": str(source), "destination": str(out), "deid": {"burned_in_text": "off"}, **common, **settings}
    anonymize(AnonymizeConfig.model_validate(config))
    return out


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "identity"
    create_untrained("identity", folder, 0, {})
    return folder


@pytest.fixture(scope="module")
def runs(
    identity: Path, secret_file: Path, tmp_path_factory: pytest.TempPathFactory, local_ray: None
) -> dict[str, Path]:
    """The destinations of three runs over the same files."""
    place, files = tmp_path_factory.mktemp("runs"), source_files()
    first = write(place / "lake", files)
    renamed = write(place / "archive" / "2026", dict(reversed(files.items())))
    other_key = place / "other.key"
    other_key.write_bytes(bytes(range(1, 33)))
    whole = {"rows_per_shard": 10, "chunk": 10, "ray": {"actors": 1}}
    small = {"rows_per_shard": 3, "chunk": 1, "ray": {"actors": 2}, "transfer_syntax": "rle"}
    return {
        "first": run(first, place / "1", identity, secret_file, **whole),
        "again": run(renamed, place / "2", identity, secret_file, **small),
        "other key": run(first, place / "3", identity, other_key, **whole),
    }


def rows(out: Path) -> dict[str, dict[str, Any]]:
    """The published rows by image id."""
    return {row["image_id"]: row for file in out.glob("data/*") for row in pq.read_table(file).to_pylist()}


def dicom(out: Path) -> dict[str, Dataset]:
    """The published DICOM files by image id."""
    return {image_id: dcmread(out / row["dicom"]) for image_id, row in rows(out).items()}


def uids(file: Dataset) -> list[str]:
    """All UIDs of a file that the standard does not define, in order."""
    found: list[str] = []
    for element in file.iterall():
        if element.VR == "UI":
            values = [element.value] if element.VM == 1 else element.value
            found += [str(uid) for uid in values if UID(uid).name == str(uid)]
    return found


def test_workers_chunks_shards_order_and_root_change_no_id(runs: dict[str, Path]) -> None:
    first, again = rows(runs["first"]), rows(runs["again"])
    assert len(first) == PATIENTS * STUDIES + 1
    assert len(list(runs["first"].glob("data/*"))) == 1
    assert len(list(runs["again"].glob("data/*"))) == 4
    for row in (*first.values(), *again.values()):
        row["image"] = hashlib.sha256(row["image"]["bytes"]).hexdigest()
        row["dicom"] = Path(row["dicom"]).name  # its folder is the shard's number
    assert first == again
    ours, theirs = dicom(runs["first"]), dicom(runs["again"])
    assert {file.file_meta.TransferSyntaxUID for file in theirs.values()} == {RLELossless}
    for image_id, file in ours.items():
        other = theirs[image_id]
        assert uids(file) == uids(other)
        assert [file.get(name) for name in ("PatientID", "StudyDate", "AccessionNumber", "StudyID")] == [
            other.get(name) for name in ("PatientID", "StudyDate", "AccessionNumber", "StudyID")
        ]


def test_references_and_shared_uids_still_resolve(runs: dict[str, Path], secret_file: Path) -> None:
    ours, files = Pseudonyms.from_file(secret_file), dicom(runs["again"])
    by_study = {
        (patient, study): files[ours.image_id(f"{patient}/{study}.dcm")]
        for patient in range(PATIENTS)
        for study in range(STUDIES)
    }
    for (patient, _), file in by_study.items():
        referred = [item.ReferencedSOPInstanceUID for item in file.ReferencedImageSequence]
        assert referred == [by_study[patient, other].SOPInstanceUID for other in range(STUDIES)]
    for patient in range(PATIENTS):
        first, second, third = (by_study[patient, study] for study in range(STUDIES))
        assert first.StudyInstanceUID == second.StudyInstanceUID != third.StudyInstanceUID
        assert first.FrameOfReferenceUID == second.FrameOfReferenceUID == third.FrameOfReferenceUID
        assert first.PatientID == second.PatientID == third.PatientID
    for name, distinct in (
        ("SOPInstanceUID", 9),
        ("StudyInstanceUID", 6),
        ("FrameOfReferenceUID", 3),
        ("PatientID", 3),
    ):
        assert len({file[name].value for file in by_study.values()}) == distinct


def test_another_key_shares_no_id(runs: dict[str, Path]) -> None:
    ours, theirs = dicom(runs["first"]), dicom(runs["other key"])
    assert len(ours) == len(theirs)
    assert not set(ours) & set(theirs)
    our_uids, their_uids = (set().union(*map(uids, files.values())) for files in (ours, theirs))
    own = {str(uid) for file in ours.values() for uid in (file.file_meta.ImplementationClassUID,)}
    assert len(our_uids) == len(their_uids) >= 10 + 6 + 3
    assert not (our_uids & their_uids) - own
    patients = [{row["patient_id"] for row in rows(runs[name]).values()} - {None} for name in ("first", "other key")]
    assert len(patients[0]) == len(patients[1]) == PATIENTS
    assert not patients[0] & patients[1]
