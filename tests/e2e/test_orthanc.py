"""Published DICOM files are what a hospital's archive takes: sent by storescu to a real Orthanc, judged by dciodvfy."""

import io
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import ComputedRadiographyImageStorage

from prichexy.anonymize import anonymize
from prichexy.cohort.phantom import PhantomCohort, Variant, dicom_file
from prichexy.config import AnonymizeConfig, TransferSyntax
from prichexy.deid import TRANSFER_SYNTAXES, Pseudonyms
from prichexy.obfuscation import create_untrained
from tests.e2e.conftest import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

FLAGS: dict[TransferSyntax, str] = {
    "uncompressed": "--propose-little",
    "rle": "--propose-rle",
    "jpeg-ls": "--propose-jls-lossless",
    "jpeg-2000": "--propose-j2k-lossless",
}
"""How storescu is told to offer each transfer syntax that the job writes."""


def program(name: str, package: str) -> str:
    """Where a program of a Debian package is; the test skips without it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return found


@dataclass(frozen=True)
class Archive:
    """An Orthanc: its DICOM port and its REST interface."""

    dicom_port: int
    url: str

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as answer:
            return bytes(answer.read())

    def instances(self) -> dict[str, str]:
        """SOP Instance UID -> Orthanc's own name of each instance that it holds."""
        found = json.loads(self.get("/instances?expand"))
        return {instance["MainDicomTags"]["SOPInstanceUID"]: instance["ID"] for instance in found}

    def delete_all(self) -> None:
        for patient in json.loads(self.get("/patients")):
            request = urllib.request.Request(f"{self.url}/patients/{patient}", method="DELETE")
            urllib.request.urlopen(request, timeout=60).close()


