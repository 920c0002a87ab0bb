"""A patient withdraws: from shards, DICOM files and link table, and no later increment publishes them again."""

import json
from pathlib import Path

import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from prichexy.anonymize import anonymize
from prichexy.cli import app
from prichexy.cohort.phantom import PhantomCohort, write_dicom
from prichexy.config import AnonymizeConfig
from prichexy.deid import CustodianKey, Pseudonyms, create_custodian_key
from prichexy.lake.link import read_links
from prichexy.lake.snapshots import read_manifest, shards_of
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify
from prichexy.registry import Registry, publications
from tests.registry.registered import registered

pytestmark = pytest.mark.usefixtures("local_ray")


def test_a_patient_withdraws_and_stays_withdrawn(tmp_path: Path, secret_file: Path) -> None:
    drawn, lake = tmp_path / "drawn", tmp_path / "lake"
    write_dicom(PhantomCohort(4, 7, size=96), drawn, planted=tmp_path / "planted.csv")
    by_patient: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(drawn.glob("*.dcm")):
        header = dcmread(path, stop_before_pixels=True)
        key = (str(header.get("IssuerOfPatientID", "")), str(header.PatientID))
        by_patient.setdefault(key, []).append(path)
    (issuer, number), theirs = max(by_patient.items(), key=lambda item: len(item[1]))
    others = [path for files in by_patient.values() for path in files if path not in theirs]
    assert len(theirs) >= 3
    lake.mkdir()

    def put(*paths: Path) -> None:
        for path in paths:
            (lake / path.name).write_bytes(path.read_bytes())

    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db")
    registered(registry, "net", kind="identity")
    create_custodian_key(tmp_path / "link.key")
    config = AnonymizeConfig(
        source=str(lake),
        destination=str(tmp_path / "out"),
        model="models:/net/1",
        tracking_uri=registry.uri,
        secret_file=secret_file,
        allow_unaudited=True,
        increment=True,
        rows_per_shard=3,
        deid={"burned_in_text": "off"},
        also_dicom=True,
        link_table=str(tmp_path / "link"),
        link_recipient=tmp_path / "link.key.pub",
    )
    put(*theirs[:-2], *others[:-1])
    anonymize(config)
    put(theirs[-2])
    second = anonymize(config)
    assert (second.snapshot, second.quarantined) == (2, 0)

    store, links = Store(config.destination), Store(str(tmp_path / "link"))
    custodian, keys = CustodianKey.from_file(tmp_path / "link.key"), Pseudonyms.from_file(secret_file)
    patient, gone = keys.patient_id(issuer, number), {keys.image_id(path.name) for path in theirs[:-1]}
    before = {item.path: store.read(item.path) for item in store.list()}
    sealed = set(read_links(links))
    assert sum(any(image in path for image in gone) for path in before) == len(gone), "a DICOM file each"

    (tmp_path / "original.txt").write_text(f"{number}\n{issuer}\n")
    command = ["withdraw", config.destination, "--original", str(tmp_path / "original.txt")]
    command += ["--secret-file", str(secret_file), "--link-table", links.uri, "--key-file", str(tmp_path / "link.key")]
    result = CliRunner().invoke(app, [*command, "--catalog", second.catalog, "--json"], catch_exceptions=False)
    facts = json.loads(result.stdout)
    assert (facts["outcome"], facts["snapshot"], set(facts["image_ids"])) == ("withdrawn", 3, gone)
    assert (facts["dicom_files"], facts["link_rows"]) == (len(gone), len(gone))
    assert facts["sources"] == sorted(str(lake / path.name) for path in theirs[:-1])
    assert number not in result.stderr

    assert [verify(store, snapshot=snapshot).problems for snapshot in (1, 2, 3)] == [[], [], []]
    after = {item.path: store.read(item.path) for item in store.list()}
    needles = [patient.encode(), *(image.encode() for image in gone)]
    assert not [path for path, data in after.items() for needle in needles if needle in path.encode() + data]
    kept = [path for path in before if path.startswith("dicom/") and not any(image in path for image in gone)]
    assert len(kept) == len(others) - 1
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    rest = set(read_links(links))
    assert rest < sealed
    assert {custodian.open(row).patient_new for row in sealed - rest} == {patient}
    assert patient not in {custodian.open(row).patient_new for row in rest}

    # One of their files is new, one has changed; of another patient one is new.
    put(theirs[-1], others[-1])
    (lake / theirs[0].name).write_bytes(theirs[1].read_bytes())
    fourth = anonymize(config)
    assert (fourth.snapshot, fourth.new, fourth.reasons) == (4, 3, {"Withdrawn": 2})
    assert (fourth.published, fourth.withdrawn) == (len(others), len(gone))
    assert anonymize(config).snapshot == 4, "nothing is new"
    assert anonymize(config.model_copy(update={"increment": False})).snapshot == 4
    assert verify(store).problems == []
    manifest = read_manifest(store)
    assert manifest is not None
    assert sum(commit.published for commit in shards_of(manifest)) == len(others)
    assert patient not in {custodian.open(row).patient_new for row in read_links(links)}

    # Found from either side.
    shown = CliRunner().invoke(app, ["lineage", config.destination, "--json"], catch_exceptions=False)
    made = json.loads(shown.stdout)["snapshots"]
    assert [(each["by"], each["model"]) for each in made] == [
        ("job", "models:/net/1"),
        ("job", "models:/net/1"),
        ("withdrawal", ""),
        ("job", "models:/net/1"),
    ]
    assert {each["key_id"] for each in made} == {keys.key_id}
    found = publications(registry, registry.find("models:/net/1"))
    assert [(each.destination, each.snapshots) for each in found] == [(str(tmp_path / "out"), "1-2, 4")]


def test_a_registry_that_is_gone_fails_no_finished_job(
    tmp_path: Path, secret_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_dicom(PhantomCohort(1, 7, size=96), tmp_path / "lake", planted=tmp_path / "planted.csv")
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db")
    registered(registry, "net", kind="identity")

    def stolen(self: Registry, uri: str, into: Path) -> object:
        model = fetch(self, uri, into)
        self.uri = "sqlite:////proc/none/mlflow.db"
        return model

    fetch = Registry.fetch
    monkeypatch.setattr(Registry, "fetch", stolen)
    config = AnonymizeConfig(
        source=str(tmp_path / "lake"),
        destination=str(tmp_path / "out"),
        model="models:/net/1",
        tracking_uri=registry.uri,
        secret_file=secret_file,
        allow_unaudited=True,
        exclude=("*.csv",),
        deid={"burned_in_text": "off"},
    )
    with caplog.at_level("WARNING", "prichexy.anonymize"):
        assert anonymize(config).quarantined == 0
    assert "it is not noted with the model what was published with it" in caplog.text
