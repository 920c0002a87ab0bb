"""The whole life of a publication, as jobs submitted to a Ray cluster with the configurations that KubeRay mounts.

catalog -> prepare -> train -> audit -> promote -> anonymize -> verify -> publish -> check, on three nodes, with a real
MLflow server and a real S3 server that checks credentials. What is overridden are places, sizes and the audit's limits.
"""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from prichexy.cohort.phantom import PhantomCohort, write_mixed
from prichexy.config import StorageConfig
from prichexy.lake.snapshots import jobs_of, read_manifest
from prichexy.lake.storage import Store
from prichexy.registry import Registry
from tests.e2e.conftest import ACCESS_KEY, SECRET_KEY, S3Server, free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PATIENTS, SIDE = 64, 256
TINY = {"backbone": "tiny", "learning_rate": 1e-3, "epochs": 2, "batch": 16}
ADAM = TINY | {"optimiser": "adam"}

ANY_VERDICT = {"strongest_auc": 1.0, "strongest_upper": 1.0, "utility_loss": 1.0, "folded_share": 1.0}
"""Limits for demonstration, which every model keeps: a network of seconds fails an honest audit, and rightly."""


@dataclass(frozen=True)
class Job:
    """A job that ended."""

    status: JobStatus
    logs: str

    @property
    def result(self) -> Any:
        """The JSON that the job printed."""
        begins = re.search(r"^[{\[]$", self.logs, re.MULTILINE)
        assert begins, self.logs
        return json.JSONDecoder().raw_decode(self.logs, begins.start())[0]


Submit = Callable[..., Job]


