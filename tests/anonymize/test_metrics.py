"""What Prometheus reads of a job from Ray's endpoint: the right counts, and nothing that names an image."""

import json
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from prichexy.cohort.phantom import PhantomCohort, write_mixed
from prichexy.config import AnonymizeConfig
from prichexy.obfuscation import create_untrained

# A Ray of its own, for another test's figures would be among these. It prints the summary, then what was scraped.
JOB = """
import dataclasses, json, logging, sys, time, urllib.request
import ray
from prichexy.anonymize import anonymize
from prichexy.anonymize.metrics import WatchedStore, timed
from prichexy.config import AnonymizeConfig

config = AnonymizeConfig.model_validate_json(sys.stdin.read())
assert timed("fetch")(len)(b"12") == 2  # Ray does not run yet: counted for nobody
ray.init(
    address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
    _metrics_export_port=int(sys.argv[1]), _system_config={"metrics_report_interval_ms": 1000},
)
summary = anonymize(config)
print(json.dumps(dataclasses.asdict(summary)))

faults = [ConnectionResetError, ConnectionResetError]
def read():
    if faults:
        raise faults.pop()
WatchedStore(config.source).retried("read from", read)

def scraped():
    address = ray.nodes()[0]["NodeManagerAddress"]
    with urllib.request.urlopen(f"http://{address}:{sys.argv[1]}/metrics", timeout=10) as answer:
        return [line for line in answer.read().decode().splitlines() if "prichexy" in line]

before, end = [], time.monotonic() + 60
while time.monotonic() < end:
    time.sleep(2.5)
    lines = scraped()
    if lines == before and any("retries_total{" in line for line in lines):
        break  # every worker has told
    before = lines
print("\\n".join(lines))
"""


@dataclass(frozen=True)
class Scraped:
    lake: Path
    out: Path
    summary: dict[str, object]
    text: str
    families: dict[str, Metric]

    def sums(self, name: str, label: str = "") -> dict[str, float]:
        """Over all workers, by a label's value."""
        found: Counter[str] = Counter()
        for sample in self.families[f"ray_prichexy_{name}"].samples:
            if sample.name in (f"ray_prichexy_{name}_total", f"ray_prichexy_{name}_count"):
                found[sample.labels.get(label, "")] += sample.value  # type: ignore[assignment]
        return dict(found)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory, secret_file: Path) -> Scraped:
    folder = tmp_path_factory.mktemp("metrics")
    write_mixed(PhantomCohort(3, 7, size=96), folder / "lake", planted=folder / "planted.csv")
    (folder / "lake" / "JANE_ROE_1.png").write_bytes(b"")
    (folder / "lake" / "JANE_ROE_2.png").write_text("Patient JANE ROE")
    create_untrained("identity", folder / "model", 0, {})
    config = AnonymizeConfig(
        source=str(folder / "lake"),
        destination=str(folder / "out"),
        model=str(folder / "model"),
        secret_file=secret_file,
        allow_unaudited=True,
        exclude=("*.csv",),
        rows_per_shard=6,
        chunk=3,
        deid={"burned_in_text": "off"},  # type: ignore[arg-type]
        also_dicom=True,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ran = subprocess.run(
        [sys.executable, "-c", JOB, str(port)],
        input=config.model_dump_json(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    summary, _, text = ran.stdout.partition("\n")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return Scraped(folder / "lake", folder / "out", json.loads(summary), text, families)


def test_images_shards_and_bytes_are_those_of_the_publication(scraped: Scraped) -> None:
    summary = scraped.summary
    assert summary["quarantined"] == 2
    assert scraped.sums("images", "outcome") == {"published": summary["published"], "quarantined": 2}
    reasons = scraped.sums("images", "reason")
    assert {reason: count for reason, count in reasons.items() if reason} == summary["reasons"]
    assert scraped.sums("committed_shards") == {"": summary["shards"]}
    sources = [path for path in scraped.lake.rglob("*") if path.is_file() and path.suffix != ".csv"]
    assert scraped.sums("read_bytes") == {"": sum(path.stat().st_size for path in sources)}
    parquet = [path for path in scraped.out.rglob("*.parquet") if "_quarantine" not in path.parts]
    dicom = sum(path.stat().st_size for path in scraped.out.rglob("*.dcm"))
    written = scraped.sums("written_bytes", "kind")
    assert (written["data"], written["dicom"]) == (sum(path.stat().st_size for path in parquet), dicom)
    assert written["data"] == summary["bytes"]
    assert written["quarantine"] == sum(path.stat().st_size for path in scraped.out.rglob("_quarantine/*.parquet"))


def test_every_image_goes_through_every_stage_and_each_takes_time(scraped: Scraped) -> None:
    rows, shards = int(str(scraped.summary["rows"])), int(str(scraped.summary["shards"]))
    stages = ("fetch", "decode", "obfuscate", "encode", "publish")
    assert scraped.sums("stage_images", "stage") == dict.fromkeys(stages, rows)
    seconds = scraped.sums("stage_seconds", "stage")
    assert set(seconds) == set(stages)
    assert min(seconds.values()) > 0
    assert max(seconds.values()) < float(str(scraped.summary["seconds"])) * 32  # two workers, 16 connections each
    calls = scraped.sums("call_seconds", "stage")
    assert (calls["fetch"], calls["decode"], calls["publish"]) == (rows, rows, shards)
    assert calls["obfuscate"] == calls["encode"] == scraped.sums("batch_images")[""]
    assert -(-rows // 3) <= calls["encode"] <= 2 * shards


def test_the_end_report_tells_the_same_seconds(scraped: Scraped) -> None:
    report: dict[str, Any] = scraped.summary["report"]  # type: ignore[assignment]
    told = {stage["stage"]: stage["seconds"] for stage in report["stages"]}
    assert told == pytest.approx(scraped.sums("stage_seconds", "stage"), abs=0.002)  # rounded to milliseconds
    assert report["images"] == scraped.summary["rows"]


def test_another_attempt_at_a_store_is_counted(scraped: Scraped) -> None:
    assert scraped.sums("storage_retries") == {"": 2}


def test_no_label_names_an_image_a_patient_or_a_place(scraped: Scraped) -> None:
    of_ray = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "le"}
    ours: dict[str, set[str]] = {}
    for family in scraped.families.values():
        for sample in family.samples:
            for name, value in sample.labels.items():
                if name not in of_ray and not name.startswith("otel_scope_"):
                    ours.setdefault(name, set()).add(value)
    assert set(ours) == {"outcome", "reason", "kind", "stage"}
    assert ours["reason"] == {"", *scraped.summary["reasons"]}  # type: ignore[misc]
    names = {path.stem for path in scraped.lake.rglob("*") if path.is_file()}
    assert len(names) > 5
    assert [name for name in (*names, str(scraped.lake), str(scraped.out)) if name in scraped.text] == []
