"""The Ray cluster: whether it answers, is the same everywhere, and has GPUs that work."""

import logging
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from prichexy.cluster import FEWEST_CORES, Capacity, attached, expected, scaled, shared_out, there
from prichexy.config import AnonymizeConfig
from prichexy.doctor.finding import Finding, failed, merged, ok, warning
from prichexy.doctor.node import NodeFacts, look_at_node, versions
from prichexy.doctor.places import MOST_SKEW
from prichexy.doctor.secret import check_runtime_envs, needles
from prichexy.errors import PrichexyError

PATIENCE = 120
"""Seconds for a node's answer: its first task imports the package."""


def look_around(config: AnonymizeConfig) -> Iterator[Finding]:
    """What is looked at on every node, and the cluster as a whole; without a cluster, this machine."""
    if not (config.ray.address or os.environ.get("RAY_ADDRESS")):
        cores = config.ray.num_cpus or len(os.sched_getaffinity(0))
        yield ok("ray", f"no cluster is named: a local Ray {ray.__version__} on {cores} cores starts with the job")
        yield from look_at_node(config, None).findings
        return
    try:
        with attached(config.ray):
            yield from _look_at_cluster(config)
    except RuntimeError as error:  # Ray's own check of versions has no class of its own
        theirs = re.search(r"cluster was started with:\s+Ray: (\S+)\s+Python: (\S+)", str(error))
        if theirs is None:
            raise
        yield mismatch(theirs[1], theirs[2])
    except PrichexyError as error:
        mend = (
            "check ray.address (or RAY_ADDRESS), RAY_AUTH_TOKEN_PATH, and that head and workers are up (`ray status`)"
        )
        yield failed("ray", str(error), mend)


def mismatch(their_ray: str, their_python: str) -> Finding:
    """The cluster runs other versions than this process."""
    return failed(
        "ray",
        f"the cluster runs Ray {their_ray} on Python {their_python}, this process Ray {ray.__version__} on Python "
        f"{platform.python_version()}",
        "use one image for head, workers and submitter",
    )


def _look_at_cluster(config: AnonymizeConfig) -> Iterator[Finding]:
    """The cluster with the nodes that the job would wait for, while they are held; where they don't come, without."""
    with ExitStack() as held:
        try:
            held.enter_context(scaled(config.ray))
        except PrichexyError as error:
            mend = "lower ray.wait_cpus and ray.wait_gpus to what the cluster can grow to, or let it grow"
            yield failed("workers", str(error), mend)
        yield from _look_at_nodes(config)


def _look_at_nodes(config: AnonymizeConfig) -> Iterator[Finding]:
    (cpus, _), (hoped, gpus) = there(), expected(config.ray)
    capacity = shared_out(hoped, gpus, config.ray.actors) if hoped >= FEWEST_CORES else None
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    began = time.time()
    facts = _ask_nodes(config, nodes)
    ended = time.time()
    yield same_versions(facts, len(nodes), cpus, capacity)
    yield check_gpus(_cuda_of_nodes(nodes))
    yield check_runtime_envs(_jobs(), needles(config.secret_file))
    by_check: dict[str, dict[str, Finding]] = {}
    for node, found in facts.items():
        for finding in found.findings:
            by_check.setdefault(finding.check, {})[node] = finding
    yield from (merged(of_nodes) for of_nodes in by_check.values())
    yield same_key(facts)
    yield node_clocks(facts, began, ended)


def same_versions(facts: Mapping[str, NodeFacts], nodes: int, cpus: int, capacity: Capacity | None) -> Finding:
    """Every node answers, with the versions of this process, and a job finds cores.

    Args:
        facts: of the nodes that answered.
        nodes: how many there are.
        cpus: cores that they have for a job now.
        capacity: what the job would begin with; None where that is too little.
    """
    silent = nodes - len(facts)
    if silent:
        mend = f"see `ray logs` of those nodes: is prichexy installed there? Nothing came within {PATIENCE} s"
        return failed("ray", f"{silent} of {nodes} nodes don't answer", mend)
    here = versions()
    others = sorted(node for node, found in facts.items() if found.versions != here)
    if others:
        theirs = "{} / {} / {}".format(*facts[others[0]].versions)
        found = f"Python, Ray, prichexy are {theirs} on {others[0]}, here {' / '.join(here)}"
        return failed("ray", found, "use one image for head, workers and submitter")
    found = f"{here[1]} on {nodes} nodes, {cpus} cores"
    if capacity is None:
        mend = (
            "where the cluster scales by itself, set ray.wait_cpus (and ray.wait_gpus): the job, and this check, then "
            "ask for workers and wait for them; else start workers"
        )
        return warning("ray", f"{found}, of which a job needs {FEWEST_CORES}", mend)
    if capacity.cpus > cpus:
        found += f" now, {capacity.cpus} when those of ray.wait_cpus are there"
    return ok("ray", f"{found}, {capacity.actors} generator actors")


