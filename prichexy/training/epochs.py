"""The epochs of one stage in one worker: train, validate, keep, go on; torch only, Ray starts it.

All that decides the next step (networks, optimisers, schedules, random numbers, position) is in the checkpoint that
ends an epoch, so a run that was stopped anywhere goes on as if it had not been: to the same weights on CPUs, to
rounding on GPUs, whose kernels may sum in another order.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

from torch import nn
from torch.optim import Optimizer

from prichexy.networks.checkpoints import load_into
from prichexy.training.batches import Batch, Batches
from prichexy.training.checkpoints import Checkpoints
from prichexy.training.compute import bare
from prichexy.training.evaluation import Gather
from prichexy.training.samples import Reader, Samples, epoch_order, training_shares, validation_shares
from prichexy.training.schedule import EarlyStopping, LowestLosses, learning_rate_decay
from prichexy.training.state import Stateful, restore_training, training_state
from prichexy.training.world import World

Losses = dict[str, float]


@dataclass(frozen=True)
class Course:
    """How long a stage is trained; fields as in `prichexy.config.StageConfig`."""

    epochs: int
    batch: int
    patience: int | None = None
    decay_patience: int | None = None
    figure_every: int = 5
    cosine_decay: bool = False


@dataclass(frozen=True)
class Stage(Generic[Batch]):
    """One thing that is trained, ready in a worker.

    Attributes:
        name: ``classifier``, ``verifier``, ``pretraining``, ``adversarial`` or ``multi_scale``.
        networks: by name, wrapped for DDP where there are several workers.
        optimisers: by the same names.
        training: samples to learn from.
        validation: samples to choose by.
        test: held-out samples, or None.
        step: losses of one update with a batch; its second argument is the step's number.
        evaluate: metrics of batches, which the workers share.
        watched: the validation loss by which the learning rate falls and training stops.
        kept: validation losses at whose lowest values the networks are kept; those of the last one are tested.
        course: how long it is trained.
        figure: PNG of some validation images, or None.
        begin: what comes before an epoch, from its number, the first being 0.
        tests_last: held-out samples are for the last networks, not for those of the lowest loss.
    """

    name: str
    networks: Mapping[str, nn.Module]
    optimisers: Mapping[str, Optimizer]
    training: Samples[Batch]
    validation: Samples[Batch]
    test: Samples[Batch] | None
    step: Callable[[Batch, int], Losses]
    evaluate: Callable[[Batches[Batch], Gather], Losses]
    watched: str
    kept: tuple[str, ...]
    course: Course
    figure: Callable[[], bytes] | None = None
    begin: Callable[[int], None] | None = None
    tests_last: bool = False


def train_stage(stage: Stage[Batch], world: World, checkpoints: Checkpoints, seed: int) -> None:
    """Train a stage to its end, from its latest checkpoint if it has one, and test it.

    Args:
        stage: made anew from the run's settings.
        world: this worker among the others.
        checkpoints: of this stage; the first worker writes them.
        seed: of the order of samples.

    Raises:
        NonFiniteLossError: a loss became NaN or infinite.
        StorageFault: the store failed.
    """
    lowest, schedules = _schedules(stage)
    history, epoch = _restore(stage, schedules, world, checkpoints)
    stopping = schedules.get("stopping")
    while epoch < stage.course.epochs and not (isinstance(stopping, EarlyStopping) and stopping.stop):
        if stage.begin is not None:
            stage.begin(epoch)
        metrics = _train_epoch(stage, world, seed, epoch)
        epoch += 1
        world.align(stage.networks.values())
        validation = _evaluate(stage, stage.validation, world)
        improved = lowest.update(validation)
        metrics |= {f"validation/{name}": value for name, value in validation.items()}
        metrics |= {f"learning_rate/{name}": _rate(optimiser) for name, optimiser in stage.optimisers.items()}
        for name, schedule in schedules.items():
            if name.startswith("decay/"):
                schedule.step(validation[stage.watched])  # type: ignore[attr-defined]
        if isinstance(stopping, EarlyStopping):
            stopping.update(validation[stage.watched])
        history.append({"epoch": epoch, **{name: value for name, value in metrics.items() if math.isfinite(value)}})
        if world.rank == 0:
            _keep(stage, schedules, checkpoints, epoch, history, improved)
    if stage.test is not None:
        _test(stage, world, checkpoints)


def _schedules(stage: Stage[Batch]) -> tuple[LowestLosses, dict[str, Stateful]]:
    lowest = LowestLosses(*stage.kept)
    schedules: dict[str, Stateful] = {"lowest": lowest}
    if stage.course.patience is not None:
        schedules["stopping"] = EarlyStopping(stage.course.patience)
    course = stage.course
    for name, optimiser in stage.optimisers.items():
        decay = learning_rate_decay(optimiser, course.epochs, course.cosine_decay, course.decay_patience)
        if decay is not None:
            schedules[f"decay/{name}"] = decay
    return lowest, schedules


def _restore(
    stage: Stage[Batch], schedules: Mapping[str, Stateful], world: World, checkpoints: Checkpoints
) -> tuple[list[dict[str, float]], int]:
    """History and epochs done, after everything stands as the latest checkpoint says."""
    found = checkpoints.latest() if world.rank == 0 else None
    # All workers must go on from one epoch, whatever each would find.
    state: dict[str, Any] | None = world.agreed(found[1] if found else None)
    if state is None:
        return [], 0
    position = restore_training(state["training"], stage.networks, stage.optimisers, schedules)
    history: list[dict[str, float]] = state["history"]
    if world.rank == 0:
        checkpoints.write_history(history)  # perhaps the kill came between the checkpoint and its history
    return history, int(position["epoch"] or 0)


def _train_epoch(stage: Stage[Batch], world: World, seed: int, epoch: int) -> Losses:
    """Means of the epoch's losses, and how fast it went."""
    began = time.perf_counter()
    samples = stage.training.in_epoch(epoch)
    order = epoch_order(samples.count, seed, epoch)
    shares = training_shares(order, stage.course.batch, world.rank, world.size)
    reader = Reader(samples, shares)
    sums: Losses = {}
    for number, batch in enumerate(reader):
        for name, value in stage.step(batch, epoch * len(shares) + number).items():
            sums[name] = sums.get(name, 0.0) + value
    seconds = time.perf_counter() - began
    images = sum(map(len, shares)) * world.size * samples.images
    own = {f"train/{name}": value / len(shares) for name, value in sums.items()}
    means = world.mean({**own, "data_wait_share": reader.waited / seconds})
    return {**means, "images_per_second": images / seconds, "train_seconds": seconds}


