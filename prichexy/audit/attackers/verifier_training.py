"""Training of an attacker's verifier in one process, from seed to weights; nothing is written.

Shape suffixes: N image, 1 the grey channel, H height, W width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from prichexy.audit.evidence import Images, Split
from prichexy.cohort.pairs import DEFAULT_PER_PATIENT, Pairs, draw_pairs
from prichexy.config import VerifierConfig
from prichexy.errors import UsageError
from prichexy.networks.initial_weights import start_from
from prichexy.networks.verifier import Verifier
from prichexy.training.augmentation import Augmentation
from prichexy.training.batches import ImagePairs, PatientPairs
from prichexy.training.compute import OPTIMISERS, Compute
from prichexy.training.cosine_decay import CosineDecay
from prichexy.training.samples import Reader, Rows, Samples, epoch_order, training_shares, validation_shares
from prichexy.training.schedule import EarlyStopping, decay_on_plateau
from prichexy.training.verifier_step import evaluate_verifier, patients_step, verifier_step
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
    train: Split, validation: Split, real_second: bool, recipe: VerifierRecipe, seed: int, pairs: int | None = None
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

    training = _training(train, real_second, drawn, pairs_of, settings, seed)
    held_out = Samples(len(validation.pairs), _pairs(validation, validation.pairs, real_second))
    with _threads(recipe.threads), _seeded(seed):
        verifier = Verifier(settings.backbone)
        if settings.weights is not None:
            start_from(verifier, settings.weights)
        compute.prepare(verifier, recipe.device)
        optimiser = OPTIMISERS[settings.optimiser](verifier, settings.learning_rate)
        decay = _decay(optimiser, settings)
        stopping = EarlyStopping(settings.patience or settings.epochs)
        step = _step(verifier, optimiser, compute, settings)
        best: dict[str, Tensor] = {}
        epoch = 0
        while epoch < settings.epochs and not stopping.stop:
            samples = training.in_epoch(epoch)
            shares = training_shares(epoch_order(samples.count, seed, epoch), settings.batch, rank=0, workers=1)
            for number, batch in enumerate(Reader(samples, shares)):
                step(batch, epoch * len(shares) + number)
            epoch += 1
            held_shares = validation_shares(held_out.count, settings.batch, rank=0, workers=1)
            loss = evaluate_verifier(verifier, Reader(held_out, held_shares), compute)["verifier"]
            if loss < stopping.lowest:
                best = {name: value.detach().clone() for name, value in verifier.state_dict().items()}
            stopping.update(loss)
            decay(loss)
        verifier.load_state_dict(best)
    return TrainedWeights(verifier.eval(), len(drawn), epoch, stopping.lowest)


def _training(
    split: Split,
    real_second: bool,
    drawn: Pairs,
    pairs_of: Callable[[int], Pairs],
    settings: VerifierConfig,
    seed: int,
) -> Samples[Any]:
    """What is learnt from, in each epoch: pairs, or two images of each of many patients."""
    if settings.compare == "pairs" and not settings.augmentation:
        return Samples(len(drawn), _pairs(split, drawn, real_second))
    augmentation = Augmentation(settings.augmentation, seed)
    owners_N = np.unique(split.patients_N, return_inverse=True)[1].astype(np.int64)

    def in_epoch(epoch: int) -> Samples[Any]:
        pairs = drawn if settings.compare == "pairs" else _same_only(pairs_of(epoch))
        load = _pairs(split, pairs, real_second)

        def changed(at: Rows) -> ImagePairs | PatientPairs:
            before, rows = load(at), (pairs.first[at], pairs.second[at])
            randoms = augmentation.generators(epoch, at)
            mirrored = augmentation.mirrored(epoch, int(owners_N.max()) + 1)
            first = augmentation.apply(before.first, randoms, mirrored[owners_N[rows[0]]])
            second = augmentation.apply(before.second, randoms, mirrored[owners_N[rows[1]]])
            if settings.compare == "pairs":
                return ImagePairs(first, second, before.same)
            return PatientPairs(first, second, torch.from_numpy(owners_N[rows[0]]))

        return Samples(len(pairs), changed)

    return Samples(in_epoch(0).count, in_epoch(0).load, of_epoch=in_epoch)


def _same_only(pairs: Pairs) -> Pairs:
    return Pairs(pairs.first[pairs.same], pairs.second[pairs.same], pairs.same[pairs.same])


def _pairs(split: Split, pairs: Pairs, real_second: bool) -> Callable[[Rows], ImagePairs]:
    """Reads some pairs, the first image published and the second as asked for."""
    seconds_NHW = split.originals_NHW if real_second else split.anonymized_NHW

    def load(at: Rows) -> ImagePairs:
        first, second = _images(split.anonymized_NHW, pairs.first[at]), _images(seconds_NHW, pairs.second[at])
        return ImagePairs(first, second, torch.from_numpy(pairs.same[at]))

    return load


def _images(images_NHW: Images, at: Rows) -> Tensor:
    """uint8, (N, 1, H, W)."""
    return torch.from_numpy(images_NHW[at]).unsqueeze(1)


def _step(
    verifier: Verifier, optimiser: Optimizer, compute: Compute, settings: VerifierConfig
) -> Callable[[Any, int], object]:
    if settings.compare == "batch":
        return lambda batch, number: patients_step(batch, verifier, optimiser, compute, World(), number)
    return lambda batch, number: verifier_step(batch, verifier, optimiser, compute, number)


def _decay(optimiser: Optimizer, settings: VerifierConfig) -> Callable[[float], None]:
    """What is told each epoch's validation loss, and may lower the learning rate."""
    if settings.cosine_decay:
        return CosineDecay(optimiser, settings.epochs).step
    if settings.decay_patience is not None:
        return decay_on_plateau(optimiser, settings.decay_patience).step
    return lambda loss: None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers from a seed; afterwards they go on as if nothing had been."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
