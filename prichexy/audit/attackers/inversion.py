"""The attacker who holds the model: undoes what it did, then compares.

A model that says itself how its results are computed back (`Undoable`) needs the keys for it. The attacker has none,
so he guesses. What he could do with the custodian's keys is told beside it and decides nothing: it says how much hangs
on the keys. The rest of this file is about the other models, those with a field but without keys.

A published image is y(q) = x(q + d(q)), with a displacement d that the generator predicts from the original x. The
attacker looks for an x that, deformed by *its own* predicted displacement, gives y. With d known, undoing it is
sampling y at q + e(q), where e is the displacement back: e(q) = -d(q + e(q)), found by fixed-point iteration, which
converges wherever d does not fold. Since d depends on the x that is looked for, the estimate starts from y and is
corrected by what is missing: x <- x + undo(y - deform(x)). The correction also brings back some of the sharpness that
interpolation has taken.

Shape suffixes: N image, 1 the grey channel, 2 the axes (x, y), H height, W width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from prichexy.audit.attackers.correlation import Correlation
from prichexy.audit.attackers.draws import own_keys
from prichexy.audit.attackers.embedding import once_each
from prichexy.audit.attackers.protocol import Comparer, Scores
from prichexy.audit.attackers.verifier import VerifierComparer
from prichexy.audit.evidence import Evidence, Images, Seeds, Split
from prichexy.audit.statistics import auc
from prichexy.cohort.pairs import Pairs
from prichexy.errors import UsageError
from prichexy.networks.deformation import grid_at, identity_grid, warp
from prichexy.obfuscation.flow_field import FlowField
from prichexy.obfuscation.protocol import Undoable

ITERATIONS = 5
BACK_ITERATIONS = 20
ASTRAY = 2.0
"""Pixels; more than what a field of the paper's mu carries over the border, where the nearest pixel is a good guess."""

MEASURED_IMAGES = 64

GUESSES = 4
"""Keys that an attacker without the right one tries; their mean is steadier than one, and more take long."""

MEAN_IMAGES = 512
"""Training images that are undone for their mean, evenly spaced over the split."""

_BATCH = 16

Displacement = Callable[[Tensor], Tensor]
"""Normalised displacement (N, 2, h, w) that is predicted from images (N, 1, H, W) in [0, 1]."""


def way_back(displacement_N2HW: Tensor, iterations: int = BACK_ITERATIONS) -> tuple[Tensor, Tensor]:
    """Sampling grid that undoes a displacement d, and where there is one.

    Its displacement is e(q) = -d(q + e(q)). Where d folds or leaves the image, as the reference operator's does in the
    outer ring, no pixel of the published image shows q.

    Args:
        displacement_N2HW: d, in normalised coordinates, shape (N, 2, H, W).
        iterations: of the fixed point; the error shrinks by d's steepest slope each time.

    Returns:
        Grid within the image, shape (N, H, W, 2), and 1 where it leads back to within `ASTRAY` pixels of where it
        started, else 0, shape (N, 1, H, W).
    """
    height, width = displacement_N2HW.shape[-2:]
    there_N2HW = -displacement_N2HW
    for _ in range(iterations):
        there_N2HW = -_at(displacement_N2HW, grid_at(there_N2HW, height, width))
    grid_NHW2 = grid_at(there_N2HW, height, width).clamp(-1, 1)
    start_1HW2 = identity_grid(height, width, device=grid_NHW2.device)
    astray_NHW2 = grid_NHW2 + _at(displacement_N2HW, grid_NHW2).permute(0, 2, 3, 1) - start_1HW2
    found_NHW = astray_NHW2.abs().amax(dim=-1) < ASTRAY * 2 / max(height, width)
    return grid_NHW2, found_NHW[:, None].to(grid_NHW2.dtype)


def _at(field_N2HW: Tensor, grid_NHW2: Tensor) -> Tensor:
    """A field sampled at a grid, (N, 2, H', W')."""
    return F.grid_sample(field_N2HW, grid_NHW2, mode="bilinear", padding_mode="border", align_corners=True)


@torch.no_grad()
def inverted(published_N1HW: Tensor, predict: Displacement, iterations: int = ITERATIONS) -> Tensor:
    """Estimate of the originals whose deformation was published; what can't be recovered stays as published.

    Args:
        published_N1HW: values in [0, 1].
        predict: the generator's displacement.
        iterations: corrections of the estimate.

    Returns:
        Values in [0, 1], same shape.
    """
    height, width = published_N1HW.shape[-2:]
    estimate_N1HW = published_N1HW
    for number in range(iterations + 1):
        grid_NHW2 = grid_at(predict(estimate_N1HW), height, width)
        identity_1HW2 = identity_grid(height, width, device=grid_NHW2.device)
        back_NHW2, found_N1HW = way_back((grid_NHW2 - identity_1HW2).permute(0, 3, 1, 2).contiguous())
        if number == 0:
            moved_N1HW = warp(published_N1HW, back_NHW2) - published_N1HW
        else:
            moved_N1HW = warp(published_N1HW - warp(estimate_N1HW, grid_NHW2), back_NHW2)
        estimate_N1HW = (estimate_N1HW + found_N1HW * moved_N1HW).clamp(0, 1)
    return estimate_N1HW


