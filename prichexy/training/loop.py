"""Training, from a table to a registered model: the driver's part.

It checks all that can be wrong before a worker starts, opens the MLflow runs, and has Ray Train's workers train one
stage after the other (`worker.py`, `epochs.py`). The workers average their gradients (DDP), so two workers learn what
one would from the joined batch, but for batch norm: each normalizes by its own part of a batch, unless
`compute.sync_batchnorm` is set, which torch has for GPUs only.

Killed at any moment, in a worker or here, the same command goes on from the last checkpoint.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prichexy.cluster import Capacity, connected
from prichexy.cohort.table import TrainingTable, open_table
from prichexy.config import TrainConfig
from prichexy.errors import PrichexyError, UsageError
from prichexy.lake.storage import Store
from prichexy.obfuscation import save
from prichexy.registry import Registry, RunLog, open_run, run_tags, stage_version
from prichexy.training.checkpoints import Checkpoints, below
from prichexy.training.follow import Follower
from prichexy.training.multi_scale_stage import check_classifier, judging_classifiers
from prichexy.training.records import (
    RUN,
    STAGE,
    check_unchanged,
    deciding_settings,
    logged_settings,
    read_record,
    write_record,
)
from prichexy.training.stages import (
    GENERATOR_STAGES,
    KEPT,
    StageName,
    initial_classifier,
    initial_generator,
    initial_verifier,
    obfuscation_of,
    split_pairs,
    stages_of,
)
from prichexy.training.worker import StageWork, fit

log = logging.getLogger("prichexy.training")


@dataclass(frozen=True)
class TrainedSummary:
    """What a command trained.

    Attributes:
        run: its place.
        stages: of each stage ``epochs``, ``best_epoch`` (of the lowest watched loss; the last one where the settings
            keep that), that epoch's metrics, and those of held-out patients.
        model: the registered generator, ``models:/NAME/VERSION``, or None.
        mlflow_run: id of the pipeline's MLflow run.
        seconds: of this command.
    """

    run: str
    stages: dict[str, dict[str, float]]
    model: str | None
    mlflow_run: str
    seconds: float = field(compare=False)


def train(config: TrainConfig) -> TrainedSummary:
    """Train the stages that the configuration names, and register the generator.

    Raises:
        UsageError: table, pairs, weights or settings can't be used; no worker was started.
        PrichexyError: a loss became NaN or infinite, or workers were lost too often.
        StorageFault: the store failed; the same command goes on.
    """
    began = time.monotonic()
    table = open_table(config.table, config.storage, config.cache)
    check(config, table)
    # Workers of a local Ray run in folders of their own: local places go to them as absolute paths.
    run = Store(below(Store(config.storage_path, config.storage), config.run).place, config.storage)
    config = _absolute(config, table)
    stages, records = stages_of(config), {}
    check_classifier_trained(config, stages, run)
    for stage in stages:
        records[stage] = read_record(below(run, stage), STAGE)
        check_unchanged(records[stage], deciding_settings(config, stage, table.facts.fingerprint), config.run, stage)
    run.check_writable()
    with connected(config.ray) as capacity:
        check_capacity(config, capacity)
        registry, pipeline = _open_pipeline(config, table, run)
        try:
            results: dict[str, dict[str, float]] = {
                stage: _train_stage(stage, records[stage], config, table, run, registry, pipeline) for stage in stages
            }
            model = _register(config, stages[-1], table, run, registry, pipeline) if publishes(stages) else None
        except BaseException:
            with suppress(PrichexyError):  # the failure itself is what the user must read
                pipeline.finish(failed=True)
            raise
    pipeline.finish()
    return TrainedSummary(run.uri, results, model, pipeline.id, round(time.monotonic() - began, 2))


def check(config: TrainConfig, table: TrainingTable) -> None:
    """Refuse what training could not work with, before a worker starts.

    Raises:
        UsageError: one sentence on what does not fit.
    """
    stages, workers = stages_of(config), config.compute.workers
    with_pairs = bool({"verifier", "adversarial", "multi_scale"} & set(stages))
    table.check(workers, pairs=with_pairs)
    if publishes(stages):
        obfuscation = obfuscation_of(config, table.facts.size)
        if config.generator.weights is not None:
            initial_generator(config, obfuscation)
    if with_pairs:
        for split in ("train", "validation"):
            pairs = len(split_pairs(config, table.split(split), split))
            if pairs < workers:
                raise UsageError(f"the {split} split gives {pairs} pairs for {workers} workers: use fewer workers")
    starts: dict[str, Callable[[TrainConfig], object]] = {
        "verifier": initial_verifier,
        "classifier": initial_classifier,
    }
    for name, start in starts.items():
        if getattr(config, name).weights is not None and {name, "adversarial", "multi_scale"} & set(stages):
            start(config)
    if "multi_scale" in stages:
        check_classifier(config.multi_scale)
        judging_classifiers(config.multi_scale)


def check_classifier_trained(config: TrainConfig, stages: tuple[StageName, ...], run: Store) -> None:
    """Refuse to fit multi-scale-field by a classifier that has learned nothing.

    Raises:
        UsageError: neither this run nor a file has one.
    """
    if "multi_scale" not in stages or "classifier" in stages or config.classifier.weights is not None:
        return
    if Checkpoints(below(run, "classifier")).read_lowest("classifier", "classifier") is None:
        raise UsageError(
            "multi-scale-field needs a trained classifier: train stage classifier or all in this run, or give "
            "classifier.weights"
        )


def publishes(stages: tuple[StageName, ...]) -> bool:
    """Whether the last of a run's stages is one that a generator comes out of."""
    return stages[-1] in GENERATOR_STAGES


