"""The attacker who holds the generator: undoes its deformation, then compares.

A published image is y(q) = x(q + d(q)), with a displacement d that the generator predicts from the original x. The
attacker looks for an x that, deformed by *its own* predicted displacement, gives y. With d known, undoing it is
sampling y at q + e(q), where e is the displacement back: e(q) = -d(q + e(q)), found by fixed-point iteration, which
converges wherever d does not fold. Since d depends on the x that is looked for, the estimate starts from y and is
corrected by what is missing: x <- x + undo(y - deform(x)). The correction also brings back some of the sharpness that
interpolation has taken.

Shape suffixes: N image, 1 the grey channel, 2 the axes (x, y), H height, W width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from prichexy.audit.attackers.correlation import Correlation
from prichexy.audit.attackers.embedding import once_each
from prichexy.audit.attackers.protocol import Comparer, Scores
from prichexy.audit.attackers.verifier import VerifierComparer
from prichexy.audit.evidence import Evidence, Images, Split
from prichexy.errors import UsageError
from prichexy.networks.deformation import grid_at, identity_grid, warp
from prichexy.obfuscation.flow_field import FlowField

ITERATIONS = 5
BACK_ITERATIONS = 20
ASTRAY = 2.0
"""Pixels; more than what a field of the paper's mu carries over the border, where the nearest pixel is a good guess."""

MEASURED_IMAGES = 64
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


@dataclass(frozen=True, eq=False)
class InvertingComparer:
    """A `Comparer` that inverts the published images before another comparer sees them.

    Attributes:
        invert: published images to recovered ones, uint8, same shape.
        inner: compares recovered images with originals.
        details: ``inversion_psnr_db`` of recovered images to originals, ``published_psnr_db`` of published ones.
    """

    invert: Callable[[Images], Images]
    inner: Comparer
    details: Mapping[str, float]

    def pair_scores(self, first_PHW: Images, second_PHW: Images) -> Scores:
        """The inner comparer's scores, (P,)."""
        first_UHW, first_P = once_each(first_PHW)
        return self.inner.pair_scores(self.invert(first_UHW)[first_P], second_PHW)

    def similarity(self, queries_QHW: Images, gallery_GHW: Images) -> Scores:
        """The inner comparer's similarity, (Q, G)."""
        return self.inner.similarity(self.invert(queries_QHW), gallery_GHW)


@dataclass(frozen=True)
class Inversion:
    """Undoes a flow-field model's deformation by fixed-point iteration, then compares recovered images with originals.

    The comparison is the verifier's that the generator was trained against (it knows originals, which recovered images
    are nearly), or correlation at 16 px less the mean where there is none.

    Attributes:
        iterations: corrections of the estimate.
    """

    iterations: int = ITERATIONS
    name = "inversion"
    description = "Holds the anonymizer itself, computes back from published images, and compares what it recovers."
    seeded = False

    def applies(self, evidence: Evidence) -> bool:
        """Whether there is a field to undo: DP-Pix, Privacy-Net and the identity have none."""
        return isinstance(evidence.obfuscator, FlowField)

    def fit(self, evidence: Evidence, seed: int, training_pairs: int | None = None) -> InvertingComparer:
        """A comparer that holds the evidence's obfuscator; its PSNR is measured on some test images.

        Raises:
            UsageError: the obfuscator is not given, or has no field.
        """
        obfuscator = evidence.obfuscator
        if not isinstance(obfuscator, FlowField):
            raise UsageError("inversion needs a model that deforms images by a field (flow-field): leave it out")
        flow_field = obfuscator

        def invert(images_NHW: Images) -> Images:
            blocks = (images_NHW[start : start + _BATCH] for start in range(0, len(images_NHW), _BATCH))
            recovered = [inverted(_grey(block), _predicting(flow_field), self.iterations) for block in blocks]
            return (torch.cat(recovered)[:, 0] * 255).round().to(torch.uint8).numpy()

        test = evidence.test
        rows = np.unique(np.linspace(0, len(test) - 1, MEASURED_IMAGES).astype(np.int64))
        published_NHW, originals_NHW = test.anonymized_NHW[rows], test.originals_NHW[rows]
        details = {
            "inversion_psnr_db": psnr_db(invert(published_NHW), originals_NHW),
            "published_psnr_db": psnr_db(published_NHW, originals_NHW),
        }
        return InvertingComparer(invert, _inner(evidence), details)


def _inner(evidence: Evidence) -> Comparer:
    if evidence.verifier is not None:
        return VerifierComparer(evidence.verifier)
    train = evidence.train
    # Recovered images are nearly originals, so both sides have the originals' mean.
    return Correlation(16, less_mean=True).on(
        Split(train.originals_NHW, train.originals_NHW, train.patients_N, train.pairs)
    )


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