@pytest.fixture
def ray_logs(s3: S3Server) -> Iterator[Path]:
    """Where the cluster's nodes put their logs; short, since sockets lie beside them."""
    folder = Path("/tmp") / f"pxl{os.getpid()}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def submit(s3: S3Server, ray_logs: Path, tmp_path: Path) -> Iterator[Submit]:
    """Submits a command to a cluster of three nodes, which have S3's credentials, and waits for its end."""
    dashboard, agent = free_ports(2)
    command = [sys.executable, str(ROOT / "tests" / "e2e" / "three_nodes.py"), str(ray_logs)]
    environment = {**os.environ, **s3.environment(), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "nodes.log").open("w") as log:
        nodes = subprocess.Popen(
            [*command, str(dashboard), str(agent)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert nodes.stdin is not None
    assert nodes.stdout is not None
    try:
        assert nodes.stdout.readline() == "ready\n", (tmp_path / "nodes.log").read_text()
        client = JobSubmissionClient(f"http://127.0.0.1:{dashboard}")

        def run(*words: str) -> Job:
            began = time.monotonic()
            job = client.submit_job(entrypoint=shlex.join(words))
            while not (status := client.get_job_status(job)).is_terminal():
                assert time.monotonic() - began < 900, client.get_job_logs(job)
                time.sleep(1)
            print(
                f"{Path(words[1]).name if words[0] == sys.executable else words[1]}: {time.monotonic() - began:.0f} s"
            )
            return Job(status, client.get_job_logs(job))

        yield run
    finally:
        nodes.stdin.close()  # the nodes are stopped, one after the other
        try:
            nodes.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(nodes.pid, signal.SIGKILL)
            nodes.wait()


@dataclass(frozen=True)
class Lake:
    """A lake of phantoms in a bucket; `names` are planted identifiers and file names, which nothing may show."""

    files: int
    names: list[str]


@pytest.fixture
def lake(s3: S3Server, tmp_path: Path) -> Lake:
    cohort = PhantomCohort(PATIENTS, 11, size=SIDE)
    write_mixed(cohort, tmp_path / "lake", planted=tmp_path / "planted.csv")
    client = s3.client()
    for bucket in ("hospital", "private", "public"):
        client.mkdir(bucket)
    client.put(str(tmp_path / "lake"), "hospital/images", recursive=True)
    with (tmp_path / "planted.csv").open() as file:
        values = {row[-1] for row in csv.reader(file)}
    # Bare numbers are left out: dates are found by chance in logs that are full of numbers.
    names = {value for value in values if len(value) >= 6 and re.search(r"[A-Za-z]|\d{20}", value)}
    names |= {path.stem for path in (tmp_path / "lake").glob("*_*")}
    assert len(names) > 400
    return Lake(len(cohort.studies), sorted(names))


def job(name: str, config: str, *flags: str, **settings: Any) -> list[str]:
    """A job's command line, as a RayJob has it, with settings as key=value."""
    overrides = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in settings.items()]
    script, file = ROOT / "jobs" / f"{name}.py", ROOT / "jobs" / "configs" / config
    return [sys.executable, str(script), "--config", str(file), "--json", *flags, *overrides]


def succeeded(done: Job) -> Any:
    assert done.status == JobStatus.SUCCEEDED, done.logs
    return done.result


def test_from_a_lake_to_a_public_data_set(
    submit: Submit, s3: S3Server, mlflow_server: str, lake: Lake, secret_file: Path, ray_logs: Path, tmp_path: Path
) -> None:
    prichexy, canaries = str(BIN / "prichexy"), tmp_path / "canaries.txt"
    canaries.write_text("\n".join(lake.names) + "\n")
    proven = {"tracking_uri": mlflow_server, "secret_file": str(secret_file)}
    learning = {"table": "s3://private/table", "cache": str(tmp_path / "cache"), "pairs": {"train": 64, "test": 80}}
    learning["pairs"] |= {"validation": 24}  # type: ignore[operator]
    public, jobs = "s3://public/release-1", dict[str, Job]()

    def done(name: str, *words: str) -> Any:
        jobs[name] = submit(*words)
        return succeeded(jobs[name])

    labels = ["--labels", "s3://hospital/images/labels.csv", "exclude=['*.csv']"]
    listed = done(
        "catalog", prichexy, "catalog", "s3://hospital/images", "--out", "s3://private/catalog", *labels, "--json"
    )
    assert (listed["files"], listed["labelled"]) == (lake.files, lake.files)

    shares = "splits={seed: 5, train: 0.4, validation: 0.15, test: 0.45}"
    place = ["--out", "s3://private/table", "--size", "64", shares]
    table = done("prepare", prichexy, "prepare", "s3://private/catalog", *place, "--json")
    assert (table["rows"], table["quarantined"]) == (lake.files, 0)

    trained = done(
        "train",
        *job(
            "train",
            "train-chestxray14.yaml",
            **learning,
            storage_path="s3://private/runs",
            classifier=ADAM,
            verifier=TINY,
            generator={"mu": 0.05, "features": 4},
            pretraining={"epochs": 1, "batch": 16, "learning_rate": 1e-3},
            adversarial={"epochs": 1, "batch": 16, "learning_rate": 1e-3},
            compute={"threads": 1},
            tracking_uri=mlflow_server,
        ),
    )
    assert trained["model"] == "models:/prichexy-net/1"
    assert set(trained["stages"]) == {"classifier", "verifier", "pretraining", "adversarial"}
    registry = Registry(mlflow_server)
    assert registry.find(trained["model"]).aliases == ("staging",)

    refused = submit(*job("promote", "promote.yaml", **proven))
    assert refused.status == JobStatus.FAILED
    assert "models:/prichexy-net/1 has no audit" in refused.logs

    audited = done(
        "audit",
        *job(
            "audit",
            "audit.yaml",
            **learning,
            **proven,
            training_run="s3://private/runs/chestxray14",
            out="s3://private/audits",
            seeds=1,
            threads=1,
            strength=[],
            resamples=100,
            verifier=TINY,
            classifier=ADAM,
            thresholds=ANY_VERDICT,
        ),
    )
    assert audited["verdict"]["passed"]

    promoted = done("promote", *job("promote", "promote.yaml", **proven))
    assert (promoted["outcome"], promoted["audit_id"]) == ("promoted", audited["audit_id"])
    assert registry.find(trained["model"]).aliases == ("champion",)

    publishing = {
        **proven,
        "source": "s3://private/catalog",
        "destination": public,
        "rows_per_shard": 32,
        "deid__burned_in_text": "off",  # at 256 px the phantoms' anatomy itself is taken for text
    }
    rates = ["--dry-run", "--images-per-second", "2", "--price-per-hour", "7.2"]
    plan = done("dry run", *job("anonymize", "anonymize.yaml", *rates, **publishing))
    assert plan["resources"] | {"where": "cluster", "cores": 4, "gpus": 0, "actors": 4} == plan["resources"]
    assert plan["facts"]["shards_to_do"] == -(-lake.files // 32)
    assert plan["facts"]["audit"] == audited["audit_id"]
    assert plan["estimate"]["cost"] == round(lake.files / 2 / 3600 * 7.2, 2)
    assert s3.client().find("public") == []

    summary = done("anonymize", *job("anonymize", "anonymize.yaml", **publishing))
    assert (summary["rows"], summary["published"], summary["quarantined"]) == (lake.files, lake.files, 0)

    words = ["verify", public, "--canaries", str(canaries), "--json"]
    assert done("verify", prichexy, *words)["whole"]

    released = {**proven, "destination": public}
    written = done("publish", *job("publish", "publish.yaml", **released))
    assert written["audited"]
    assert "SHA256SUMS" in written["files"]
    checked = done("check", *job("publish", "publish.yaml", check=True, **released))
    assert checked["ready"]
    # The model was audited at the table's 64 px and publishes at native size: the check advises to audit that.
    assert [advice["what"] for advice in checked["advice"]] == ["audit"]

    champion = registry.find("models:/prichexy-net@champion")
    store = Store(public, StorageConfig(endpoint_url=s3.endpoint))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        manifest = read_manifest(store)
    assert manifest is not None
    (made,) = jobs_of(manifest)
    assert (made.model_version, made.model["fingerprint"]) == (f"prichexy-net/{champion.version}", champion.fingerprint)
    assert made.audited
    assert made.audit_id == champion.audit_id == audited["audit_id"]

    from_the_set = done("lineage of the set", prichexy, "lineage", public, "--json")
    (snapshot,) = from_the_set["snapshots"]
    assert (snapshot["model"], snapshot["audit_id"], snapshot["images"]) == (
        trained["model"],
        audited["audit_id"],
        lake.files,
    )
    words = ["models:/prichexy-net@champion", "--tracking-uri", mlflow_server, "--json"]
    from_the_model = done("lineage of the model", prichexy, "lineage", *words)
    assert (from_the_model["model"], from_the_model["latest_audit"]) == (trained["model"], audited["audit_id"])
    assert [(each["destination"], each["snapshots"]) for each in from_the_model["published"]] == [(public, "1")]

    shown = {name: one.logs.encode() for name, one in jobs.items()} | {"refused": refused.logs.encode()}
    shown |= {
        str(path.relative_to(ray_logs)): path.read_bytes() for path in ray_logs.rglob("logs/**/*") if path.is_file()
    }
    assert len(shown) > 30  # the jobs', and those of each node's processes
    secrets = [
        *(name.encode() for name in lake.names),
        secret_file.read_bytes(),
        secret_file.read_bytes().hex().encode(),
    ]
    secrets.append(SECRET_KEY.encode())
    assert {
        name: sum(secret in text for secret in secrets)
        for name, text in shown.items()
        if any(s in text for s in secrets)
    } == {}
