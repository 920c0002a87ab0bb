"""Grey levels in, obfuscated grey levels out: what the job publishes and an audit judges.

Shape suffixes: N batch, 1 the grey channel, H height, W width, S side of the obfuscator's images.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from prichexy.imaging.radiograph import Pixels
from prichexy.imaging.resample import from_unit, to_unit
from prichexy.obfuscation.flow_field import FlowField, NativeDeform
from prichexy.obfuscation.protocol import Obfuscator, check_batch


def obfuscate_levels(
    obfuscator: Obfuscator,
    images: Iterable[Pixels],
    bit_depths: Sequence[int],
    seeds_N: Tensor,
    thumbnails: Sequence[Pixels] | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Pixels | None]:
    """Obfuscated images, one after the other, rounded to the grey levels that their files will hold.

    A flow field deforms native images as integers on a CPU and by engine ``cuda-graph`` (`FlowField.native_levels`),
    which takes images at S as integers, too (`FlowField.levels`); everything else goes through float32 in [0, 1].

    Args:
        obfuscator: on `device`.
        images: N images of grey levels 0 .. 2**bit_depth - 1, uint8 at depth 8, else uint16: (S, S), or of any size
            where thumbnails are given; read once, one at a time where thumbnails are given.
        bit_depths: of each image, 8 to 16.
        seeds_N: as in `Obfuscator`.
        thumbnails: the images resized to (S, S), for results at native resolution; None for results at S.
        device: where the obfuscator runs.

    Yields:
        For each image one of the same shape and dtype, or None where the model's output holds values that are no
        numbers.

    Raises:
        ValueError: a shape is another.
        UsageError: thumbnails are given, and the obfuscator has no result at native resolution.
    """
    if thumbnails is None:
        if isinstance(obfuscator, FlowField) and obfuscator.levels is not None:
            return obfuscator.levels(images, bit_depths)
        units = [_unit(image, depth) for image, depth in zip(images, bit_depths, strict=True)]
        outputs: Iterable[Tensor] = obfuscator(torch.stack(units).to(device), seeds_N)
        return _rounded(outputs, bit_depths)
    small_N1SS = torch.stack([_unit(image, depth) for image, depth in zip(thumbnails, bit_depths, strict=True)])
    if isinstance(obfuscator, FlowField) and obfuscator.native_levels is not None:
        check_batch(small_N1SS, seeds_N, obfuscator.settings.image_size)
        return _deformed(obfuscator.native_levels, obfuscator.displacement(small_N1SS), images, bit_depths)
    natives = (_unit(image, depth).to(device) for image, depth in zip(images, bit_depths, strict=True))
    return _rounded(obfuscator.at_native(small_N1SS.to(device), natives, seeds_N), bit_depths)


def _unit(image_HW: Pixels, bit_depth: int) -> Tensor:
    return torch.from_numpy(to_unit(image_HW, bit_depth)).unsqueeze(0)


def _rounded(outputs: Iterable[Tensor], bit_depths: Sequence[int]) -> Iterator[Pixels | None]:
    for output_1HW, depth in zip(outputs, bit_depths, strict=True):
        image_HW = output_1HW[0].float().cpu().numpy()
        yield from_unit(image_HW, depth) if np.isfinite(image_HW).all() else None


def _deformed(
    deform: NativeDeform, displacement_N2SS: Tensor, images: Iterable[Pixels], bit_depths: Sequence[int]
) -> Iterator[Pixels | None]:
    sound = displacement_N2SS.isfinite().flatten(1).all(dim=1).tolist()
    given = zip(displacement_N2SS, images, bit_depths, sound, strict=True)
    for displacement_2SS, image_HW, depth, numbers in given:
        yield deform(image_HW, displacement_2SS, depth) if numbers else None