@pytest.fixture(scope="module")
def running_archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """An Orthanc of its own in a temporary folder, on this machine's loopback."""
    orthanc, folder = program("Orthanc", "orthanc"), tmp_path_factory.mktemp("orthanc")
    dicom_port, http_port = free_ports(2)
    settings = {
        "Name": "TEST",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomAet": "ARCHIVE",
        "DicomPort": dicom_port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([orthanc, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)
        archive = Archive(dicom_port, f"http://127.0.0.1:{http_port}")
        try:
            deadline = time.monotonic() + 120
            while not _answers(archive):
                assert server.poll() is None, (folder / "log").read_text(errors="replace")
                assert time.monotonic() < deadline, "Orthanc does not answer"
                time.sleep(0.3)
            yield archive
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _answers(archive: Archive) -> bool:
    try:
        return "Version" in json.loads(archive.get("/system"))
    except OSError:
        return False


@pytest.fixture
def archive(running_archive: Archive) -> Archive:
    """The same Orthanc, empty."""
    running_archive.delete_all()
    return running_archive


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five radiographs of three patients: four DX of 8 to 16 bits, and one CR, which has fewer attributes."""
    folder = tmp_path_factory.mktemp("hospital") / "lake"
    folder.mkdir()
    studies = PhantomCohort(3, 23, size=512).studies[:5]
    for number, (study, bits) in enumerate(zip(studies, (8, 10, 12, 16, 12), strict=True)):
        data_set, _ = dicom_file(study, Variant("1.2.840.10008.1.2.1", bits, number == 2, "window", False))
        if number == 4:
            _as_computed_radiography(data_set)
        data_set.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


def _as_computed_radiography(data_set: Dataset) -> None:
    data_set.SOPClassUID = data_set.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    data_set.Modality = "CR"
    for keyword in ("PresentationIntentType", "PixelIntensityRelationship", "PixelIntensityRelationshipSign"):
        del data_set[keyword]


@pytest.fixture(scope="module", params=FLAGS)
def published(
    request: pytest.FixtureRequest,
    hospital: Path,
    secret_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
    local_ray: None,
) -> tuple[TransferSyntax, Path]:
    """A transfer syntax, and the destination of a job that wrote its DICOM files in it."""
    folder = tmp_path_factory.mktemp("published")
    create_untrained("identity", folder / "identity", 0, {})
    config = AnonymizeConfig(
        source=str(hospital),
        destination=str(folder / "out"),
        model=str(folder / "identity"),
        secret_file=secret_file,
        allow_unaudited=True,
        also_dicom=True,
        transfer_syntax=request.param,
        rows_per_shard=3,
    )
    assert anonymize(config).dicom_files == len(list(hospital.iterdir()))
    return request.param, folder / "out"


def files(out: Path) -> list[Path]:
    return sorted((out / "dicom").rglob("*.dcm"))


def rows(out: Path) -> dict[str, dict[str, Any]]:
    """The published rows by their DICOM file."""
    return {row["dicom"]: row for shard in out.glob("data/*") for row in pq.read_table(shard).to_pylist()}


def test_orthanc_takes_every_file_and_gives_back_the_same_pixels(
    published: tuple[TransferSyntax, Path], archive: Archive, hospital: Path, secret_file: Path
) -> None:
    (syntax, out), storescu = published, program("storescu", "dcmtk")
    command = [storescu, FLAGS[syntax], "--required", "--aetitle", "TEST", "--call", "ARCHIVE"]
    sent = subprocess.run(
        [*command, "127.0.0.1", str(archive.dicom_port), *map(str, files(out))],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert sent.returncode == 0, sent.stderr
    ours, held = {str(file.SOPInstanceUID): file for file in map(dcmread, files(out))}, archive.instances()
    assert set(held) == set(ours)
    assert len(held) == len(list(hospital.iterdir()))
    for uid, name in held.items():
        mine, theirs = ours[uid], dcmread(io.BytesIO(archive.get(f"/instances/{name}/file")))
        assert theirs.file_meta.TransferSyntaxUID == TRANSFER_SYNTAXES[syntax]
        assert np.array_equal(theirs.pixel_array, mine.pixel_array)
        assert int(theirs.pixel_array.max()) > 2 ** (theirs.BitsStored - 2)
        assert theirs.to_json() == mine.to_json()
    keys = Pseudonyms.from_file(secret_file)
    sources = [dcmread(path) for path in sorted(hospital.iterdir())]
    expected = {
        "patients": ("PatientID", {keys.patient_id(file.IssuerOfPatientID, file.PatientID) for file in sources}),
        "studies": ("StudyInstanceUID", {keys.uid(file.StudyInstanceUID) for file in sources}),
    }
    for level, (tag, identifiers) in expected.items():
        found = json.loads(archive.get(f"/{level}?expand"))
        assert {entry["MainDicomTags"][tag] for entry in found} == identifiers
        assert len(found) == len(identifiers)


def test_orthanc_shows_the_pixels_that_the_shards_hold(
    published: tuple[TransferSyntax, Path], archive: Archive
) -> None:
    """Orthanc decodes by itself (DCMTK's codecs), so that this is a second opinion on what the file holds."""
    (syntax, out), storescu = published, program("storescu", "dcmtk")
    command = [storescu, FLAGS[syntax], "--required", "--call", "ARCHIVE", "127.0.0.1", str(archive.dicom_port)]
    subprocess.run([*command, *map(str, files(out))], check=True, capture_output=True, timeout=300)
    if syntax == "jpeg-2000":
        pytest.skip("DCMTK, by which Orthanc decodes, has no JPEG 2000: storing is all that can be asked of it")

    for path, row in rows(out).items():
        name = archive.instances()[str(dcmread(out / path).SOPInstanceUID)]
        shown = np.asarray(Image.open(io.BytesIO(archive.get(f"/instances/{name}/image-uint16"))))
        image = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        stored = image if row["bit_depth"] == 8 else image >> (16 - row["bit_depth"])
        assert np.array_equal(shown, stored)


def test_dcmdump_reads_every_file(published: tuple[TransferSyntax, Path]) -> None:
    (syntax, out), dcmdump = published, program("dcmdump", "dcmtk")
    for path in files(out):
        told = subprocess.run([dcmdump, str(path)], capture_output=True, text=True, timeout=60)
        assert (told.returncode, told.stderr) == (0, "")
        assert re.search(r"\(0028,0301\) CS \[NO\]|\(0012,0062\) CS \[YES\]", told.stdout)
        used = re.findall(r"# Used TransferSyntax: (.+)", told.stdout)
        assert len(used) == 2
        words = {"uncompressed": "Little Endian Explicit", "rle": "RLE Lossless", "jpeg-ls": "JPEG-LS Lossless"}
        assert used[1] == words.get(syntax, "JPEG 2000 (Lossless only)")


def test_dciodvfy_finds_no_error_that_the_source_did_not_have(
    published: tuple[TransferSyntax, Path], hospital: Path, secret_file: Path
) -> None:
    (_, out), dciodvfy = published, program("dciodvfy", "dicom3tools")
    by_image, keys = {row["image_id"]: path for path, row in rows(out).items()}, Pseudonyms.from_file(secret_file)
    for source in sorted(hospital.iterdir()):
        result = out / by_image[keys.image_id(source.name)]
        assert errors(dciodvfy, result) - errors(dciodvfy, source) == set()


def errors(dciodvfy: str, path: Path) -> set[str]:
    """What dciodvfy calls an error, without the values and lengths that it quotes."""
    told = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True, timeout=60, errors="replace")
    judged = told.stderr + told.stdout
    assert re.search(r"^(DX|CR)\w*$", judged, re.MULTILINE), "dciodvfy recognized no radiograph"
    lines = (line for line in judged.splitlines() if line.startswith("Error"))
    return {re.sub(r"(?<!Element=)(?<!Module=)<[^>]*>|\d+ dec", "", line) for line in lines}
