"""Doctor and dry run on a standing cluster whose workers come only when a job asks for them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prichexy.cohort.phantom import PhantomCohort, write_png

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory, model: Path, secret_file: Path) -> dict[str, Any]:
    """What both say: as the configuration is, and with cores and a GPU to wait for."""
    folder = tmp_path_factory.mktemp("standing")
    write_png(PhantomCohort(2, 5, size=96), folder / "lake")
    settings = {
        "source": str(folder / "lake"),
        "destination": str(folder / "out"),
        "model": str(model),
        "allow_unaudited": True,
        "secret_file": str(secret_file),
        "deid": {"burned_in_text": "off"},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    script = Path(__file__).parent / "head_alone.py"
    command = [sys.executable, str(script), str(folder / "settings.json")]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_head_is_looked_at_and_the_cores_to_wait_for_are_missed(looked: dict[str, Any]) -> None:
    found = looked["plain"]["findings"]
    assert found["ray"]["state"] == "warning"
    assert found["ray"]["found"].endswith("on 1 nodes, 0 cores, of which a job needs 2")
    assert "set ray.wait_cpus" in found["ray"]["mend"]
    assert found["same key"]["found"] == "one project secret on all nodes"
    assert found["source"]["state"] == found["destination"]["state"] == "ok"
    assert "workers" not in found


def test_workers_that_do_not_come_are_told_and_the_head_is_looked_at_anyway(looked: dict[str, Any]) -> None:
    found = looked["waiting"]["findings"]
    assert found["workers"]["state"] == "failed"
    assert found["workers"]["found"].startswith("12 cores and 1 GPUs did not come within 1 s")
    told = "on 1 nodes, 0 cores now, 12 when those of ray.wait_cpus are there, 1 generator actors"
    assert found["ray"]["found"].endswith(told)
    assert found["source"]["state"] == "ok"


def test_a_dry_run_plans_with_what_the_job_would_wait_for(looked: dict[str, Any]) -> None:
    shared = {"where": "cluster", "cores": 12, "gpus": 1, "actors": 1, "cores_an_actor": 1.0, "cores_a_task": 1.0}
    assert looked["waiting"]["resources"] | shared == looked["waiting"]["resources"]
    assert looked["plain"]["refusal"].startswith("setting ray.wait_cpus: the cluster has no cores for the job")