def check_gpus(cuda: Mapping[str, bool | None]) -> Finding:
    """GPUs that Ray knows and torch can use.

    Args:
        cuda: by node with GPUs: whether torch sees one; None where all were busy.
    """
    dark = sorted(node for node, seen in cuda.items() if seen is False)
    if dark:
        mend = "use the image's cuda target there, with a driver that fits its CUDA"
        return failed("gpus", f"torch sees no GPU on {', '.join(dark)}, where Ray has one", mend)
    if not cuda:
        mend = "nothing, if that is meant; where GPUs scale from 0, set ray.wait_gpus"
        return warning("gpus", "none now: each core gets a generator actor", mend)
    busy = sum(seen is None for seen in cuda.values())
    return ok("gpus", f"usable on {len(cuda) - busy} nodes{f', busy on {busy}' if busy else ''}")


def same_key(facts: Mapping[str, NodeFacts]) -> Finding:
    """One project secret on all nodes, or pseudonyms would differ."""
    keys = {found.key_id for found in facts.values() if found.key_id}
    if len(keys) > 1:
        mend = "mount the same secret on every node: pseudonyms would differ"
        return failed("same key", f"nodes hold {len(keys)} different project secrets", mend)
    return ok("same key", "one project secret on all nodes" if keys else "no node has one")


def node_clocks(facts: Mapping[str, NodeFacts], began: float, ended: float) -> Finding:
    """Nodes' clocks against this machine's, as far as the time that they took to answer lets see."""
    off = {node: max(began - found.clock, found.clock - ended, 0.0) for node, found in facts.items()}
    worst = max(off, key=lambda node: off[node], default=None)
    if worst is not None and off[worst] > MOST_SKEW:
        mend = "let all nodes keep their time by NTP: leases and S3 signatures go by it"
        return failed("node clocks", f"{worst} is {off[worst]:.0f} s off", mend)
    return ok("node clocks", f"within {MOST_SKEW:.0f} s of this machine's")


def _ask_nodes(config: AnonymizeConfig, nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, NodeFacts]:
    """What each node says of itself, by its name; silent ones are left out."""
    asked = {_look.options(**_on(node)).remote(config): facts["NodeName"] for node, facts in nodes.items()}
    return {name: answer for name, answer in _answers(asked).items() if isinstance(answer, NodeFacts)}


def _cuda_of_nodes(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, bool | None]:
    having = {node: facts["NodeName"] for node, facts in nodes.items() if facts["Resources"].get("GPU")}
    asked = {_sees_gpu.options(**_on(node), num_gpus=1).remote(): name for node, name in having.items()}
    answers = _answers(asked)
    return {name: answers.get(name) for name in having.values()}


def _on(node: str) -> dict[str, Any]:
    """A task without cores, so that a busy node answers too, on this node and on no other."""
    return {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def _answers(asked: Mapping["ray.ObjectRef[Any]", str]) -> dict[str, Any]:
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE) if asked else ([], [])
    for reference in late:
        ray.cancel(reference, force=True)
    answers = {}
    for reference in done:
        try:
            answers[asked[reference]] = ray.get(reference)
        except ray.exceptions.RayError as error:
            logging.getLogger(__name__).debug("a node's task ended with %s", type(error).__name__)
    return answers


@ray.remote  # type: ignore[untyped-decorator]
def _look(config: AnonymizeConfig) -> NodeFacts:
    return look_at_node(config, Path(ray._private.worker.global_worker.node.get_session_dir_path()))


@ray.remote  # type: ignore[untyped-decorator]
def _sees_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _jobs() -> list[Mapping[str, Any]]:
    """Runtime environments of this process and, where the dashboard runs, of all jobs that Ray remembers."""
    own: list[Mapping[str, Any]] = [{"runtime_env": dict(ray.get_runtime_context().runtime_env)}]
    try:
        from ray.util.state import list_jobs

        return own + [vars(job) for job in list_jobs(detail=True, raise_on_missing_output=False)]
    except Exception as error:  # no dashboard, or not this user's; Ray has no one class for that
        logging.getLogger(__name__).debug("jobs can't be listed: %s", type(error).__name__)
        return own