def _absolute(config: TrainConfig, table: TrainingTable) -> TrainConfig:
    changes: dict[str, Any] = {"table": table.store.place}
    if config.cache is not None:
        changes["cache"] = config.cache.absolute()
    for name in ("classifier", "verifier", "generator"):
        settings = getattr(config, name)
        if settings.weights is not None:
            changes[name] = settings.model_copy(update={"weights": settings.weights.absolute()})
    check_weights = config.multi_scale.check_weights
    files: dict[str, Any] = {"judge_weights": tuple(file.absolute() for file in config.multi_scale.judge_weights)}
    if check_weights is not None:
        files["check_weights"] = check_weights.absolute()
    changes["multi_scale"] = config.multi_scale.model_copy(update=files)
    lists = {
        name: str(Path(value).absolute())
        for name, value in config.pairs.model_dump().items()
        if name.endswith("_list") and value is not None and "://" not in value
    }
    return config.model_copy(update={**changes, "pairs": config.pairs.model_copy(update=lists)})


def check_capacity(config: TrainConfig, capacity: Capacity) -> None:
    """Refuse what a local Ray does not have: it would wait forever, where a cluster may grow.

    Raises:
        UsageError: more cores or GPUs are asked for than this machine has.
    """
    if config.ray.address or os.environ.get("RAY_ADDRESS"):
        return
    compute = config.compute
    if compute.workers * compute.threads > capacity.cpus:
        raise UsageError(
            f"compute.workers x compute.threads is {compute.workers * compute.threads}, but this machine gives Ray "
            f"{capacity.cpus} cores: lower them, or name a cluster in ray.address"
        )
    if compute.gpu and capacity.gpus < compute.workers:
        raise UsageError(f"compute.gpu asks for {compute.workers} GPUs, but this machine has {capacity.gpus}")


def _train_stage(
    stage: StageName,
    record: dict[str, Any],
    config: TrainConfig,
    table: TrainingTable,
    run: Store,
    registry: Registry,
    pipeline: RunLog,
) -> dict[str, float]:
    """Train one stage to its end, from where its checkpoints and its MLflow run stand; its result."""
    if "result" in record:
        log.info("%s: trained before", stage)
        return dict(record["result"])
    place = below(run, stage)
    checkpoints = Checkpoints(place)
    settings = deciding_settings(config, stage, table.facts.fingerprint)
    logged = open_run(
        registry,
        stage,
        record.get("mlflow"),
        logged_settings(settings),
        run_tags(table.facts.fingerprint),
        parent=pipeline,
    )
    write_record(place, STAGE, {"settings": settings, "mlflow": logged.id})
    at = checkpoints.epochs()
    log.info("%s: %s", stage, f"goes on after epoch {at[0]}" if at else "begins")
    follower = Follower(stage, checkpoints, logged, getattr(config, stage).epochs)
    try:
        with follower:
            fit(StageWork(stage, config, run))
        last = follower.catch_up()
        tested = {f"test/{name}": value for name, value in checkpoints.read_test().items()}
        logged.log_result(tested, last)
    except BaseException:
        with suppress(PrichexyError):  # the failure itself is what the user must read
            follower.catch_up()
            logged.finish(failed=True)
        raise
    logged.finish()
    history, watched = checkpoints.read_history(), f"validation/{KEPT[stage][-1]}"
    best = history[-1] if _takes_last(config, stage) else min(history, key=lambda metrics: metrics[watched])
    result = {**_shown(best, len(history)), **tested}
    write_record(place, STAGE, {"settings": settings, "mlflow": logged.id, "result": result})
    return result


def _takes_last(config: TrainConfig, stage: StageName) -> bool:
    """Whether a stage's result is that of its last epoch, not that of the lowest watched loss."""
    return stage == "multi_scale" and config.multi_scale.keep == "latest"


def _shown(best: dict[str, float], epochs: int) -> dict[str, float]:
    shown = {name: value for name, value in best.items() if name.startswith(("train/", "validation/"))}
    return {"epochs": epochs, "best_epoch": best["epoch"], **shown}


def _open_pipeline(config: TrainConfig, table: TrainingTable, run: Store) -> tuple[Registry, RunLog]:
    registry, record = Registry(config.tracking_uri), read_record(run, RUN)
    facts = {"table.size": table.facts.size, "table.rows": table.facts.rows, "seed": config.seed}
    counts = {f"table.{split}": count for split, count in table.facts.counts.items()}
    pipeline = open_run(
        registry, config.run, record.get("mlflow"), {**facts, **counts}, run_tags(table.facts.fingerprint)
    )
    write_record(run, RUN, {**record, "mlflow": pipeline.id})
    return registry, pipeline


def _register(
    config: TrainConfig, stage: StageName, table: TrainingTable, run: Store, registry: Registry, pipeline: RunLog
) -> str | None:
    """Register the generator that the settings choose, and stage it; once, however often it is asked for."""
    if config.register_as is None:
        return None
    checkpoints, keep = Checkpoints(below(run, stage)), getattr(config, stage).keep
    if keep == "latest":
        latest = checkpoints.latest()
        weights = latest[1]["training"]["networks"]["generator"] if latest else None
    else:
        weights = checkpoints.read_lowest(keep, "generator")
    if weights is None:
        raise PrichexyError("the trained generator is missing from the run's place: train under another run name")
    with tempfile.TemporaryDirectory(prefix="prichexy-model-") as folder:
        save(Path(folder), obfuscation_of(config, table.facts.size), weights)
        made = registry.register(Path(folder), config.register_as, f"training run {config.run}", pipeline.id)
    stage_version(registry, made)
    return f"models:/{made.name}/{made.version}"
