"""Training of an attacker's verifier in one process, from seed to weights; nothing is written.

Shape suffixes: N image, 1 the grey channel, H height, W width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from prichexy.audit.evidence import Images, Patients, Split
from prichexy.cohort.pairs import DEFAULT_PER_PATIENT, Pairs, draw_pairs
from prichexy.config import VerifierConfig
from prichexy.errors import UsageError
from prichexy.networks.initial_weights import start_from
from prichexy.networks.verifier import Verifier
from prichexy.training.augmentation import Augmentation
from prichexy.training.compute import OPTIMISERS, Compute
from prichexy.training.in_process import train_in_process
from prichexy.training.samples import Rows, Samples, image_pairs, verifier_samples
from prichexy.training.seeds import seeded
from prichexy.training.verifier_step import evaluate_verifier, verifier_update
from prichexy.training.world import World

_PAPERS = VerifierConfig()


@dataclass(frozen=True)
class VerifierRecipe:
    """How an attacker's verifier is trained; defaults are the paper's.

    Attributes:
        settings: backbone, start, epochs, batch, optimiser and so on, as in `prichexy train verifier`. At 64 px on
            CPUs: backbone ``tiny``, comparing whole batches of augmented images.
        training_pairs: drawn from the training split, half of them of one patient.
        per_patient: most same-patient pairs of one patient among them.
        threads: CPU threads.
        device: such as ``cpu`` or ``cuda``.
        bf16: convolutions in bfloat16.
    """

    settings: VerifierConfig = _PAPERS
    training_pairs: int = 10_000
    per_patient: int = DEFAULT_PER_PATIENT
    threads: int = 1
    device: str = "cpu"
    bf16: bool = False

    def __post_init__(self) -> None:
        for setting, lowest in {"training_pairs": 4, "per_patient": 1, "threads": 1}.items():
            if getattr(self, setting) < lowest:
                raise UsageError(f"the attacker's {setting} must be at least {lowest}")


PUBLISHED = VerifierRecipe()
"""The paper's, but for its start from ImageNet, which needs a file."""


class TrainedWeights(NamedTuple):
    """What a training has come to.

    Attributes:
        verifier: with the weights of the lowest validation loss, in eval mode.
        pairs: training pairs that there were; a recipe that compares whole batches learns from the same-patient half.
        epochs: trained, the last ones in vain where it stopped early.
        validation_loss: the lowest.
    """

    verifier: Verifier
    pairs: int
    epochs: int
    validation_loss: float


def trained_verifier(
    train: Split,
    validation: Split,
    real_second: bool,
    recipe: VerifierRecipe,
    seed: int,
    pairs: int | None = None,
    published: Callable[[int], Images] | None = None,
) -> TrainedWeights:
    """A verifier trained on published images, with the weights of its lowest validation loss.

    The same seed gives the same weights on CPUs. The process's random numbers stay as they are.

    Args:
        train: its patients' pairs are drawn by the seed.
        validation: its pairs tell when to stop.
        real_second: whether the second image of each pair, in both splits, is the original.
        recipe: how it is trained.
        seed: 0 or more; of pairs, start, order and augmentation.
        pairs: wanted training pairs, the same in every epoch, so that the attacker's strength can be told by their
            number; unless given the recipe's number, which one that compares whole batches draws anew for each epoch.
        published: the training images as an epoch sees them published, (N, H, W); unless given, as they are in
            `train`, in every epoch. Validation images are published once in any case: losses of two epochs could not
            be compared otherwise.

    Raises:
        UsageError: the training patients have no pairs, or the validation split none.
        NonFiniteLossError: the training diverged.
    """
    settings, compute = recipe.settings, Compute(bf16=recipe.bf16)
    wanted = recipe.training_pairs if pairs is None else pairs
    drawn = draw_pairs(train.patients_N, wanted, seed, recipe.per_patient)

    def pairs_of(epoch: int) -> Pairs:
        if pairs is not None or epoch == 0:
            return drawn
        word = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
        return draw_pairs(train.patients_N, wanted, word, recipe.per_patient)

    def learned_from(epoch: int) -> Samples[Any]:
        images_NHW = train.anonymized_NHW if published is None else published(epoch)
        firsts = _Side(images_NHW, train.patients_N)
        seconds = _Side(train.originals_NHW, train.patients_N) if real_second else firsts
        augmentation = Augmentation(settings.augmentation, seed)
        samples: Samples[Any] = verifier_samples(settings.compare, firsts, pairs_of, augmentation, seconds)
        return samples.in_epoch(epoch)

    held_out = image_pairs(
        _Side(validation.anonymized_NHW, validation.patients_N),
        validation.pairs,
        _Side(validation.originals_NHW if real_second else validation.anonymized_NHW, validation.patients_N),
    )
    with _threads(recipe.threads), seeded(seed, recipe.device):
        verifier = Verifier(settings.backbone)
        if settings.weights is not None:
            start_from(verifier, settings.weights)
        compute.prepare(verifier, recipe.device)
        optimiser = OPTIMISERS[settings.optimiser](verifier, settings.learning_rate)
        ended = train_in_process(
            verifier,
            optimiser,
            replace(learned_from(0), of_epoch=learned_from),
            held_out,
            verifier_update(settings.compare, verifier, optimiser, compute, World()),
            lambda batches: evaluate_verifier(verifier, batches, compute)["verifier"],
            settings,
            seed,
        )
    return TrainedWeights(verifier.eval(), len(drawn), ended.epochs, ended.loss)


@dataclass(frozen=True, eq=False)
class _Side:
    """One side of a split as rows to read."""

    images_NHW: Images  # noqa: N815 - arrays carry their shape
    patients: Patients

    def images(self, rows: Rows) -> Images:
        return self.images_NHW[rows]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
