"""The main job on a small phantom lake and a local Ray."""

import csv
import io
import json
import re
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from prichexy.anonymize import Summary, anonymize, stages
from prichexy.anonymize import job as job_module
from prichexy.anonymize.ingest import ingest
from prichexy.anonymize.work import INGESTED, Work
from prichexy.cohort.phantom import PhantomCohort, write_mixed
from prichexy.config import AnonymizeConfig
from prichexy.deid import Pseudonyms
from prichexy.errors import PrichexyError, StorageFault, UsageError
from prichexy.imaging import decode, resize
from prichexy.lake.job import Job
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify
from prichexy.obfuscation import create_untrained
from prichexy.verdict import VerdictError

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "lake"
    write_mixed(PhantomCohort(12, 7, size=160), folder, planted=folder.parent / "planted.csv")
    (folder / "broken").mkdir()
    (folder / "broken" / "JANE_ROE_1.png").write_bytes(b"")
    (folder / "broken" / "JANE_ROE_2.dcm").write_bytes(next(folder.glob("*.dcm")).read_bytes()[:3000])
    (folder / "broken" / "JANE_ROE_3.png").write_text("Patient JANE ROE")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    create_untrained("identity", folder / "identity", 0, {})
    create_untrained("flow-field", folder / "flow", 0, {"features": 4, "mu": 0.05})
    create_untrained("dp-pix", folder / "dp-pix", 0, {"cell": 8})
    return folder


def configured(lake: Path, out: Path, model: Path, secret_file: Path, **more: Any) -> AnonymizeConfig:
    return AnonymizeConfig(
        source=str(lake),
        destination=str(out),
        model=str(model),
        secret_file=secret_file,
        allow_unaudited=True,
        exclude=("*.csv",),
        chunk=4,
        **{"rows_per_shard": 10, "deid": {"burned_in_text": "off"}, **more},
    )


@dataclass(frozen=True)
class Run:
    config: AnonymizeConfig
    summary: Summary

    @property
    def out(self) -> Path:
        return Path(self.config.destination)


@pytest.fixture(scope="module")
def identity_run(
    lake: Path, models: Path, tmp_path_factory: pytest.TempPathFactory, secret_file: Path, local_ray: None
) -> Run:
    out = tmp_path_factory.mktemp("identity") / "out"
    config = configured(lake, out, models / "identity", secret_file, labels=str(lake / "labels.csv"))
    return Run(config, anonymize(config))


@pytest.fixture(scope="module")
def flow_run(
    lake: Path, models: Path, tmp_path_factory: pytest.TempPathFactory, secret_file: Path, local_ray: None
) -> Run:
    config = configured(lake, tmp_path_factory.mktemp("flow") / "out", models / "flow", secret_file, resolution="256")
    return Run(config, anonymize(config))


def published(out: Path) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for file in out.glob("data/*") for row in pq.read_table(file).to_pylist()}


