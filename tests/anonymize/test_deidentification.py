"""What the job publishes of DICOM headers, what it does to burned-in text, and what the link table leads back to."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless

from prichexy.anonymize import Summary, anonymize
from prichexy.cohort.phantom import PhantomCohort, write_dicom, write_png
from prichexy.config import AnonymizeConfig
from prichexy.deid import CustodianKey, Pseudonyms, create_custodian_key
from prichexy.errors import UsageError
from prichexy.lake.link import read_links
from prichexy.lake.snapshots import read_manifest
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify
from prichexy.obfuscation import create_untrained

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 phantoms as DICOM, a third with text in the pixels, and one PNG."""
    folder = tmp_path_factory.mktemp("phantoms") / "lake"
    cohort = PhantomCohort(4, 7, size=400)
    write_dicom(cohort, folder, burn_in=0.34, planted=folder.parent / "planted.csv")
    write_png(PhantomCohort(1, 8, size=160), folder / "png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "identity"
    create_untrained("identity", folder, 0, {})
    return folder


@pytest.fixture(scope="module")
def custodian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = tmp_path_factory.mktemp("custodian") / "link.key"
    create_custodian_key(key)
    return key


def configured(lake: Path, out: Path, model: Path, secret_file: Path, **more: Any) -> AnonymizeConfig:
    return AnonymizeConfig(
        source=str(lake),
        destination=str(out),
        model=str(model),
        secret_file=secret_file,
        allow_unaudited=True,
        exclude=("*.csv",),
        **{"rows_per_shard": 4, "chunk": 2, **more},
    )


@pytest.fixture(scope="module")
def run(
    lake: Path,
    model: Path,
    custodian: Path,
    secret_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
    local_ray: None,
) -> tuple[AnonymizeConfig, Summary]:
    folder = tmp_path_factory.mktemp("run")
    config = configured(
        lake,
        folder / "out",
        model,
        secret_file,
        also_dicom=True,
        transfer_syntax="jpeg-ls",
        link_table=str(folder / "link"),
        link_recipient=custodian.with_name("link.key.pub"),
        deid={"columns": ["patient_sex", "patient_age", "study_date", "body_part"]},
    )
    return config, anonymize(config)


def rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for file in out.glob("data/*") for row in pq.read_table(file).to_pylist()}


def burned(lake: Path) -> dict[str, list[str]]:
    """Files with text in their pixels, and the lines."""
    found: dict[str, list[str]] = {}
    with (lake.parent / "planted.csv").open() as file:
        for line in csv.DictReader(file):
            if line["attribute"].startswith("burned-in"):
                found.setdefault(line["file"], []).append(line["value"])
    return found


def test_shards_carry_the_chosen_columns_of_the_header(
    lake: Path, run: tuple[AnonymizeConfig, Summary], secret_file: Path
) -> None:
    config, summary = run
    out, ours = Path(config.destination), Pseudonyms.from_file(secret_file)
    published = rows(out)
    files = sorted(lake.glob("*.dcm"))
    assert (summary.published, summary.dicom_files) == (len(files) + len(list(lake.glob("png/*.png"))), len(files))
    for path in files:
        source, row = dcmread(path), published[ours.image_id(path.name)]
        days = ours.date_shift(str(source.get("IssuerOfPatientID", "")), str(source.PatientID))
        assert (row["patient_sex"], row["body_part"]) == (source.PatientSex, "CHEST")
        assert row["patient_age"] == min(90, int(source.PatientAge[:3]))
        moved = np.datetime64(f"{source.StudyDate[:4]}-{source.StudyDate[4:6]}-{source.StudyDate[6:]}") + days
        assert np.datetime64(row["study_date"]) == moved
    names = set(next(iter(published.values())))
    assert {"manufacturer", "modality"} & names == set()
    png = [row for row in published.values() if row["dicom"] is None]
    assert {(row["patient_age"], row["study_date"]) for row in png} == {(None, None)}


def test_dicom_files_hold_the_published_pixels_and_nobody_elses(
    run: tuple[AnonymizeConfig, Summary],
) -> None:
    out = Path(run[0].destination)
    named = {row["dicom"]: row for row in rows(out).values() if row["dicom"]}
    assert {str(path.relative_to(out)) for path in out.rglob("*.dcm")} == set(named)
    for path, row in named.items():
        file = dcmread(out / path)
        assert file.file_meta.TransferSyntaxUID == JPEGLSLossless
        png = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        stored = png if row["bit_depth"] == 8 else png >> (16 - row["bit_depth"])
        assert np.array_equal(file.pixel_array, stored)
        assert file.PatientID == row["patient_id"]
        assert (file.PatientIdentityRemoved, file.BurnedInAnnotation) == ("YES", "NO")
        assert "113101" in {code.CodeValue for code in file.DeidentificationMethodCodeSequence}
        assert file.DerivationDescription.startswith("Anatomy obfuscated by prichexy, model ")


