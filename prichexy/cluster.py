"""Where the job runs: a Ray cluster, or a local Ray that ends with the process."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from prichexy.config import RayConfig
from prichexy.errors import PrichexyError, UsageError

FEWEST_CORES = 2
"""An actor and a task must fit beside each other."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the cluster has, and how the job shares it out.

    Attributes:
        cpus: logical cores of the cluster.
        gpus: GPUs of the cluster.
        actors: generator actors.
        actor_cpus: cores that each of them reserves.
        task_cpus: cores that one ingest or encode task reserves.
    """

    cpus: int
    gpus: int
    actors: int
    actor_cpus: float
    task_cpus: float

    @property
    def actor_gpus(self) -> float:
        """GPUs that one generator actor reserves."""
        return 1.0 if self.gpus else 0.0


@contextmanager
def connected(config: RayConfig) -> Iterator[Capacity]:
    """Ray for the time of a job, with the cores and GPUs that the job waits for.

    Raises:
        UsageError: the named cluster does not answer, or has fewer than two cores.
        PrichexyError: what is waited for did not come in time.
    """
    own = not ray.is_initialized()
    with attached(config), scaled(config) if own else nullcontext():
        yield shared_out(*there(), config.actors)


@contextmanager
def attached(config: RayConfig) -> Iterator[None]:
    """Ray, whatever the cluster has now: nothing is waited for, nor shared out.

    A Ray that this process runs already is used and left running.

    Raises:
        UsageError: the named cluster does not answer.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a privacy tool calls nobody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's C++ writes its warnings to our stderr
    address = config.address or os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            _check_address(address)
            ray.init(address=address, **quiet)
        else:
            # Ray lowers its workers' priority; here they do the work, and Ray's own processes took 2 % of it from them.
            os.environ.setdefault("RAY_worker_niceness", "0")
            cores = config.num_cpus or len(os.sched_getaffinity(0))
            _start(num_cpus=max(FEWEST_CORES, cores), include_dashboard=False, **quiet)
    except (ConnectionError, TimeoutError, ValueError, ray.exceptions.RayError) as error:
        if not address:
            raise
        raise UsageError(f"setting ray.address: no usable Ray cluster answers there ({type(error).__name__})") from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures are told in one sentence by the job
    # Ray prints a paragraph to our stdout for each worker that dies, among the JSON; it has no public switch for that.
    ray._private.worker._worker_logs_enabled = False
    try:
        yield
    finally:
        ray.shutdown()


def there() -> tuple[int, int]:
    """Cores and GPUs that the cluster has now; a head without workers has none for a job."""
    total = ray.cluster_resources()
    return int(total.get("CPU", 0)), int(total.get("GPU", 0))


def expected(config: RayConfig) -> tuple[int, int]:
    """Cores and GPUs that a job would begin with: what is there, or what it would wait for where that is more."""
    cpus, gpus = there()
    return max(cpus, config.wait_cpus or 0), max(gpus, config.wait_gpus or 0)


@contextmanager
def scaled(config: RayConfig) -> Iterator[None]:
    """The cores and GPUs that are waited for, of a cluster that scales by itself; afterwards they may go again.

    The job shares out what is there when it begins, so it must not begin on a head without workers.

    Raises:
        PrichexyError: they did not come in time.
    """
    cpus, gpus = config.wait_cpus or 0, config.wait_gpus or 0
    if not (cpus or gpus):
        yield
        return
    request_resources(bundles=[{"GPU": 1, "CPU": 1}] * gpus + [{"CPU": 1}] * max(0, cpus - gpus))
    try:
        deadline = time.monotonic() + config.wait_seconds
        while not _has(there(), cpus, gpus):
            if time.monotonic() > deadline:
                raise PrichexyError(
                    f"{cpus} cores and {gpus} GPUs did not come within {config.wait_seconds} s (ray.wait_seconds): "
                    "see `ray status` for what the cluster waits for"
                )
            time.sleep(2)
        yield
    finally:
        request_resources(bundles=[])


def _has(total: tuple[int, int], cpus: int, gpus: int) -> bool:
    return total[0] >= cpus and total[1] >= gpus


def _start(**settings: Any) -> None:
    """Start a local Ray; on a busy machine its first start can exceed Ray's own patience, so there is a second."""
    try:
        ray.init(address="local", **settings)
    except Exception:  # Ray raises nothing more specific
        ray.shutdown()
        try:
            ray.init(address="local", **settings)
        except Exception as error:
            reason = f"{type(error).__name__}; is the machine overloaded, or /tmp or /dev/shm full?"
            raise PrichexyError(f"Ray did not start on this machine ({reason})") from None


def _check_address(address: str) -> None:
    """Find out in seconds, not minutes, that nobody listens at HOST:PORT."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()


def shared_out(cpus: int, gpus: int, wished: int | None) -> Capacity:
    """How the job shares a cluster out: at least one whole core is left beside the actors, or the tasks that feed them
    would wait for ever.

    Args:
        cpus: logical cores.
        gpus: how many.
        wished: generator actors; one a GPU, or one a core, when None.

    Raises:
        UsageError: there are fewer than `FEWEST_CORES`.
    """
    if cpus < FEWEST_CORES:
        raise UsageError(
            f"setting ray.wait_cpus: the cluster has {'one core' if cpus else 'no cores'} for the job, and two are "
            "needed; where it scales by itself, name how many to wait for"
        )
    if gpus:
        actors = wished or gpus
        actor_cpus = min(1.0, cpus / 2 / actors, (cpus - 1) / actors)
        return Capacity(cpus, gpus, actors, actor_cpus, task_cpus=min(1.0, cpus - actors * actor_cpus))
    # Without GPUs the network is the work: an actor a core, each with half of it reserved, so that ingest and encode
    # tasks find the other half and the operating system shares the core out.
    return Capacity(cpus, 0, min(wished or cpus, 2 * cpus - 2), actor_cpus=0.5, task_cpus=0.5)
