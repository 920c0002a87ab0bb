"""DP-Pix: cells of pixels replaced by their noisy mean (Fan, "Image Pixelization with Differential Privacy", 2018).

Shape suffixes: N batch, 1 the grey channel, H height, W width; R, K rows and columns of cells.
"""

from collections.abc import Iterable
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from prichexy.obfuscation.keyed_noise import uniform
from prichexy.obfuscation.protocol import check_batch, not_native
from prichexy.obfuscation.settings import ObfuscationSettings


def cell_means(images_N1HW: Tensor, cell: int) -> Tensor:
    """Mean of each cell of `cell` x `cell` pixels: shape (N, 1, R, K); cells cut by the border have fewer pixels."""
    return F.avg_pool2d(images_N1HW, cell, stride=cell, ceil_mode=True, count_include_pad=False)


def pixels_per_cell(height: int, width: int, cell: int) -> Tensor:
    """Number of pixels in each cell, float64, shape (R, K)."""

    def lengths(side: int) -> Tensor:
        return torch.tensor([min(cell, side - start) for start in range(0, side, cell)], dtype=torch.float64)

    return torch.outer(lengths(height), lengths(width))


def unit_laplace(seed: int, rows: int, columns: int) -> Tensor:
    """Laplace noise of mean 0 and scale 1 that depends on the seed alone, float64, shape (rows, columns).

    Args:
        seed: 0 <= seed < 2**63, secret.
        rows: rows of cells.
        columns: columns of cells.
    """
    centred = uniform(seed, "dp-pix", rows * columns) - 0.5
    noise = -np.sign(centred) * np.log1p(-2 * np.abs(centred))  # the inverse of Laplace's distribution function
    return torch.from_numpy(noise.reshape(rows, columns))


class DPPix:
    """Cell means plus Laplace noise, clipped to [0, 1]; see `Obfuscator`.

    The noise of a cell of n pixels has scale m / (n * epsilon), which is the paper's m / (b^2 * epsilon) for a whole
    cell; a cell cut by the border needs the larger scale for the same privacy, since one pixel moves its mean more.
    """

    native = False
    keyed = True

    def __init__(self, settings: ObfuscationSettings) -> None:
        if settings.cell is None or settings.epsilon is None or settings.m is None:
            raise ValueError("DPPix needs settings of kind 'dp-pix'")
        self.settings = settings
        self._cell, self._scale = settings.cell, settings.m / settings.epsilon

    def __call__(self, images_N1HW: Tensor, seeds_N: Tensor) -> Tensor:
        """Pixelized images; an image's noise depends on its seed only."""
        check_batch(images_N1HW, seeds_N, self.settings.image_size)
        return self.pixelize(images_N1HW, seeds_N)

    @torch.no_grad()
    def pixelize(self, images_N1HW: Tensor, seeds_N: Tensor) -> Tensor:
        """Pixelized images of any height and width; arguments and result otherwise as in `Obfuscator`."""
        height, width = images_N1HW.shape[-2:]
        means_N1RK = cell_means(images_N1HW.float(), self._cell)
        scale_RK = self._scale / pixels_per_cell(height, width, self._cell)
        noise = [unit_laplace(int(seed), *scale_RK.shape) * scale_RK for seed in seeds_N.tolist()]
        noise_N1RK = torch.stack(noise)[:, None] if noise else means_N1RK.new_zeros(means_N1RK.shape)
        noisy_N1RK = (means_N1RK + noise_N1RK.to(means_N1RK.device, torch.float32)).clamp(0, 1)
        whole = noisy_N1RK.repeat_interleave(self._cell, dim=2).repeat_interleave(self._cell, dim=3)
        return whole[:, :, :height, :width]

    def at_native(self, thumbnails_N1HW: Tensor, natives: Iterable[Tensor], seeds_N: Tensor) -> NoReturn:
        """Not offered: the same cells on a larger image would be a weaker obfuscation than the one audited.

        Raises:
            UsageError: always.
        """
        raise not_native(self.settings)