def test_burned_in_text_is_covered_and_counted(
    lake: Path, run: tuple[AnonymizeConfig, Summary], model: Path, secret_file: Path, tmp_path: Path
) -> None:
    config, summary = run
    marked = burned(lake)
    assert 1 <= len(marked) < len(list(lake.glob("*.dcm")))
    assert summary.text_covered >= len(marked)
    ours, published = Pseudonyms.from_file(secret_file), rows(Path(config.destination))
    for name in marked:
        row = published[ours.image_id(name)]
        image = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).astype(float)
        lower_left = image[int(0.75 * image.shape[0]) :, : image.shape[1] // 3]
        assert (lower_left > 0.97 * (255 if row["bit_depth"] == 8 else 65535)).mean() < 0.002, name
    strict = configured(lake, tmp_path / "out", model, secret_file, deid={"burned_in_text": "detect-and-quarantine"})
    set_aside = anonymize(strict)
    assert set_aside.reasons["BurnedInText"] >= len(marked)
    assert set_aside.text_covered == 0
    assert not {ours.image_id(name) for name in marked} & set(rows(tmp_path / "out"))


def test_a_file_that_declares_text_is_not_believed_clean_when_none_is_found(
    lake: Path, model: Path, secret_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "lake").mkdir()
    clean = next(path for path in sorted(lake.glob("*.dcm")) if path.name not in burned(lake))
    file = dcmread(clean)
    file.BurnedInAnnotation = "YES"
    file.save_as(tmp_path / "lake" / "a.dcm")
    summary = anonymize(configured(tmp_path / "lake", tmp_path / "out", model, secret_file))
    assert summary.reasons == {"BurnedInText": 1}


def test_the_link_table_leads_back_for_its_owner_only(
    lake: Path, run: tuple[AnonymizeConfig, Summary], custodian: Path, secret_file: Path, tmp_path: Path
) -> None:
    config, _ = run
    place = Path(str(config.link_table))
    key = CustodianKey.from_file(custodian)
    found = {entry.uri: entry for entry in map(key.open, read_links(Store(str(place))))}
    published = rows(Path(config.destination))
    assert {entry.image_id for entry in found.values()} == set(published)
    for path in sorted(lake.glob("*.dcm")):
        source, entry = dcmread(path), found[path.name]
        row = published[entry.image_id]
        assert (entry.patient_old, entry.patient_new) == (source.PatientID, row["patient_id"])
        file = dcmread(Path(config.destination) / row["dicom"])
        assert entry.uids[source.SOPInstanceUID] == file.SOPInstanceUID
        assert entry.uids[source.StudyInstanceUID] == file.StudyInstanceUID
    text = b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())
    assert [name for name in ("000", ".dcm", "2.25.") if f"0000000{name}".encode() in text] == []
    create_custodian_key(tmp_path / "other.key")
    stranger = CustodianKey.from_file(tmp_path / "other.key")
    with pytest.raises(Exception, match="key"):
        stranger.open(next(iter(read_links(Store(str(place))))))


def test_a_job_that_goes_on_keeps_settings_and_files(run: tuple[AnonymizeConfig, Summary], tmp_path: Path) -> None:
    config, first = run
    out = tmp_path / "out"
    shutil.copytree(config.destination, out)
    shutil.copytree(f"{config.destination}.private", tmp_path / "out.private")
    for lost in ("_SUCCESS", "_snapshots/0001/_MANIFEST.json", "_snapshots/0001/_commits/000001.json"):
        (out / lost).unlink()
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.suffix in (".parquet", ".dcm")}
    lost_file = next((out / "dicom" / "0001-000001").iterdir())
    lost_file.unlink()
    for change in ({"also_dicom": False}, {"deid": config.deid.model_copy(update={"device_identity": True})}):
        with pytest.raises(UsageError, match="another job's shards"):
            anonymize(config.model_copy(update={"destination": str(out), **change}))
    again = anonymize(config.model_copy(update={"destination": str(out)}))
    assert (again.resumed, again.dicom_files) == (first.shards - 1, first.dicom_files)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.suffix in (".parquet", ".dcm")} == kept
    assert verify(Store(str(out))).problems == []


@pytest.mark.parametrize("damage", ["altered", "missing", "foreign"])
def test_verify_notices_dicom_files_that_are_not_those_committed(
    run: tuple[AnonymizeConfig, Summary], tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(run[0].destination, out)
    file = next((out / "dicom" / "0001-000000").iterdir())
    if damage == "altered":
        file.write_bytes(file.read_bytes() + b"\0")
    elif damage == "missing":
        file.unlink()
    else:
        shutil.copy(file, file.with_name("0" * 32 + ".dcm"))
    expected = {
        "altered": "shard 0001-000000: its DICOM files are not those that were committed",
        "missing": f"dicom/0001-000000/{file.name} is missing",
        "foreign": "1 files lie in the tree that no manifest names",
    }
    assert expected[damage] in verify(Store(str(out))).problems


def test_the_manifest_states_how_headers_were_treated(run: tuple[AnonymizeConfig, Summary]) -> None:
    manifest = read_manifest(Store(run[0].destination))
    assert manifest is not None
    job = manifest["jobs"][-1]
    assert job["deid"]["burned_in_text"] == "redact"
    assert (job["transfer_syntax"], job["columns"][0]) == ("jpeg-ls", "patient_sex")
    assert run[0].link_table not in json.dumps(manifest)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"deid": {"columns": ["manufacturer"]}}, "column manufacturer needs device_identity"),
        ({"deid": {"modified_dates": False}}, "column study_date needs modified_dates"),
        ({"deid": {"safe_private": ["ACME,0018,10"]}}, "is named as 'CREATOR,0019,10'"),
        ({"link_table": "elsewhere"}, "link_table and link_recipient belong together"),
        ({"link_table": "out/link", "link_recipient": "k.pub"}, "keep it apart from source and destination"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("'", ".")):
        AnonymizeConfig.model_validate({"source": "lake", "destination": "out", **change})