def test_a_network_runs_in_its_actor_s_main_thread_where_its_memory_is_kept(
    lake: Path, models: Path, tmp_path: Path, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = tmp_path / "threads"

    class Obfuscate(stages.Obfuscate):
        def __call__(self, table: pa.Table) -> pa.Table:
            with threads.open("a") as file:
                file.write(f"{threading.current_thread() is threading.main_thread()}\n")
            return super().__call__(table)

    monkeypatch.setattr(job_module, "Obfuscate", Obfuscate)
    anonymize(configured(lake, tmp_path / "out", models / "identity", secret_file))
    assert set(threads.read_text().split()) == {"True"}


def test_another_engine_publishes_the_same_to_one_grey_level(
    lake: Path, flow_run: Run, tmp_path: Path, secret_file: Path
) -> None:
    create_untrained("flow-field", tmp_path / "model", 0, {"features": 4, "mu": 0.05, "engine": "winograd"})
    anonymize(configured(lake, tmp_path / "out", tmp_path / "model", secret_file, resolution="256"))
    by_torch, by_winograd = published(flow_run.out), published(tmp_path / "out")
    assert by_torch.keys() == by_winograd.keys()
    for image_id, row in by_torch.items():
        levels, others = (decode(each["image"]["bytes"]).pixels.astype(int) for each in (row, by_winograd[image_id]))
        assert np.abs(levels - others).max() <= (2 ** row["bit_depth"] - 1) // 255


def test_identity_publishes_exactly_what_was_decoded(lake: Path, identity_run: Run, secret_file: Path) -> None:
    summary, out = identity_run.summary, identity_run.out
    sources = [path for path in lake.iterdir() if path.suffix in (".png", ".dcm")]
    assert (summary.rows, summary.published, summary.quarantined) == (len(sources) + 3, len(sources), 3)
    assert sum(summary.reasons.values()) == 3
    assert summary.images_per_second > 0
    assert verify(Store(str(out))).problems == []
    rows, ours = published(out), Pseudonyms.from_file(secret_file)
    with (lake / "labels.csv").open() as file:
        by_name = {line["Image Index"]: line for line in csv.DictReader(file)}
    for path in sources:
        row, expected, label = rows[ours.image_id(path.name)], decode(path.read_bytes()), by_name[path.name]
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        if expected.bit_depth > 8:
            pixels = pixels >> (16 - expected.bit_depth)
        assert np.array_equal(pixels, expected.pixels)
        assert (row["height"], row["width"], row["bit_depth"]) == (*expected.pixels.shape, expected.bit_depth)
        assert row["patient_id"] == ours.patient_id("", label["Patient ID"])
        assert set(row["findings"]) == set(label["Finding Labels"].split("|")) - {"No Finding"}
        assert (row["view"], row["model_version"]) == (expected.view, summary.model)


def test_flow_field_moves_pixels_at_both_resolutions(
    lake: Path, models: Path, flow_run: Run, tmp_path: Path, secret_file: Path
) -> None:
    native = configured(lake, tmp_path / "native", models / "flow", secret_file)
    assert anonymize(native).quarantined == flow_run.summary.quarantined == 3
    image_id = Pseudonyms.from_file(secret_file).image_id("00000001_000.png")
    original = decode((lake / "00000001_000.png").read_bytes()).pixels
    for out, expected in ((tmp_path / "native", original), (flow_run.out, resize(original, 256, 256))):
        pixels = np.asarray(Image.open(io.BytesIO(published(out)[image_id]["image"]["bytes"])))
        assert pixels.shape == expected.shape
        assert 0.1 < np.abs(pixels.astype(int) - expected).mean() < 20
        assert verify(Store(str(out))).whole


def test_no_identifier_reaches_the_published_tree(lake: Path, identity_run: Run, secret_file: Path) -> None:
    with (lake.parent / "planted.csv").open() as file:
        planted = {line["value"] for line in csv.DictReader(file) if len(line["value"]) > 5}
    planted |= {"JANE_ROE", "JANE ROE", str(lake), secret_file.read_bytes().hex()}
    assert len(planted) > 50
    for file in identity_run.out.rglob("*"):
        if file.is_file():
            text = file.read_bytes()
            assert [value for value in planted if value.encode() in text] == [], file.name
    assert "JANE" not in repr(identity_run.summary)


def test_a_repeated_job_recomputes_nothing_and_gives_the_same_summary(identity_run: Run) -> None:
    written = {path: path.stat().st_mtime_ns for path in identity_run.out.rglob("*") if path.is_file()}
    first, second = identity_run.summary, anonymize(identity_run.config)
    now = {path: path.stat().st_mtime_ns for path in identity_run.out.rglob("*") if path.is_file()}
    assert now == written
    assert second.resumed == first.shards
    same = ("rows", "published", "quarantined", "reasons", "bytes", "shards", "model")
    assert [getattr(second, name) for name in same] == [getattr(first, name) for name in same]


def test_missing_commits_are_made_again_byte_for_byte(flow_run: Run, tmp_path: Path) -> None:
    shutil.copytree(flow_run.out, tmp_path / "out")
    shutil.copytree(f"{flow_run.out}.private", tmp_path / "out.private")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")}
    shards = flow_run.summary.shards
    for lost in (
        "_SUCCESS",
        "_snapshots/0001/_MANIFEST.json",
        "_snapshots/0001/_commits/000001.json",
        "_snapshots/0001/_commits/000003.json",
    ):
        (tmp_path / "out" / lost).unlink()
    (tmp_path / "out" / "data" / f"part-0001-000001-of-{shards:06d}.parquet").unlink()
    again = anonymize(flow_run.config.model_copy(update={"destination": str(tmp_path / "out")}))
    assert again.resumed == shards - 2
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")} == before
    assert verify(Store(str(tmp_path / "out"))).whole


def test_same_key_links_two_publications_and_another_key_none(
    lake: Path, models: Path, identity_run: Run, flow_run: Run, tmp_path: Path
) -> None:
    (tmp_path / "other.key").write_bytes(b"o" * 32)
    other = configured(lake, tmp_path / "out", models / "flow", tmp_path / "other.key", resolution="256")
    anonymize(other)
    runs = [published(out) for out in (identity_run.out, flow_run.out, tmp_path / "out")]
    assert set(runs[0]) == set(runs[1])
    assert not set(runs[1]) & set(runs[2])
    # Without labels, DICOM patients come from the header; another key has none in common.
    patients = [{row["patient_id"] for row in run.values()} - {None} for run in runs]
    assert patients[1]
    assert not patients[1] & patients[2]


def test_dp_pix_noise_is_the_same_again_and_needs_256(
    lake: Path, models: Path, tmp_path: Path, secret_file: Path
) -> None:
    with pytest.raises(UsageError, match="can't publish at native size: use --resolution 256"):
        anonymize(configured(lake, tmp_path / "out", models / "dp-pix", secret_file))
    assert not (tmp_path / "out").exists()
    for name, chunk in (("a", 4), ("b", 7)):
        config = configured(lake, tmp_path / name, models / "dp-pix", secret_file, resolution="256")
        anonymize(config.model_copy(update={"chunk": chunk}))
    a, b = published(tmp_path / "a"), published(tmp_path / "b")
    assert {key: row["image"] for key, row in a.items()} == {key: row["image"] for key, row in b.items()}


def test_a_model_without_an_audit_needs_the_flag_and_is_stamped(identity_run: Run, tmp_path: Path) -> None:
    refused = {"allow_unaudited": False, "destination": str(tmp_path / "out")}
    with pytest.raises(VerdictError, match=r"has no passing audit, .*, or say --allow-unaudited"):
        anonymize(identity_run.config.model_copy(update=refused))
    assert not (tmp_path / "out").exists()
    job = json.loads((identity_run.out / "_snapshots/0001/_MANIFEST.json").read_text())["jobs"][-1]
    assert (job["audited"], job["audit_id"]) == (False, "unaudited")
    for file in identity_run.out.glob("data/*"):
        assert pq.read_schema(file).metadata[b"prichexy.audit"] == b"unaudited"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"secret_file": None}, "no project secret"),
        ({"model": "models:/absent/1"}, "there is no models:/absent/1"),
        ({"model": "models:/absent@champion"}, "there is no models:/absent@champion"),
        ({"model": "models:/a/b/c"}, "is not models:/NAME/VERSION"),
        ({"model": "/nowhere"}, "neither a model folder nor a models:/ URI"),
        ({"source": "EMPTY"}, "no files found at"),
        ({"source": "ABSENT"}, "nothing found at"),
        ({"destination": "/proc/none/out"}, "can't write to /proc/none/out"),
        ({"destination": "s3://bucket/out", "storage": {"endpoint_url": "http://127.0.0.1:9"}}, "no credentials found"),
    ],
)
def test_mistakes_are_told_in_one_sentence_before_anything_starts(
    lake: Path, models: Path, tmp_path: Path, secret_file: Path, change: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "EMPTY").mkdir()
    config = configured(lake, tmp_path / "out", models / "identity", secret_file)
    if change.get("source"):
        change = {"source": str(tmp_path / change["source"])}
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    changed = AnonymizeConfig.model_validate({**config.model_dump(), "tracking_uri": tracking, **change})
    with pytest.raises(PrichexyError) as caught:
        anonymize(changed)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path).glob("out/data/*"))


