"""The end report: its arithmetic, and that it names what held a run up in three cases made to be held up by that."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from prichexy.anonymize import Report, anonymize
from prichexy.anonymize.report import STAGES, report_of
from prichexy.anonymize.spent import SPENT, Ledger, Spent, added_up, carrying, ledger, spent_on
from prichexy.anonymize.workers import Workers, workers_for
from prichexy.cli.run_report import show_report
from prichexy.cluster import shared_out
from prichexy.cohort.catalog import build_catalog
from prichexy.cohort.phantom import PhantomCohort, write_png
from prichexy.config import AnonymizeConfig, CatalogConfig
from prichexy.lake.job import Job
from prichexy.obfuscation import create_untrained
from tests.e2e.conftest import ACCESS_KEY, SECRET_KEY, S3Server, s3  # noqa: F401 - a fixture
from tests.e2e.fault_proxy import FaultProxy

TWO_CORES = Workers(cores=2, gpus=0, actors=2, loaders=2, encoders=1, encoder_cpus=0.5)
ONE_GPU = Workers(cores=16, gpus=1, actors=1, loaders=8, encoders=7, encoder_cpus=1.0)


def spent(**seconds: tuple[float, float]) -> list[Spent]:
    """Of 100 images: seconds on the clock and of cores, by stage."""
    return [Spent(stage, 100, *seconds.get(stage, (0.0, 0.0))) for stage in STAGES]


def test_a_busy_core_is_held_up_by_the_stage_that_works_most() -> None:
    took = spent(decode=(12.0, 6.0), obfuscate=(8.0, 4.0), encode=(14.0, 7.0), publish=(2.0, 1.0))
    report = report_of(took, TWO_CORES, 100, seconds=15.0, start_seconds=5.0)
    assert (report.seconds, report.start_seconds, report.images_per_second) == (10.0, 5.0, 10.0)
    assert report.cores_busy == 0.9  # 18 core seconds of 20
    assert (report.bottleneck, report.bottleneck_busy) == ("encode", 0.9)
    assert report.stages[1].ms_an_image == 120
    assert report.stages[1].core_ms_an_image == 60
    assert report.gpus_busy is None
    assert report.one_more_gpu is None
    assert report.one_more_core == 15.0
    assert report.store_twice_as_fast == 10.0  # nobody waits for it


def test_waiting_loaders_are_held_up_by_the_store_however_long_connections_took() -> None:
    took = spent(fetch=(160.0, 1.0), decode=(4.0, 4.0), publish=(1.0, 1.0))
    took[0] = replace(took[0], waited=15.0)
    report = report_of(took, TWO_CORES, 100, seconds=10.0, start_seconds=0.0)
    assert (report.bottleneck, report.bottleneck_busy) == ("store", 0.95)
    assert report.waiting_for_store == 0.75
    assert report.cores_busy == 0.3
    assert report.store_twice_as_fast == pytest.approx(10 * 19 / 11.5, abs=0.01)  # 115 ms in a loader, not 190
    assert report.one_more_core == 15.0  # and one more of those who wait


def test_a_gpu_that_is_always_busy_is_what_one_more_would_help() -> None:
    took = spent(decode=(40.0, 40.0), obfuscate=(9.8, 3.0), encode=(2.0, 2.0))
    report = report_of(took, ONE_GPU, 100, seconds=10.0, start_seconds=0.0)
    assert (report.bottleneck, report.gpus_busy) == ("obfuscate", 0.98)
    assert report.one_more_gpu == pytest.approx(10 * 20 / 10.2, abs=0.01)  # then loaders are the limit
    assert report.one_more_core == report.images_per_second == 10.0


def test_a_slow_destination_is_the_store_and_slow_compression_is_publish() -> None:
    slow = report_of(spent(decode=(2.0, 2.0), publish=(9.0, 1.0)), TWO_CORES, 100, 10.0, 0.0)
    assert (slow.bottleneck, slow.bottleneck_busy) == ("store", 0.9)
    assert slow.store_twice_as_fast == pytest.approx(18.0)
    busy = report_of(spent(decode=(4.0, 2.0), publish=(9.0, 4.0)), TWO_CORES, 100, 10.0, 0.0)
    assert busy.bottleneck == "publish"  # its cores were shared out as decode's were: 8 s of 9


def test_where_nothing_is_busy_it_is_ray_and_more_brings_nothing() -> None:
    report = report_of(spent(decode=(3.0, 3.0)), TWO_CORES, 100, 10.0, 0.0)
    assert (report.bottleneck, report.bottleneck_busy) == ("ray", 0.15)
    assert {report.one_more_core, report.store_twice_as_fast} == {10.0}


def test_a_million_images_cost_what_the_cluster_costs_meanwhile() -> None:
    took = spent(decode=(10.0, 10.0))
    assert report_of(took, TWO_CORES, 100, 12.0, 2.0).cost_of_a_million is None
    report = report_of(took, TWO_CORES, 100, 12.0, 2.0, price_per_hour=3.6)
    assert report.cost_of_a_million == pytest.approx(100.0)  # 10 images a second: 100,000 s


def test_workers_leave_room_for_each_other() -> None:
    job = Job(4000, 1000, "native", 16, {}, "", "", "", {}, False)
    assert workers_for(shared_out(2, 0, None), job, 250) == TWO_CORES
    assert workers_for(shared_out(2, 0, None), job, 1).actors == 1
    assert workers_for(shared_out(16, 1, None), job, 250) == ONE_GPU


def test_encoders_reserve_what_they_were_measured_to_use_where_they_take_it_from_those_who_decode() -> None:
    job = Job(4000, 1000, "native", 16, {}, "", "", "", {}, False)
    light = spent(fetch=(99.0, 1.0), decode=(14.0, 13.0), encode=(1.0, 1.0))
    later = workers_for(shared_out(16, 1, None), job, 250, light)
    assert (later.encoders, later.encoder_cpus, later.loaders) == (7, 0.14, 14)  # a fifteenth of 15 cores, by seven
    heavy = spent(decode=(10.0, 10.0), encode=(30.0, 30.0))
    assert workers_for(shared_out(16, 1, None), job, 250, heavy) == ONE_GPU
    assert workers_for(shared_out(2, 0, None), job, 250, light) == TWO_CORES


@carrying
def stage(table: pa.Table) -> pa.Table:
    """Passes rows on, and takes half a second for each."""
    ledger.note(Spent("decode", table.num_rows, table.num_rows / 2))
    return table.select(["row"])


def test_what_is_spent_stays_with_the_rows_through_slices_and_concatenation() -> None:
    ledger.take()
    chunks = [stage(pa.table({"row": [1, 2, 3]})), stage(pa.table({"row": [4, 5]}))]
    assert chunks[0].column_names == ["row", "spent"]
    both = pa.concat_tables(chunks)
    parts = [both.slice(0, 2), both.slice(2)]
    assert added_up([*spent_on(parts[0]), *spent_on(parts[1])]) == [Spent("decode", 5, 2.5)]
    assert spent_on(stage(both)) == [Spent("decode", 10, 5.0)]
    assert ledger.take() == []


def test_no_row_no_time() -> None:
    ledger.take()
    empty = stage(pa.table({"row": pa.array([], pa.int64()), "spent": pa.array([], SPENT.type)}))
    assert spent_on(empty) == []


def test_waiting_is_told_apart_from_the_work_of_cores() -> None:
    mine = Ledger()
    with mine.remainder("fetch"):
        with mine.waiting():
            time.sleep(0.2)
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        mine.note(Spent("decode", 1, 0.04, 0.04))
    fetch, decode = mine.take()
    assert (decode.core_seconds, decode.waited) == (0.04, 0.0)
    assert 0.15 < fetch.waited < 2.0
    assert 0.05 < fetch.core_seconds < 0.2


SETTINGS: dict[str, Any] = {
    "allow_unaudited": True,
    "exclude": ("*.csv",),
    "resolution": "256",
    "chunk": 4,
    "rows_per_shard": 8,
    "deid": {"burned_in_text": "off"},
}


def lake_of(folder: Path, patients: int, size: int) -> Path:
    write_png(PhantomCohort(patients, 5, size=size), folder)
    return folder


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "identity"
    create_untrained("identity", folder, 0, {})
    return folder


@pytest.fixture
def slow_store(s3: S3Server, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:  # noqa: F811
    """The catalog of a lake of small phantoms, and how the lake is reached: each answer is two seconds late."""
    client = s3.client()
    client.mkdir("slow")
    client.put(str(lake_of(tmp_path / "lake", 12, 96)), "slow/", recursive=True)
    credentials = Path(os.environ["HOME"]) / ".aws" / "credentials"  # which Ray's workers find, unlike our environment
    credentials.parent.mkdir(exist_ok=True)
    with credentials.open("a") as file:
        file.write(f"[slow]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    host, _, port = s3.endpoint.rpartition("/")[2].partition(":")
    reached = {"endpoint_url": s3.endpoint, "region": "us-east-1", "profile": "slow"}
    listed = {"source": "s3://slow/lake", "out": str(tmp_path / "catalog"), "exclude": SETTINGS["exclude"]}
    build_catalog(CatalogConfig.model_validate({**listed, "storage": reached}))
    with FaultProxy((host, int(port)), share=1.0, kinds=("delay",), delay=2.0) as proxy:
        yield listed["out"], {**reached, "endpoint_url": proxy.endpoint}


def whole(report: Report | None, rows: int) -> Report:
    """The report, which tells of every image in every stage, and of no more time than there was."""
    assert report is not None
    assert report.images == rows
    assert [(each.stage, each.images) for each in report.stages] == [(name, rows) for name in STAGES]
    assert min(each.seconds for each in report.stages) > 0
    assert report.start_seconds > 0.5  # workers that import torch
    assert 0 < report.cores_busy < 1.3  # workers are more threads than the two that Ray was told of
    assert json.loads(json.dumps(asdict(report)))["bottleneck"] == report.bottleneck
    return report


@pytest.mark.usefixtures("local_ray")
def test_a_slow_store_is_the_bottleneck(
    slow_store: tuple[str, dict[str, str]], identity: Path, secret_file: Path, tmp_path: Path
) -> None:
    source, storage = slow_store
    places = {"source": source, "destination": str(tmp_path / "out"), "exclude": ()}
    settings = {**SETTINGS, **places, "model": str(identity), "secret_file": secret_file, "storage": storage}
    summary = anonymize(AnonymizeConfig.model_validate(settings))
    report = whole(summary.report, summary.rows)
    assert report.bottleneck == "store", report
    assert report.waiting_for_store > 0.5
    assert report.stages[0].ms_an_image > 2000
    assert report.store_twice_as_fast > 1.3 * report.images_per_second


@pytest.mark.usefixtures("local_ray")
def test_a_slow_decode_is_the_bottleneck(identity: Path, secret_file: Path, tmp_path: Path) -> None:
    config = AnonymizeConfig.model_validate(
        {
            **SETTINGS,
            "source": str(lake_of(tmp_path / "lake", 6, 1024)),
            "destination": str(tmp_path / "out"),
            "model": str(identity),
            "secret_file": secret_file,
            "deid": {"burned_in_text": "redact", "full_resolution": True},
            "price_per_hour": 2.0,
        }
    )
    summary = anonymize(config)
    report = whole(summary.report, summary.rows)
    assert report.bottleneck == "decode", report
    assert report.stages[1].core_ms_an_image > 100
    assert report.one_more_core > 1.2 * report.images_per_second
    assert report.store_twice_as_fast < 1.1 * report.images_per_second
    assert report.cost_of_a_million == pytest.approx(2e6 / 3600 / report.images_per_second, rel=0.05)


@pytest.mark.usefixtures("local_ray")
def test_a_slow_network_is_the_bottleneck_and_a_run_reports_only_its_own_part(
    secret_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create_untrained("flow-field", tmp_path / "model", 0, {})
    config = AnonymizeConfig.model_validate(
        {
            **SETTINGS,
            "source": str(lake_of(tmp_path / "lake", 12, 96)),
            "destination": str(tmp_path / "out"),
            "model": str(tmp_path / "model"),
            "secret_file": secret_file,
        }
    )
    summary = anonymize(config)
    report = whole(summary.report, summary.rows)
    assert report.bottleneck == "obfuscate", report
    assert report.one_more_core > 1.2 * report.images_per_second
    show_report(report)
    shown = capsys.readouterr().out
    assert "bottleneck" in shown
    assert "obfuscate, the network" in shown
    assert "cost" not in shown

    assert anonymize(config).report is None
    for lost in ("_SUCCESS", "_snapshots/0001/_MANIFEST.json", "_snapshots/0001/_commits/000000.json"):
        (tmp_path / "out" / lost).unlink()
    again = anonymize(config)
    assert again.resumed == again.shards - 1
    assert again.report is not None
    assert again.report.images == SETTINGS["rows_per_shard"]
