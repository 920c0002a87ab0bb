"""A plan: what a dry run tells of a job; the estimate of hours and cost; the cluster as the job would find it."""

import os
from dataclasses import asdict, dataclass
from typing import Any

import torch

from prichexy.cluster import FEWEST_CORES, Capacity, attached, expected, shared_out
from prichexy.config import RayConfig
from prichexy.errors import UsageError
from prichexy.registry import Registry


@dataclass(frozen=True)
class Rates:
    """What is known of speed and price; all of the whole cluster.

    Attributes:
        images_per_second: as measured; None: an earlier run's is taken, where one is on record.
        seconds_per_attack: of one attacker with one seed; None: unknown.
        price_per_hour: in whatever currency; None: unknown.
    """

    images_per_second: float | None = None
    seconds_per_attack: float | None = None
    price_per_hour: float | None = None


@dataclass(frozen=True)
class Estimate:
    """How long, and for how much.

    Attributes:
        hours: None where no rate is known.
        cost: None where hours or the price are unknown.
        basis: what they rest on, or what is missing.
    """

    hours: float | None
    cost: float | None
    basis: str


@dataclass(frozen=True)
class Plan:
    """What a job would do.

    Attributes:
        job: its name.
        does: what it would do, in a sentence.
        places: what it reads from and writes to.
        facts: what is there already, and what is to do.
        resources: what it would run on.
        estimate: how long, and for how much.
        refusal: why it would end with exit code 1; "" where nothing is known against it.
    """

    job: str
    does: str
    places: dict[str, str]
    facts: dict[str, Any]
    resources: dict[str, Any]
    estimate: Estimate
    refusal: str = ""

    def shown(self) -> dict[str, Any]:
        """The plan as JSON has it."""
        return asdict(self)


def estimated(seconds: float | None, rates: Rates, basis: str) -> Estimate:
    """Hours and cost of work that takes so many seconds; of unknown work, nothing but the basis."""
    if seconds is None:
        return Estimate(None, None, basis)
    hours = seconds / 3600
    cost = None if rates.price_per_hour is None else round(hours * rates.price_per_hour, 2)
    return Estimate(round(hours, 4), cost, basis)


def expected_capacity(config: RayConfig) -> tuple[str, Capacity]:
    """Where a job would run (``cluster`` or ``local``), and how it would share that out.

    Of a cluster that scales by itself, the cores and GPUs that the job would wait for are taken as there; they are not
    asked for.

    Raises:
        UsageError: the named cluster does not answer, or would begin the job with fewer than two cores.
    """
    if not (config.address or os.environ.get("RAY_ADDRESS")):
        cores = max(FEWEST_CORES, config.num_cpus or len(os.sched_getaffinity(0)))  # as a local Ray would be started
        return "local", shared_out(cores, torch.cuda.device_count(), config.actors)
    with attached(config):
        return "cluster", shared_out(*expected(config), config.actors)


def asked_registry(tracking_uri: str | None, *models: str | None) -> Registry:
    """The registry; where one of the models is in it, it has to be there, since MLflow would make a database.

    Raises:
        UsageError: there is no such database.
    """
    registry = Registry(tracking_uri)
    wanted = any(model is not None and model.startswith("models:") for model in models)
    if wanted and registry.absent_database:
        raise UsageError(f"setting tracking_uri: there is no registry {registry.absent_database} here")
    return registry