def psnr_db(images_NHW: Images, originals_NHW: Images) -> float:
    """Mean peak signal-to-noise ratio in decibels, peak 255; an error below one level in one pixel counts as that."""
    error_NHW = images_NHW.astype(np.float64) - originals_NHW.astype(np.float64)
    square_N = np.maximum(np.square(error_NHW).mean(axis=(1, 2)), 1 / error_NHW[0].size)
    return float(np.mean(10 * np.log10(255**2 / square_N)))


Undo = Callable[[Images], Images]


@dataclass(frozen=True, eq=False)
class InvertingComparer:
    """A `Comparer` that inverts the published images before another comparer sees them.

    Attributes:
        inversions: each from published images to recovered ones, uint8, same shape; the score is the mean over them.
        inner: compares recovered images with originals.
        details: ``inversion_psnr_db`` of recovered images to originals, ``published_psnr_db`` of published ones; of a
            keyed model also ``with_key_psnr_db`` and ``with_key_auc``, where the custodian's keys are known.
    """

    inversions: Sequence[Undo]
    inner: Comparer
    details: Mapping[str, float]

    def pair_scores(self, first_PHW: Images, second_PHW: Images) -> Scores:
        """The inner comparer's scores, (P,)."""
        first_UHW, first_P = once_each(first_PHW)
        scores = [self.inner.pair_scores(invert(first_UHW)[first_P], second_PHW) for invert in self.inversions]
        return np.asarray(np.mean(scores, axis=0))

    def similarity(self, queries_QHW: Images, gallery_GHW: Images) -> Scores:
        """The inner comparer's similarity, (Q, G)."""
        scores = [self.inner.similarity(invert(queries_QHW), gallery_GHW) for invert in self.inversions]
        return np.asarray(np.mean(scores, axis=0))


@dataclass(frozen=True)
class Inversion:
    """Undoes what the model did, by fixed-point iteration or as the model says, then compares what is recovered.

    The comparison is the verifier's that the generator was trained against (it knows originals, which recovered images
    are nearly), or correlation at 16 px less the mean where there is none; of a keyed model the better of both.

    Attributes:
        iterations: corrections of the estimate, of a flow field.
        guesses: keys that are tried, of a keyed model.
    """

    iterations: int = ITERATIONS
    guesses: int = GUESSES
    name = "inversion"
    description = "Holds the anonymizer itself, computes back from published images, and compares what it recovers."
    seeded = False

    def applies(self, evidence: Evidence) -> bool:
        """Whether there is something to undo: DP-Pix, Privacy-Net and the identity have no way back."""
        return isinstance(evidence.obfuscator, FlowField | Undoable)

    def fit(self, evidence: Evidence, seed: int, training_pairs: int | None = None) -> InvertingComparer:
        """A comparer that holds the evidence's obfuscator; its PSNR is measured on some test images.

        Raises:
            UsageError: the obfuscator is not given, or can't be undone.
        """
        model = evidence.obfuscator
        if isinstance(model, Undoable):
            return self._guessing(evidence, model, seed)
        if not isinstance(model, FlowField):
            raise UsageError("inversion needs a model whose result can be undone (such as flow-field): leave it out")
        field_undone = [partial(_field_undone, model, self.iterations)]
        # Recovered images are nearly originals, so both sides have the originals' mean.
        originals_NHW, verifier = evidence.train.originals_NHW, evidence.verifier
        inner = _correlation(originals_NHW, originals_NHW) if verifier is None else VerifierComparer(verifier)
        return InvertingComparer(field_undone, inner, _quality(field_undone, evidence))

    def _guessing(self, evidence: Evidence, model: Undoable, seed: int) -> InvertingComparer:
        """Keys are guessed, each for all images; what the right ones would give is in the details."""
        guessed = [partial(_undone_by_one, model, key) for key in own_keys(seed, 0, self.guesses).tolist()]
        inner = _better_inner(evidence, lambda split, rows: guessed[0](split.anonymized_NHW[rows]))
        return InvertingComparer(guessed, inner, _quality(guessed, evidence) | _with_keys(evidence, model))


