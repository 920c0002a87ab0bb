"""Grey levels through a device in fixed batches, while the next batch comes and the last one goes.

Shape suffixes: N batch, 1 the grey channel, S side.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prichexy.imaging.radiograph import Pixels
from prichexy.obfuscation.cuda.queues import Queues

SLOTS = 2
"""Batches under way at once. While one is computed, the host empties and fills the other's memory."""


def units_of(levels_N1SS: Tensor, tops_N111: Tensor) -> Tensor:
    """Grey levels as numbers in [0, 1], the same float32 as `imaging.to_unit` gives, to the bit.

    The divisor must lie on the device: torch multiplies by the inverse of one that the host holds, which rounds twice.

    Args:
        levels_N1SS: integers as float32.
        tops_N111: of each image 2**bit_depth - 1, float32.
    """
    return levels_N1SS / tops_N111


def levels_of(units_N1SS: Tensor, tops_N111: Tensor) -> Tensor:
    """Numbers in [0, 1] as grey levels, integers as float32: clipped and rounded as `imaging.from_unit` does."""
    return (units_N1SS.clamp(0, 1) * tops_N111).round()


Compute = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From levels (N, 1, S, S) and tops (N, 1, 1, 1), both float32, to levels of the same form, and (N,) whether all that
was computed of an image are numbers."""


@dataclass
class _Slot:
    """Where a batch lies on its way: on the host, on the device, and back."""

    sent: Tensor
    sent_tops: Tensor
    arrived: Tensor
    arrived_tops: Tensor
    computed: Tensor
    computed_sound: Tensor
    returned: Tensor
    returned_sound: Tensor
    depths: list[int] = field(default_factory=list)
    done: Any = None


class LevelBatches:
    """Images of grey levels in, computed ones out, in order.

    Each batch has the same size, so that the work can be captured once; of a smaller one the rest is left as it was,
    and not looked at. What crosses to the device and back are the grey levels: one byte a pixel where all images have
    8 bits, else two. One call at a time.

    Args:
        queues: of the device.
        batch: images in one.
        side: S, of the images.
        compute: the work, of torch operations that can be captured.
    """

    def __init__(self, queues: Queues, batch: int, side: int, compute: Compute) -> None:
        self.batch = batch
        self._queues, self._shape = queues, (batch, 1, side, side)
        self._levels = queues.device_memory(self._shape, torch.float32)
        self._tops = queues.device_memory((batch, 1, 1, 1), torch.float32)
        self._tops.fill_(1)  # nothing is divided by zero while the work is captured
        self._result = queues.device_memory(self._shape, torch.float32)
        self._sound = queues.device_memory((batch,), torch.bool)

        def work() -> None:
            levels, sound = compute(self._levels, self._tops)
            self._result.copy_(levels)
            self._sound.copy_(sound)

        self._run = queues.captured(work)
        self._slots: dict[torch.dtype, list[_Slot]] = {}
        self._busy = False

    def __call__(self, images: Iterable[Pixels], bit_depths: Sequence[int]) -> Iterator[Pixels | None]:
        """Computed images, one after the other; up to `SLOTS` batches of them are read ahead.

        Args:
            images: (S, S), uint8 at depth 8, else uint16; read once.
            bit_depths: of each, 8 to 16.

        Yields:
            For each image one of the same shape and dtype, or None where what was computed are no numbers.

        Raises:
            ValueError: an image has another shape, or there is not one for each bit depth.
            RuntimeError: an earlier call's images were not all taken.
        """
        if self._busy:
            raise RuntimeError("images of an earlier call are still under way: take them all, or close it, first")
        free = deque(self._slots_for(torch.uint8 if all(depth == 8 for depth in bit_depths) else torch.uint16))
        under_way: deque[_Slot] = deque()
        pairs, more, received = zip(images, bit_depths, strict=True), True, list[Pixels | None]()
        self._busy = True
        try:
            while True:
                while more and free:
                    slot = free.popleft()
                    more = self._fill(slot, pairs)
                    if slot.depths:
                        self._send(slot)
                        under_way.append(slot)
                yield from received  # only now, so that the device has work while the caller looks at them
                if not under_way:
                    return
                slot = under_way.popleft()
                received = self._receive(slot)
                free.append(slot)
        finally:
            for slot in under_way:
                self._queues.reached(slot.done)
            self._busy = False

    def _slots_for(self, dtype: torch.dtype) -> list[_Slot]:
        """Made when first needed: most jobs see only one depth."""
        if dtype not in self._slots:
            host, device = self._queues.host_memory, self._queues.device_memory
            tops = (self.batch, 1, 1, 1)
            self._slots[dtype] = [
                _Slot(
                    sent=host(self._shape, dtype),
                    sent_tops=host(tops, torch.float32),
                    arrived=device(self._shape, dtype),
                    arrived_tops=device(tops, torch.float32),
                    computed=device(self._shape, dtype),
                    computed_sound=device((self.batch,), torch.bool),
                    returned=host(self._shape, dtype),
                    returned_sound=host((self.batch,), torch.bool),
                )
                for _ in range(SLOTS)
            ]
        return self._slots[dtype]

    def _fill(self, slot: _Slot, pairs: Iterator[tuple[Pixels, int]]) -> bool:
        """Put the next images into a slot that nothing uses; whether there may be more."""
        side = self._shape[-1]
        sent_NSS, sent_tops_N = slot.sent[:, 0].numpy(), slot.sent_tops[:, 0, 0, 0].numpy()
        slot.depths = []
        for image_SS, depth in islice(pairs, self.batch):
            if image_SS.shape != (side, side):  # numpy would stretch a row over the whole image
                raise ValueError(f"expected images ({side}, {side}), not {image_SS.shape}")
            sent_NSS[len(slot.depths)] = image_SS
            sent_tops_N[len(slot.depths)] = 2**depth - 1
            slot.depths.append(depth)
        return len(slot.depths) == self.batch

    def _send(self, slot: _Slot) -> None:
        """Put the way of a slot's images into the queues."""
        queues, count = self._queues, len(slot.depths)

        def go() -> None:
            slot.arrived[:count].copy_(slot.sent[:count], non_blocking=True)
            slot.arrived_tops[:count].copy_(slot.sent_tops[:count], non_blocking=True)

        def compute() -> None:
            self._levels[:count].copy_(slot.arrived[:count])
            self._tops[:count].copy_(slot.arrived_tops[:count])
            self._run()
            slot.computed[:count].copy_(self._result[:count])
            slot.computed_sound[:count].copy_(self._sound[:count])

        def come_back() -> None:
            slot.returned[:count].copy_(slot.computed[:count], non_blocking=True)
            slot.returned_sound[:count].copy_(slot.computed_sound[:count], non_blocking=True)

        # A slot is used again only when the host has seen its last mark, so the one order to keep is within a batch;
        # what batches share (levels, result, what the work uses) is touched in one queue only.
        queues.put("in", go)
        queues.wait("compute", queues.mark("in"))
        queues.put("compute", compute)
        queues.wait("out", queues.mark("compute"))
        queues.put("out", come_back)
        slot.done = queues.mark("out")

    def _receive(self, slot: _Slot) -> list[Pixels | None]:
        """The images of a slot, in memory of their own, once they have come back."""
        self._queues.reached(slot.done)
        count = len(slot.depths)
        images_NSS = slot.returned[:count, 0].numpy().copy()
        sound = slot.returned_sound[:count].tolist()
        return [
            _narrowed(image_SS, depth) if numbers else None
            for image_SS, depth, numbers in zip(images_NSS, slot.depths, sound, strict=True)
        ]


def _narrowed(image_SS: Pixels, bit_depth: int) -> Pixels:
    return image_SS.astype(np.uint8) if bit_depth == 8 and image_SS.dtype != np.uint8 else image_SS