def test_a_destination_of_another_job_is_refused(identity_run: Run, models: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"another job's shards \(differing: model\)"):
        anonymize(identity_run.config.model_copy(update={"model": str(models / "flow")}))
    (tmp_path / "other.key").write_bytes(b"o" * 32)
    with pytest.raises(UsageError, match="key_id"):
        anonymize(identity_run.config.model_copy(update={"secret_file": tmp_path / "other.key"}))


def test_another_source_is_refused_at_the_same_destination(identity_run: Run, tmp_path: Path) -> None:
    shutil.copytree(identity_run.config.source, tmp_path / "other")
    with pytest.raises(UsageError, match=r"another job's shards \(differing: source\)"):
        anonymize(identity_run.config.model_copy(update={"source": str(tmp_path / "other")}))
    with pytest.raises(UsageError, match=r"differing: source"):
        anonymize(identity_run.config.model_copy(update={"labels": None}))


def test_a_large_lake_goes_in_rounds_of_whole_shards(
    lake: Path, models: Path, flow_run: Run, tmp_path: Path, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "MOST_SPANS", 7)
    config = configured(lake, tmp_path / "out", models / "flow", secret_file, resolution="256")
    assert len(list(job_module._rounds(Job(40, 10, "256", 4, {}, "", "", "", {}, False), list(range(4))))) == 2
    summary = anonymize(config)
    assert summary.published == flow_run.summary.published
    files = {path.name: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (flow_run.out / "data").iterdir()}