def _correlation(recovered_NHW: Images, originals_NHW: Images) -> Comparer:
    """Correlates recovered images with originals; those given are of training patients, for both sides' means."""
    pairs = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_))
    nobody_N = np.full(len(originals_NHW), "", dtype=np.str_)
    return Correlation(16, less_mean=True).on(Split(originals_NHW, recovered_NHW, nobody_N, pairs))


def _better_inner(evidence: Evidence, recovered: Callable[[Split, NDArray[np.int64]], Images]) -> Comparer:
    """Verifier or correlation, whichever does better on validation pairs: recovered images may be far from originals.

    Args:
        evidence: what the attacker has.
        recovered: from rows of a split.
    """
    train, held_out = evidence.train, evidence.validation
    seen = _spaced(len(train), MEAN_IMAGES)
    correlation = _correlation(recovered(train, seen), train.originals_NHW[seen])
    if evidence.verifier is None or not 0 < held_out.pairs.same.sum() < len(held_out.pairs):
        return correlation
    first_PHW = recovered(held_out, np.arange(len(held_out)))[held_out.pairs.first]
    both = (VerifierComparer(evidence.verifier), correlation)
    return max(both, key=lambda one: auc(one.pair_scores(first_PHW, held_out.second_images), held_out.pairs.same))


def _quality(inversions: Sequence[Undo], evidence: Evidence) -> dict[str, float]:
    """How near some published test images are to their originals, and how near recovered ones."""
    rows = _spaced(len(evidence.test), MEASURED_IMAGES)
    published_NHW, originals_NHW = evidence.test.anonymized_NHW[rows], evidence.test.originals_NHW[rows]
    return {
        "inversion_psnr_db": float(np.mean([psnr_db(undo(published_NHW), originals_NHW) for undo in inversions])),
        "published_psnr_db": psnr_db(published_NHW, originals_NHW),
    }


def _with_keys(evidence: Evidence, model: Undoable) -> dict[str, float]:
    """What the holder of the custodian's keys recovers of the test images, and whom he recognizes by it."""
    test = evidence.test
    if any(split.seeds_N is None for split in (evidence.train, evidence.validation, test)):
        return {}

    def undone(split: Split, at: NDArray[np.int64]) -> Images:
        assert split.seeds_N is not None
        return _undone(model, split.anonymized_NHW[at], split.seeds_N[at])

    rows, recovered_NHW = _spaced(len(test), MEASURED_IMAGES), undone(test, np.arange(len(test)))
    inner = _better_inner(evidence, undone)
    scores_P = inner.pair_scores(recovered_NHW[test.pairs.first], test.second_images)
    return {
        "with_key_psnr_db": psnr_db(recovered_NHW[rows], test.originals_NHW[rows]),
        "with_key_auc": auc(scores_P, test.pairs.same),
    }


def _spaced(count: int, most: int) -> NDArray[np.int64]:
    """At most so many of the rows, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, most).astype(np.int64))


def _undone(model: Undoable, images_NHW: Images, keys_N: Seeds) -> Images:
    """What a keyed model computes back with some keys."""
    recovered = []
    for start in range(0, len(images_NHW), _BATCH):
        here = slice(start, start + _BATCH)
        recovered.append(model.undone(_grey(images_NHW[here]), torch.from_numpy(np.array(keys_N[here]))))
    return _eight_bits(recovered)


def _undone_by_one(model: Undoable, key: int, images_NHW: Images) -> Images:
    return _undone(model, images_NHW, np.full(len(images_NHW), key, dtype=np.int64))


def _field_undone(model: FlowField, iterations: int, images_NHW: Images) -> Images:
    blocks = (images_NHW[start : start + _BATCH] for start in range(0, len(images_NHW), _BATCH))
    return _eight_bits([inverted(_grey(block), _predicting(model), iterations) for block in blocks])


def _eight_bits(blocks: Sequence[Tensor]) -> Images:
    return np.asarray((torch.cat(list(blocks))[:, 0].cpu() * 255).round().to(torch.uint8).numpy())


def _grey(images_NHW: Images) -> Tensor:
    """float32 in [0, 1], (N, 1, H, W)."""
    return torch.from_numpy(np.array(images_NHW)).unsqueeze(1).float().div_(255)


def _predicting(obfuscator: FlowField) -> Displacement:
    """Its displacement for images of any size: the generator sees them at its own."""
    side = obfuscator.settings.image_size

    def predict(images_N1HW: Tensor) -> Tensor:
        if images_N1HW.shape[-2:] != (side, side):
            images_N1HW = F.interpolate(images_N1HW, size=(side, side), mode="bilinear", antialias=True)
        return obfuscator.displacement(images_N1HW).to(images_N1HW.device)

    return predict
