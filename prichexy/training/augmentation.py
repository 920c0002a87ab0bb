"""Random changes of training images: another positioning, another exposure, something in the way.

What separates two radiographs of one patient is how each was taken; a verifier that has seen few patients learns that
from changed images instead of learning the images by heart. All that is drawn for a sample follows from seed, epoch
and the sample's number, so it is the same whichever worker reads the sample, and after a restart.

Shape suffixes: N batch, 1 the grey channel, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

# Each is drawn uniformly up to this, times the strength; at strength 1 about what repositioning and another exposure
# do (at 64 px: 3 px of shift, 6 degrees). They were chosen on validation patients.
ROTATION = 0.10  # radians
SCALE = 0.10  # logarithm
ASPECT = 0.03  # logarithm, width over height
SHIFT = 0.05  # image widths
GAMMA = 0.3  # logarithm
CONTRAST = 0.25  # logarithm
BRIGHTNESS = 0.12  # of the grey range
NOISE = 0.02  # standard deviation, of the grey range
ERASED_SIDES = (1 / 8, 3 / 8)  # image widths
ERASED_SHARE = 0.5  # of the images, each with one rectangle of its mean

_OF_SAMPLES, _OF_PATIENTS = 1, 2
"""Last words of seeds, which tell these random numbers from each other and from the order of samples: without them,
NumPy takes (seed, epoch) and (seed, epoch, 0) for one."""

_UNIFORMS = 14
"""Numbers drawn for an image; one more use needs one more."""


@dataclass(frozen=True)
class Augmentation:
    """How much training images are changed, and from which random numbers.

    Attributes:
        strength: 0 leaves them as they are; 1 is what the figures above say.
        seed: of all that is drawn.
    """

    strength: float
    seed: int

    def generators(self, epoch: int, samples: NDArray[np.int64]) -> list[np.random.Generator]:
        """The random numbers of some samples in an epoch."""
        return [np.random.default_rng([self.seed, epoch, int(sample), _OF_SAMPLES]) for sample in samples]

    def mirrored(self, epoch: int, patients: int) -> NDArray[np.bool_]:
        """Whose images are mirrored in an epoch, shape (patients,): a mirrored patient is one more to learn from."""
        drawn: NDArray[np.bool_] = np.random.default_rng([self.seed, epoch, 0, _OF_PATIENTS]).random(patients) < 0.5
        return drawn

    def apply(self, images_N1HW: Tensor, randoms: Sequence[np.random.Generator], mirrored: NDArray[np.bool_]) -> Tensor:
        """Changed images.

        Args:
            images_N1HW: uint8 grey values, shape (N, 1, H, H).
            randoms: of each image; what is drawn comes off them.
            mirrored: whether each image is mirrored first, left to right; shape (N,).

        Returns:
            float32 in [0, 1], same shape.
        """
        x_N1HW = images_N1HW.float().div_(255)
        turned = torch.from_numpy(mirrored)
        x_N1HW[turned] = x_N1HW[turned].flip(-1)
        if self.strength == 0:
            return x_N1HW
        uniforms = torch.from_numpy(np.stack([random.random(_UNIFORMS, dtype=np.float32) for random in randoms]))
        noise_N1HW = torch.from_numpy(
            np.stack([random.standard_normal(x_N1HW.shape[1:], dtype=np.float32) for random in randoms])
        )
        draws = _Draws(uniforms, self.strength)
        x_N1HW = _exposed(_positioned(x_N1HW, draws), draws)
        x_N1HW += noise_N1HW * draws.up_to(NOISE)
        return _covered(x_N1HW.clamp_(0, 1), draws)


class _Draws:
    """Uniform numbers of each image, used up one by one; as (N, 1, 1, 1), to go with images."""

    def __init__(self, uniforms: Tensor, strength: float) -> None:
        self._columns = iter(uniforms.unbind(1))
        self._strength = strength

    def unit(self) -> Tensor:
        return next(self._columns).view(-1, 1, 1, 1)

    def up_to(self, bound: float) -> Tensor:
        return self.unit() * (bound * self._strength)

    def around(self, bound: float) -> Tensor:
        return (2 * self.unit() - 1) * (bound * self._strength)


def _positioned(x_N1HW: Tensor, draws: _Draws) -> Tensor:
    """Rotated, scaled and shifted; what comes into view repeats the border."""
    angle, scale, aspect = draws.around(ROTATION), draws.around(SCALE).exp(), draws.around(ASPECT).exp()
    # Coordinates run over 2 from border to border.
    right, down = draws.around(2 * SHIFT), draws.around(2 * SHIFT)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = (cosine * aspect, -sine, right, sine, cosine / aspect, down)
    theta_N23 = torch.cat(rows, dim=1).view(-1, 2, 3)
    grid_NHW2 = F.affine_grid(theta_N23, list(x_N1HW.shape), align_corners=False)
    return F.grid_sample(x_N1HW, grid_NHW2, padding_mode="border", align_corners=False)


def _exposed(x_N1HW: Tensor, draws: _Draws) -> Tensor:
    """With another gamma, contrast (about the mean) and brightness; not yet within [0, 1]."""
    x_N1HW = x_N1HW.clamp(0, 1).pow(draws.around(GAMMA).exp())
    mean_N111 = x_N1HW.mean(dim=(2, 3), keepdim=True)
    return (x_N1HW - mean_N111) * draws.around(CONTRAST).exp() + mean_N111 + draws.around(BRIGHTNESS)


def _covered(x_N1HW: Tensor, draws: _Draws) -> Tensor:
    """With a rectangle of the image's mean in some of them."""
    low, high = ERASED_SIDES
    covered = draws.unit() < ERASED_SHARE
    row_N111, column_N111 = draws.unit(), draws.unit()
    height_N111, width_N111 = (low + (high - low) * draws.unit() for _ in range(2))
    height, width = x_N1HW.shape[2:]
    rows_H1 = ((torch.arange(height) + 0.5) / height).view(-1, 1)
    columns_W = (torch.arange(width) + 0.5) / width
    inside = ((rows_H1 - row_N111).abs() < height_N111 / 2) & ((columns_W - column_N111).abs() < width_N111 / 2)
    return torch.where(inside & covered, x_N1HW.mean(dim=(2, 3), keepdim=True), x_N1HW)