def work_on(config: AnonymizeConfig, monkeypatch: pytest.MonkeyPatch) -> Work:
    """What the job would send to its workers."""
    works: list[Work] = []
    monkeypatch.setattr(job_module, "_stream", lambda work, *_: works.append(work) or 0.0)
    with pytest.raises(StorageFault):
        anonymize(config)
    return works[0]


def ingested(work: Work) -> pa.Table:
    return ingest(pa.table({"id": [0]}), np.array([[0, work.catalog.rows]]), work)


def test_a_file_that_vanishes_stops_the_job_unless_it_may(
    lake: Path, models: Path, tmp_path: Path, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(lake, tmp_path / "lake")
    config = configured(tmp_path / "lake", tmp_path / "out", models / "identity", secret_file, rows_per_shard=100)
    work = work_on(config, monkeypatch)
    (tmp_path / "lake" / "00000001_000.png").unlink()
    with pytest.raises(StorageFault, match=r"a listed file is gone from the lake \(row \d+ of the catalog\)") as caught:
        ingested(work)
    assert "00000001" not in str(caught.value)
    table = ingested(replace(work, allow_missing=True))
    assert table.schema.equals(INGESTED)
    gone = [row for row in table.to_pylist() if row["reason"] == "SourceGone"]
    assert [(row["stage"], row["pixels"]) for row in gone] == [("fetch", None)]


def test_a_file_that_changed_or_is_too_large_is_quarantined(
    lake: Path, models: Path, tmp_path: Path, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(lake, tmp_path / "lake")
    config = configured(tmp_path / "lake", tmp_path / "out", models / "identity", secret_file, rows_per_shard=100)
    work = work_on(config, monkeypatch)
    image = tmp_path / "lake" / "00000001_000.png"
    image.write_bytes(image.read_bytes() + b"\0")
    assert [row["reason"] for row in ingested(work).to_pylist() if row["stage"] == "fetch"] == ["SourceChanged"]
    smaller = replace(work, limits=replace(work.limits, max_bytes=2000))
    reasons = {row["reason"] for row in ingested(smaller).to_pylist() if row["stage"] == "fetch"}
    assert reasons == {"TooLarge"}


def test_a_worker_without_the_secret_says_so(
    lake: Path, models: Path, tmp_path: Path, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = work_on(configured(lake, tmp_path / "out", models / "identity", secret_file), monkeypatch)
    with pytest.raises(UsageError, match="can't be read"):
        ingested(replace(work, secret_file=tmp_path / "absent.key"))


def test_an_image_passes_one_actor_and_one_shard_and_ray_runs_nothing_else(
    lake: Path, models: Path, secret_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = []

    def images(*given: Any) -> Any:
        plans.append(build(*given))
        return plans[-1]

    build = job_module._images
    monkeypatch.setattr(job_module, "_images", images)
    anonymize(configured(lake, tmp_path / "out", models / "identity", secret_file))
    operators = re.findall(r"^Operator \d+ (.+?): ", plans[0].stats(), re.MULTILINE)
    assert operators == ["FromItems", "MapBatches(ingest)->MapBatches(FromPixelsToFile)", "MapBatches(publish)"]
