"""Looks at a cluster that is a head without cores, as infra/kuberay's standing cluster is before a job comes.

``head_alone.py SETTINGS.json``: prints what doctor finds and what a dry run plans, once as the settings are and once
with cores to wait for. In a process of its own, since a simulated cluster takes the process's Ray.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from prichexy.config import AnonymizeConfig
from prichexy.doctor import examine
from prichexy.dry_run import Rates, plan_of
from prichexy.errors import UsageError

WAITING = {"wait_cpus": 12, "wait_gpus": 1, "wait_seconds": 1}


def looked(settings: dict[str, Any]) -> dict[str, Any]:
    """Findings by check, and the planned resources or why there is no plan."""
    config = AnonymizeConfig.model_validate(settings)
    findings = {finding.check: asdict(finding) for finding in examine(config)}
    try:
        return {"findings": findings, "resources": plan_of(config, Rates()).resources}
    except UsageError as error:
        return {"findings": findings, "refusal": str(error)}


def main(settings: Path) -> None:
    """Start the head, look, and stop it."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
    try:
        given = json.loads(settings.read_text())
        plain = {**given, "ray": {"address": cluster.address}}
        waiting = {**given, "ray": {"address": cluster.address, **WAITING}}
        print(json.dumps({"plain": looked(plain), "waiting": looked(waiting)}))
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
