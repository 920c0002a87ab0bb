"""From a flow field to a deformed radiograph, and measures of the deformation (arXiv 2209.11531, section 2.1).

Coordinates are normalised as in `torch.nn.functional.grid_sample` with ``align_corners=True``: -1 is the centre of the
first pixel, +1 that of the last, along each axis. A displacement in these units does not depend on the resolution, so
a field predicted at 256 x 256 applies to an image of any size.

Shape suffixes: N batch, H height, W width, 2 the axes (x, y).
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Operator = Literal["corrected", "reference"]

GAUSSIAN_SIDE = 9
GAUSSIAN_SIGMA = 2.0


class DisplacementPixels(NamedTuple):
    """How far pixels move, for each image: shape (N,), in pixels of that image.

    Attributes:
        largest: the longest displacement (Euclidean).
        largest_axis: the largest displacement along one axis, which mu bounds for the corrected operator.
        mean: the mean length over all pixels.
    """

    largest: Tensor
    largest_axis: Tensor
    mean: Tensor


def identity_grid(
    height: int, width: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Sampling grid that changes nothing: shape (1, H, W, 2), last axis (x, y) in [-1, 1]."""
    x_W = torch.linspace(-1, 1, width, device=device, dtype=dtype)
    y_H = torch.linspace(-1, 1, height, device=device, dtype=dtype)
    return torch.stack((x_W.expand(height, width), y_H[:, None].expand(height, width)), dim=-1)[None]


def _gaussian_taps() -> list[float]:
    reach = GAUSSIAN_SIDE // 2
    taps = [math.exp(-(offset**2) / (2 * GAUSSIAN_SIGMA**2)) for offset in range(-reach, reach + 1)]
    return [tap / sum(taps) for tap in taps]


def smooth(field_N2HW: Tensor) -> Tensor:
    """Field convolved with the method's Gaussian, 9 x 9 with sigma 2 (pixels), the border repeated beyond itself.

    A constant field stays as it is, and no value leaves the field's range.

    Args:
        field_N2HW: any field, shape (N, 2, H, W).

    Returns:
        Shape (N, 2, H, W).
    """
    reach, (height, width) = GAUSSIAN_SIDE // 2, field_N2HW.shape[-2:]
    padded = F.pad(field_N2HW, (reach, reach, reach, reach), mode="replicate")
    # The Gaussian is separable. Sums of shifted slices take 0.4 ms an image of 256 x 256 on one core, a depthwise
    # conv2d 6 ms.
    first, *others = _gaussian_taps()
    rows = first * padded[..., :width]
    for shift, tap in enumerate(others, start=1):
        rows.add_(padded[..., shift : shift + width], alpha=tap)
    smoothed = first * rows[..., :height, :]
    for shift, tap in enumerate(others, start=1):
        smoothed.add_(rows[..., shift : shift + height, :], alpha=tap)
    return smoothed


