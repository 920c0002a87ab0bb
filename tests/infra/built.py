"""The manifests as they would be applied: built by kubectl's kustomize, which needs no cluster."""

import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
OVERLAYS = ("cpu", "gpu", "spot")


def tool(name: str) -> str:
    """A command of the dev extras, or of this machine; the test skips where there is neither."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: it is in the dev extras")
    return found


@lru_cache
def overlay(name: str) -> tuple[dict[str, Any], ...]:
    """Every object of an overlay."""
    command = [tool("kubectl"), "kustomize", str(INFRA / "kuberay" / "overlays" / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(name: str, kind: str) -> dict[str, dict[str, Any]]:
    """An overlay's objects of one kind, by name."""
    return {item["metadata"]["name"]: item for item in overlay(name) if item["kind"] == kind}


def pods(item: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pod templates of a RayCluster, RayJob or Job, by what they are for."""
    spec = item["spec"]
    if item["kind"] == "Job":
        return {"job": spec["template"]}
    if item["kind"] == "RayJob":
        cluster = pods({"kind": "RayCluster", "spec": spec["rayClusterSpec"]})
        return {**cluster, "submitter": spec["submitterPodTemplate"]}
    groups = {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"]["template"], **groups}


@lru_cache
def compose() -> dict[str, Any]:
    """The compose file, its anchors and merges resolved."""
    read: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return {key: value for key, value in read.items() if not key.startswith("x-")}
