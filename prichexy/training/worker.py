"""One stage on Ray Train's workers: what runs in each, and how the driver starts them, again after a loss."""

import logging
import tempfile
from dataclasses import dataclass
from secrets import token_hex

import torch
from ray.train import RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError, get_context
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from prichexy.cohort.table import open_table
from prichexy.config import TrainConfig
from prichexy.errors import PrichexyError
from prichexy.lake.storage import Store
from prichexy.training.checkpoints import Checkpoints, below
from prichexy.training.compute import NonFiniteLossError
from prichexy.training.epochs import train_stage
from prichexy.training.seeds import seed_everything
from prichexy.training.stages import Inputs, StageName, make_stage
from prichexy.training.world import World

log = logging.getLogger("prichexy.training")

# Mistakes in code, which starting again would only repeat; all else may be a worker that is gone, or what its
# neighbours then meet in torch.distributed.
_MISTAKES = (AssertionError, AttributeError, ImportError, LookupError, NameError, TypeError, ValueError)


@dataclass(frozen=True)
class StageWork:
    """What each worker needs to know.

    Attributes:
        stage: what is trained.
        config: the run's settings, its local places absolute.
        run: the run's place.
    """

    stage: StageName
    config: TrainConfig
    run: Store


def stage_worker(work: dict[str, StageWork]) -> None:
    """Train a stage as one of Ray Train's workers; the process group is there already."""
    task, context = work["task"], get_context()
    config = task.config
    torch.set_num_threads(config.compute.threads)
    world = World(context.get_world_rank(), context.get_world_size(), get_device())
    table = open_table(config.table, config.storage, config.cache)
    seed_everything(config.seed)  # the networks' first weights, the same in every worker
    stage = make_stage(task.stage, Inputs(config, table, task.run, world))
    train_stage(stage, world, Checkpoints(below(task.run, task.stage)), config.seed)


def fit(work: StageWork) -> None:
    """Train a stage to its end on the workers that the configuration asks for.

    Workers that are lost (killed, out of memory, their node gone) are started again and go on from the last
    checkpoint. Ray's own retries would also repeat what repeats itself, such as a loss that became NaN.

    Raises:
        PrichexyError: a loss became NaN or infinite (the sentence names step, learning rate and last checkpoint), the
            store failed, or workers were lost more often than `compute.max_failures`.
    """
    compute = work.config.compute
    for failures in range(compute.max_failures + 1):
        try:
            _fit_once(work)
            return
        except WorkerGroupError as error:
            causes = [_cause(failure) for failure in error.worker_failures.values()]
        except TrainingFailedError as error:
            causes = [error]
        for cause in causes:
            if isinstance(cause, NonFiniteLossError):
                raise PrichexyError(f"{cause}; {_last_checkpoint(work)}") from None
        for cause in causes:
            if isinstance(cause, PrichexyError):
                raise cause from None
        kinds = ", ".join(sorted({type(cause).__name__ for cause in causes}))
        if any(isinstance(cause, _MISTAKES) for cause in causes):
            raise PrichexyError(f"the {work.stage} stage failed with {kinds}; please report it") from None
        log.warning("%s: workers were lost (%s), %d of %d", work.stage, kinds, failures + 1, compute.max_failures + 1)
    raise PrichexyError(
        f"the {work.stage} stage lost its workers {compute.max_failures + 1} times, last by {kinds}; "
        f"{_last_checkpoint(work)}, and the same command goes on from it"
    )


def _fit_once(work: StageWork) -> None:
    compute = work.config.compute
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # failures are told in one sentence, above
    # Ray Train wants a place for checkpoints of its own, of which there are none; ours are the run's.
    with tempfile.TemporaryDirectory(prefix="prichexy-train-") as place:
        TorchTrainer(
            stage_worker,
            train_loop_config={"task": work},
            torch_config=TorchConfig(backend="nccl" if compute.gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=compute.workers,
                use_gpu=compute.gpu,
                resources_per_worker={"CPU": compute.threads, **({"GPU": 1} if compute.gpu else {})},
            ),
            run_config=RunConfig(name=f"{work.stage}-{token_hex(4)}", storage_path=place),
        ).fit()


def _cause(failure: BaseException) -> BaseException:
    """What was raised in a worker, without Ray's wrappings."""
    for name in ("_base_exc", "cause"):
        inner = getattr(failure, name, None)
        if isinstance(inner, BaseException):
            return _cause(inner)
    return failure


def _last_checkpoint(work: StageWork) -> str:
    epochs = Checkpoints(below(work.run, work.stage)).epochs()
    if not epochs:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is that of epoch {epochs[0]} of the {work.stage} stage in {work.run.uri}"
