"""What `train` would do."""

from typing import Any

from prichexy.cohort.table import TrainingTable, open_table
from prichexy.config import TrainConfig
from prichexy.dry_run.plan import Plan, Rates, asked_registry, estimated, expected_capacity
from prichexy.lake.storage import Store
from prichexy.registry.models import without_password
from prichexy.training.checkpoints import Checkpoints, below
from prichexy.training.loop import check, check_capacity, check_classifier_trained, publishes
from prichexy.training.records import STAGE, check_unchanged, deciding_settings, read_record
from prichexy.training.stages import StageName, obfuscation_of, stages_of

OF_PAIRS = ("verifier", "adversarial", "multi_scale")
"""Stages whose samples are pairs: two images each."""


def plan_train(config: TrainConfig, rates: Rates) -> Plan:
    """The run's plan: each stage with the epochs that are left, resources, an upper bound of hours.

    Of a table in object storage nothing but its facts is read, so pairs are not drawn.

    Raises:
        UsageError: what the job would refuse; see `prichexy.training.loop.train`.
        PrichexyError: a store or the cluster can't be reached.
    """
    table = open_table(config.table, config.storage, config.cache)
    if table.store.is_local:
        check(config, table)
    else:
        table.check(config.compute.workers)
        obfuscation_of(config, table.facts.size)
    run = below(Store(config.storage_path, config.storage), config.run)
    check_classifier_trained(config, stages_of(config), run)
    where, capacity = expected_capacity(config.ray)
    check_capacity(config, capacity)
    stages, seconds = dict[str, str](), list[float | None]()
    for stage in stages_of(config):
        stages[stage], left = _stage(config, stage, table, run, rates)
        seconds.append(left)
    compute = config.compute
    known = [left for left in seconds if left is not None]
    whole = len(known) == len(seconds)
    registered = config.register_as if publishes(stages_of(config)) else None
    return Plan(
        job="train",
        does=f"trains {', '.join(stages)}" + (f" and registers {registered}" if registered else ""),
        places={
            "table": config.table,
            "run": run.uri,
            "registry": without_password(asked_registry(config.tracking_uri).uri),
        },
        facts={
            "size": table.facts.size,
            "images": dict(table.facts.counts),
            "pairs_checked": table.store.is_local,
            "stages": stages,
        },
        resources={
            "where": where,
            "cores": capacity.cpus,
            "gpus": capacity.gpus,
            "workers": compute.workers,
            "cores_a_worker": compute.threads,
            "gpus_a_worker": int(compute.gpu),
            "there": _fits(config, capacity.cpus, capacity.gpus),
        },
        estimate=estimated(
            sum(known) if whole else None,
            rates,
            "at most, since stages may stop early; without evaluation and the workers' start"
            if whole
            else "no rate is known of some stage: give --images-per-second, or train an epoch of each and ask again",
        ),
    )


def _stage(
    config: TrainConfig, stage: StageName, table: TrainingTable, run: Store, rates: Rates
) -> tuple[str, float | None]:
    """How far a stage is, and the seconds that its epochs can still take; None where no rate is known."""
    place = below(run, stage)
    record, checkpoints = read_record(place, STAGE), Checkpoints(place)
    check_unchanged(record, deciding_settings(config, stage, table.facts.fingerprint), config.run, stage)
    if "result" in record:
        return "trained before", 0.0
    most, done = getattr(config, stage).epochs, max(checkpoints.epochs(), default=0)
    said = f"goes on after epoch {done} of at most {most}" if done else f"begins, at most {most} epochs"
    rate = rates.images_per_second
    if rate is None:
        history: list[dict[str, Any]] = checkpoints.read_history()
        rate = history[-1].get("images_per_second") if history else None
    images = 2 * config.pairs.train if stage in OF_PAIRS else table.facts.counts.get("train", 0)
    return said, (most - done) * images / rate if rate else None


def _fits(config: TrainConfig, cpus: int, gpus: int) -> bool:
    """Whether the cluster has now what the workers reserve; one that scales by itself may get it."""
    compute = config.compute
    return compute.workers * compute.threads <= cpus and (not compute.gpu or compute.workers <= gpus)