def _evaluate(stage: Stage[Batch], samples: Samples[Batch], world: World) -> Losses:
    shares = validation_shares(samples.count, stage.course.batch, world.rank, world.size)
    return stage.evaluate(Reader(samples, shares), world.gather)


def _keep(
    stage: Stage[Batch],
    schedules: Mapping[str, Stateful],
    checkpoints: Checkpoints,
    epoch: int,
    history: list[dict[str, float]],
    improved: list[str],
) -> None:
    """The lowest first, the checkpoint last: what it says is kept is kept."""
    for kind in improved:
        checkpoints.write_lowest(kind, stage.networks)
    if stage.figure is not None and (epoch == 1 or epoch % stage.course.figure_every == 0):
        checkpoints.write_figure(epoch, stage.figure())
    training = training_state(stage.networks, stage.optimisers, schedules, {"epoch": epoch})
    checkpoints.write(epoch, {"training": training, "history": history})
    checkpoints.write_history(history)


def _test(stage: Stage[Batch], world: World, checkpoints: Checkpoints) -> None:
    """Metrics of held-out patients, with the networks of the lowest loss, or the last ones."""
    assert stage.test is not None
    for name, network in stage.networks.items():
        weights = None if stage.tests_last else checkpoints.read_lowest(stage.kept[-1], name)
        if weights is not None:
            load_into(bare(network), weights)
    metrics = _evaluate(stage, stage.test, world)
    if world.rank == 0:
        checkpoints.write_test({name: value for name, value in metrics.items() if math.isfinite(value)})


def _rate(optimiser: Optimizer) -> float:
    return float(optimiser.param_groups[0]["lr"])