def smooth_as_published(grid_N2HW: Tensor) -> Tensor:
    """Absolute coordinates convolved with the same Gaussian, zeros beyond the border: the published smoothing.

    One convolution of 81 taps, as published: at absolute coordinates near 1 the rounding of another order of
    summation shows in the image (2e-5 of its range).

    Args:
        grid_N2HW: coordinates, shape (N, 2, H, W).

    Returns:
        Shape (N, 2, H, W).
    """
    # Products of two normal densities in the grid's own precision, divided by their sum: of several ways to write the
    # kernel, the one that gives the published grid to the last bit. Others move its coordinates by one rounding. That
    # can put a ReLU of the critics on the other side of zero, and one or two such flips, as any other rounding brings
    # them about, change the gradient of a training step by some 0.3 %.
    distance = torch.arange(GAUSSIAN_SIDE, device=grid_N2HW.device).to(grid_N2HW.dtype) - GAUSSIAN_SIDE // 2
    density = torch.exp(-((distance / GAUSSIAN_SIGMA) ** 2) / 2) / (GAUSSIAN_SIGMA * math.sqrt(2 * math.pi))
    kernel = torch.outer(density, density)
    kernel = (kernel / kernel.sum()).expand(2, 1, GAUSSIAN_SIDE, GAUSSIAN_SIDE)
    return F.conv2d(grid_N2HW, kernel, padding=GAUSSIAN_SIDE // 2, groups=2)


def displacement(flow_N2HW: Tensor, mu: float, operator: Operator) -> Tensor:
    """Displacement that an operator makes of a flow field.

    ``corrected``: -mu * Gauss(F), replicate padding; zero for a zero flow, at most mu along an axis.
    ``reference``, the published one: Gauss(identity - mu * F) - identity, zero padding, which drags the outer
    4-pixel ring inwards whatever the flow.

    Args:
        flow_N2HW: the generator's output in [-1, 1], shape (N, 2, H, W), channels (x, y).
        mu: the degree of deformation, a share of half the image's extent.
        operator: ``corrected`` or ``reference``.

    Returns:
        Normalised displacement, shape (N, 2, H, W).

    Raises:
        ValueError: if the operator is none of the two.
    """
    if operator == "corrected":
        return -mu * smooth(flow_N2HW)
    if operator == "reference":
        identity_12HW = _identity_like(flow_N2HW)
        return smooth_as_published(identity_12HW - mu * flow_N2HW) - identity_12HW
    raise ValueError("operator must be 'corrected' or 'reference'")


def _identity_like(field_N2HW: Tensor) -> Tensor:
    height, width = field_N2HW.shape[-2:]
    return identity_grid(height, width, device=field_N2HW.device, dtype=field_N2HW.dtype).permute(0, 3, 1, 2)


def grid_at(displacement_N2HW: Tensor, height: int, width: int) -> Tensor:
    """Sampling grid of a displacement at the resolution of the image that it deforms.

    Where that is not the displacement's own, the displacement is resampled bilinearly with aligned corners, as its
    coordinates demand.

    Args:
        displacement_N2HW: normalised displacement, shape (N, 2, h, w).
        height: rows of the image.
        width: columns of the image.

    Returns:
        Shape (N, height, width, 2), last axis (x, y); coordinates outside [-1, 1] lie beyond the border.
    """
    rows, columns = displacement_N2HW.shape[-2:]
    identity_1HW2 = identity_grid(rows, columns, device=displacement_N2HW.device, dtype=displacement_N2HW.dtype)
    grid_N2HW = displacement_N2HW + identity_1HW2.permute(0, 3, 1, 2)  # in this order the sum is contiguous
    # The identity is linear, so resampling the sum is resampling the displacement, at a quarter of the time.
    if (rows, columns) != (height, width):
        grid_N2HW = F.interpolate(grid_N2HW, size=(height, width), mode="bilinear", align_corners=True)
    return grid_N2HW.permute(0, 2, 3, 1)


def sampling_grid(flow_N2HW: Tensor, mu: float, operator: Operator) -> Tensor:
    """Sampling grid of a flow field at its own resolution; arguments as in `displacement`.

    Returns:
        Shape (N, H, W, 2), last axis (x, y).
    """
    if operator == "reference":  # without taking the identity off and adding it again, which would round twice
        return smooth_as_published(_identity_like(flow_N2HW) - mu * flow_N2HW).permute(0, 2, 3, 1)
    height, width = flow_N2HW.shape[-2:]
    return grid_at(displacement(flow_N2HW, mu, operator), height, width)


def warp(images_N1HW: Tensor, grid_NHW2: Tensor) -> Tensor:
    """Images sampled at a grid: bilinear, the border repeated beyond itself, corners aligned.

    Args:
        images_N1HW: any values, shape (N, 1, H, W).
        grid_NHW2: normalised coordinates (x, y), shape (N, H', W', 2), of the images' dtype.

    Returns:
        Shape (N, 1, H', W'), within the range of each image's values.
    """
    return F.grid_sample(images_N1HW, grid_NHW2, mode="bilinear", padding_mode="border", align_corners=True)


def displacement_pixels(grid_NHW2: Tensor) -> DisplacementPixels:
    """How far a sampling grid moves the pixels of an image of the grid's size.

    Args:
        grid_NHW2: normalised coordinates (x, y), shape (N, H, W, 2).
    """
    height, width = grid_NHW2.shape[1:3]
    half_extent_2 = torch.tensor(((width - 1) / 2, (height - 1) / 2), device=grid_NHW2.device, dtype=grid_NHW2.dtype)
    identity_1HW2 = identity_grid(height, width, device=grid_NHW2.device, dtype=grid_NHW2.dtype)
    moved_NHW2 = (grid_NHW2 - identity_1HW2) * half_extent_2
    length_NHW = torch.linalg.vector_norm(moved_NHW2, dim=-1)
    return DisplacementPixels(
        largest=length_NHW.amax(dim=(1, 2)),
        largest_axis=moved_NHW2.abs().amax(dim=(1, 2, 3)),
        mean=length_NHW.mean(dim=(1, 2)),
    )


def folded_share(grid_NHW2: Tensor) -> Tensor:
    """Share of pixels where the deformation folds: its Jacobian determinant, by forward differences, is negative.

    Args:
        grid_NHW2: normalised coordinates (x, y), shape (N, H, W, 2), H and W at least 2.

    Returns:
        Shares in [0, 1], shape (N,), of the (H - 1) x (W - 1) pixels that have both neighbours.
    """
    along_x = grid_NHW2[:, :-1, 1:] - grid_NHW2[:, :-1, :-1]
    along_y = grid_NHW2[:, 1:, :-1] - grid_NHW2[:, :-1, :-1]
    determinant_NHW = along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0]
    return (determinant_NHW < 0).to(torch.float64).mean(dim=(1, 2))
