"""Smooth fields from a few numbers, and velocities integrated to deformations that do not fold.

A cubic B-spline is a weighted mean of its neighbouring control values, so a field never leaves their range: a bound on
the numbers is a bound on the field. A stationary velocity field, followed for a unit of time, moves every point along
the flow, and two points never meet: the deformation has an inverse, the flow of the negated velocity (Arsigny et al.,
"A Log-Euclidean Framework for Statistics on Diffeomorphisms", MICCAI 2006).

Coordinates and displacements as in `prichexy.networks.deformation`.

Shape suffixes: N batch, C channel, G control values along an axis, S side, 2 the axes (x, y), H height, W width.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from prichexy.networks.deformation import grid_at

HALVINGS = 6
"""A velocity is followed for 1/64 of the time, and the result applied to itself six times."""


def control_values(spacing: float) -> int:
    """Control values along an axis of a field whose spline has a knot every `spacing` of the image's extent.

    Args:
        spacing: a share of the image's side, 0 < spacing <= 1.
    """
    return max(1, math.ceil(1 / spacing - 1e-9)) + 3


@lru_cache(maxsize=64)
def _weights(count: int, side: int) -> Tensor:
    """Share of each control value in each pixel of an axis, float32, (side, count); rows sum to 1."""
    position_S = torch.linspace(0, count - 3, side, dtype=torch.float64)
    knot_S = position_S.floor().clamp(max=count - 4)
    t_S = position_S - knot_S
    parts = (
        (1 - t_S) ** 3 / 6,
        (3 * t_S**3 - 6 * t_S**2 + 4) / 6,
        (-3 * t_S**3 + 3 * t_S**2 + 3 * t_S + 1) / 6,
        t_S**3 / 6,
    )
    weights_SG = torch.zeros(side, count, dtype=torch.float64)
    for shift, part_S in enumerate(parts):
        weights_SG.scatter_(1, knot_S.long()[:, None] + shift, part_S[:, None])
    return weights_SG.float()


def spline_field(control_NCGG: Tensor, side: int) -> Tensor:
    """A field of side x side pixels by uniform cubic B-splines through their control values.

    Args:
        control_NCGG: any values, G at least 4; rows first, as in an image.
        side: S, at least 2.

    Returns:
        Shape (N, C, S, S), within the range of the control values.
    """
    weights_SG = _weights(control_NCGG.shape[-1], side).to(control_NCGG.device, control_NCGG.dtype)
    field_NCSS: Tensor = weights_SG @ control_NCGG @ weights_SG.T
    return field_NCSS


def integrated(velocity_N2HW: Tensor, halvings: int = HALVINGS) -> Tensor:
    """Displacement of following a stationary velocity for a unit of time, by scaling and squaring.

    Along each axis no point moves further than the fastest velocity along it. The inverse is `integrated` of the
    negated velocity.

    Args:
        velocity_N2HW: normalised coordinates a unit of time, shape (N, 2, H, W).
        halvings: how often the time is halved.

    Returns:
        Normalised displacement, shape (N, 2, H, W).
    """
    height, width = velocity_N2HW.shape[-2:]
    displacement_N2HW: Tensor = velocity_N2HW / 2**halvings
    for _ in range(halvings):
        further_N2HW = F.grid_sample(
            displacement_N2HW,
            grid_at(displacement_N2HW, height, width),
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )
        displacement_N2HW = displacement_N2HW + further_N2HW
    return displacement_N2HW


def low_pass(images_N1HW: Tensor, sigma: float) -> Tensor:
    """Images convolved with a Gaussian, the border repeated beyond itself.

    Args:
        images_N1HW: any values, shape (N, 1, H, W).
        sigma: pixels, above 0; the kernel ends at three of them.

    Returns:
        Shape (N, 1, H, W), within the range of each image's values.
    """
    reach = max(1, math.ceil(3 * sigma))
    offset = torch.arange(-reach, reach + 1, device=images_N1HW.device, dtype=images_N1HW.dtype)
    kernel = torch.exp(-((offset / sigma) ** 2) / 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(images_N1HW, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
