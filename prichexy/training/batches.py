"""What one training or validation step is given.

Images are grey values, either float32 in [0, 1] or uint8 in [0, 255], which a loader may hand over as stored: a step
moves them to its device first, at a quarter of the bytes. Labels and same-patient marks are 0 or 1, of any dtype.

Shape suffixes: N batch, P pair, 1 the grey channel, H height, W width, F finding.
"""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor


class LabelledImages(NamedTuple):
    """Images with their findings.

    Attributes:
        images: shape (N, 1, H, W).
        labels: shape (N, F), in the order of `prichexy.findings.FINDINGS`.
    """

    images: Tensor
    labels: Tensor


class ImagePairs(NamedTuple):
    """Pairs of images, of one patient or of two.

    Attributes:
        first: shape (P, 1, H, W).
        second: the other image of each pair, same shape.
        same: 1 where both are of one patient, shape (P,).
    """

    first: Tensor
    second: Tensor
    same: Tensor


class LabelledPairs(NamedTuple):
    """Pairs of images with the findings of the first, which is the one that is obfuscated.

    Attributes:
        first: shape (P, 1, H, W).
        second: the other image of each pair, same shape.
        same: 1 where both are of one patient, shape (P,).
        labels: findings of the first image, shape (P, F).
    """

    first: Tensor
    second: Tensor
    same: Tensor
    labels: Tensor


class PatientPairs(NamedTuple):
    """Two images of each of some patients, to be compared with all images of the batch.

    Attributes:
        first: shape (P, 1, H, W).
        second: another image of the same patient as each first, same shape.
        patients: whose they are, as integers, shape (P,); a patient may come more than once.
    """

    first: Tensor
    second: Tensor
    patients: Tensor


Batch = TypeVar("Batch", LabelledImages, ImagePairs, LabelledPairs, PatientPairs)
Batches = Iterable[Batch]


def grey(images_N1HW: Tensor, device: torch.device) -> Tensor:
    """Grey values as float32 in [0, 1] on a device, shape (N, 1, H, W)."""
    moved = images_N1HW.to(device, non_blocking=True)
    return moved.float().div_(255) if moved.dtype == torch.uint8 else moved.float()


def marks(labels: Tensor, device: torch.device) -> Tensor:
    """0 and 1 as float32 on a device, same shape."""
    return labels.to(device, torch.float32, non_blocking=True)
