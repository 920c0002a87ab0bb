"""On which side of its thresholds a float32 or float64 step computes: recorded, and forced.

A network of ReLUs, max poolings and bilinear sampling is piecewise smooth. Its gradient jumps where a ReLU's input
crosses zero, a pooling prefers another pixel, or a sampling point enters another cell of the image's grid; `Watch`
sees all three, and can decide them for the gradient.
"""

from collections import Counter
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prichexy.training.adversarial_step import Networks

Choice = Callable[[str, Tensor], Tensor]
"""Sides to compute on, given the threshold's name and the sides that the computation itself would take."""

SAMPLING = "sampling"
"""Name of the cells in which the sampling points of the deformation lie."""


class Watch:
    """Records what comes to each threshold of a generator's update, and computes on the sides that it is told.

    Names are ``network.layer#call``, the calls of a layer counted from 0. A side is True or False for a ReLU, the
    preferred pixel's flat index for a pooling, the column or row of the pixel at or before it for a coordinate.

    Args:
        networks: hooked, in place. Their ReLUs no longer work in place, which changes no value.
        choice: sides to compute on; None leaves every threshold to itself.
        keep: names whose inputs are recorded, for all together take a gigabyte.

    Attributes:
        inputs: of those thresholds, as they came; for `SAMPLING` coordinates (x, y) in pixels.
        sides: that each threshold would take of itself.
    """

    def __init__(self, networks: Networks, choice: Choice | None = None, keep: Container[str] = ()) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.sides: dict[str, Tensor] = {}
        self._choice = choice
        self._keep = keep
        self._calls: Counter[str] = Counter()
        for name, network in networks._asdict().items():
            for path, module in network.named_modules():
                if isinstance(module, nn.ReLU):
                    module.inplace = False
                if isinstance(module, nn.ReLU | nn.MaxPool2d):
                    module.register_forward_hook(self._hook(f"{name}.{path}", training=name == "generator"))

    def _hook(self, name: str, *, training: bool) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor | None]:
        def see(module: nn.Module, arguments: tuple[Tensor], _output: Tensor) -> Tensor | None:
            (x,) = arguments
            # Critics are in eval mode for the generator's update, in training mode for their own. The second images
            # need no gradient, so their sides don't matter.
            if module.training is not training or not x.requires_grad:
                return None
            key = f"{name}#{self._calls[name]}"
            self._calls[name] += 1
            own = own_side(module, x.detach())
            side = self._decide(key, x, own)
            return None if side is own else on_side(module, x, side)

        return see

    def _decide(self, key: str, x: Tensor, own: Tensor) -> Tensor:
        self.sides[key] = own
        if key in self._keep:
            self.inputs[key] = x.detach()
        return own if self._choice is None else self._choice(key, own)

    def around(self, warp: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """`prichexy.networks.deformation.warp` with its cells watched."""

        def watched(images_N1HW: Tensor, grid_NHW2: Tensor) -> Tensor:
            half_extent = (images_N1HW.shape[-1] - 1) / 2  # of square images
            pixels_NHW2 = (grid_NHW2.detach() + 1) * half_extent
            own = pixels_NHW2.floor()
            side = self._decide(SAMPLING, pixels_NHW2, own).to(pixels_NHW2.dtype)
            if side is not own:
                # Just inside the cell: the image is continuous, so its values stay as they are.
                inside = torch.where(side == own, pixels_NHW2, pixels_NHW2.clamp(side + 1e-9, side + 1 - 1e-9))
                grid_NHW2 = grid_NHW2 + (inside - pixels_NHW2) / half_extent
            return warp(images_N1HW, grid_NHW2)

        return watched


def own_side(module: nn.Module, x: Tensor) -> Tensor:
    """Sides that a ReLU or a max pooling takes of itself."""
    return x > 0 if isinstance(module, nn.ReLU) else _preferred(module, x)


def _preferred(pool: Any, x: Tensor) -> Tensor:
    size = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    indices: Tensor = F.max_pool2d(x, *size, return_indices=True)[1]
    return indices


def on_side(module: nn.Module, x: Tensor, side: Tensor) -> Tensor:
    """Output of a ReLU or a max pooling on given sides, with the gradient that belongs to them."""
    if isinstance(module, nn.ReLU):
        return x * side
    return x.flatten(2).gather(2, side.flatten(2)).view_as(side)
