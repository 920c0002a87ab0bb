"""Grey levels deformed on a GPU at their own resolution.

Shape suffixes: 2 the axes (x, y), h, w the field's height and width, H, W the image's.
"""

import math

import numpy as np
import torch
from torch import Tensor

from prichexy.imaging.radiograph import Pixels
from prichexy.networks.deformation import grid_at, warp
from prichexy.obfuscation.cuda.levels import levels_of, units_of
from prichexy.obfuscation.cuda.queues import Queues


class NativeWarp:
    """Deforms one image after the other; in between, it keeps page-locked memory for the largest so far.

    Args:
        queues: of the device.
    """

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self._sent = self._returned = queues.host_memory((0,), torch.uint8)

    def __call__(self, pixels_HW: Pixels, displacement_2hw: Tensor, bit_depth: int) -> Pixels:
        """The image deformed by a field: `imaging.to_unit`, `deformation.warp` and `imaging.from_unit` on the device.

        Args:
            pixels_HW: grey levels, uint8 at depth 8, else uint16.
            displacement_2hw: normalised displacement of any resolution, float32, all numbers, on the device.
            bit_depth: 8 to 16.

        Returns:
            Same shape and dtype.
        """
        sent_HW, returned_HW = self._memory(pixels_HW)
        np.copyto(sent_HW.numpy(), pixels_HW)
        with self._queues.joined():
            _warp_into(returned_HW, sent_HW, displacement_2hw, bit_depth)
        self._queues.reached(self._queues.mark("compute"))
        return returned_HW.numpy().copy()

    def _memory(self, pixels_HW: Pixels) -> tuple[Tensor, Tensor]:
        """Page-locked memory for an image on its way there and back."""
        size = math.prod(pixels_HW.shape) * pixels_HW.dtype.itemsize
        if len(self._sent) < size:
            self._sent = self._queues.host_memory((size,), torch.uint8)
            self._returned = self._queues.host_memory((size,), torch.uint8)
        dtype = torch.uint8 if pixels_HW.dtype == np.uint8 else torch.uint16
        sent, returned = (part[:size].view(dtype).view(pixels_HW.shape) for part in (self._sent, self._returned))
        return sent, returned


@torch.no_grad()
def _warp_into(returned_HW: Tensor, sent_HW: Tensor, displacement_2hw: Tensor, bit_depth: int) -> None:
    device = displacement_2hw.device
    levels_11HW = sent_HW.to(device, non_blocking=True).to(torch.float32)[None, None]
    tops_1111 = torch.full((1, 1, 1, 1), 2**bit_depth - 1, dtype=torch.float32, device=device)
    grid_1HW2 = grid_at(displacement_2hw[None], *sent_HW.shape)
    warped_11HW = levels_of(warp(units_of(levels_11HW, tops_1111), grid_1HW2), tops_1111)
    returned_HW.copy_(warped_11HW[0, 0].to(returned_HW.dtype), non_blocking=True)
