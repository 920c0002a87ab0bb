"""Smooth fields at several scales, drawn from an image's secret seed, over a standardized coarse appearance.

A radiograph x is published as y = warp((gain * x + offset), phi):

- The coarse appearance (a Gaussian of `coarse_px`) gives way to what the cohort looks like where a classifier of
  findings says the same in `kept` numbers (`CoarseAppearance`), and of the fine detail a share of `detail` stays, in a
  learned model another of each frequency band. Where all are 1 this is ``x - low(x) + low(expected)``, where all are 0
  the expected image alone.
- Local contrast and exposure change by smooth fields of at most `contrast` (a share) and `exposure` (of the range).
- Every point then follows a smooth velocity, the sum of three splines with knots every 64, 24 and 8 pixels of 256,
  whose values along an axis are at most `fields_px`: it moves no further than their sum, and nothing folds.

Fields and the noise on the kept numbers come from the seed alone, a keyed one for each image: two images of a patient
are not deformed alike, and without the key no field can be computed again.

Pixels are those of an image of 256 x 256, and mean the same share of an image of any size.

Shape suffixes: N batch, 1 the grey channel, 2 the axes (x, y), H height, W width, S side, K kept axis, G control value.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prichexy.networks import deformation
from prichexy.networks.coarse_appearance import CoarseAppearance
from prichexy.networks.smooth_fields import control_values, integrated, spline_field
from prichexy.obfuscation.keyed_noise import uniform
from prichexy.obfuscation.protocol import check_batch, checked_natives
from prichexy.obfuscation.settings import KNOTS_PX, PIXELS, ObfuscationSettings

_PHOTOMETRIC_KNOTS_PX = 64


class Fields(NamedTuple):
    """What the seeds alone decide, at the obfuscator's resolution.

    Attributes:
        velocity_N2SS: in normalised coordinates.
        contrast_N1SS: relative change of contrast.
        exposure_N1SS: change of grey value, of a range of 1.
        noise_NK: on the kept numbers, standard normal.
    """

    velocity_N2SS: Tensor  # noqa: N815 - tensors carry their shape
    contrast_N1SS: Tensor  # noqa: N815
    exposure_N1SS: Tensor  # noqa: N815
    noise_NK: Tensor  # noqa: N815


class Decided(NamedTuple):
    """How each image is changed: ``warp(gain * image + offset, displacement)``.

    Attributes:
        gain_N1SS: at the obfuscator's resolution, as the others are.
        offset_N1SS: in grey values of [0, 1].
        displacement_N2SS: in normalised coordinates.
    """

    gain_N1SS: Tensor  # noqa: N815
    offset_N1SS: Tensor  # noqa: N815
    displacement_N2SS: Tensor  # noqa: N815


def drawn_fields(settings: ObfuscationSettings, seeds_N: Tensor) -> Fields:
    """The fields that seeds stand for, on the CPU; an image has no part in them.

    Args:
        settings: of kind ``multi-scale-field``.
        seeds_N: a secret 63-bit seed for each image, int64.
    """
    drawn = [_drawn(settings, int(seed)) for seed in seeds_N.tolist()]
    side, kept = settings.image_size, settings.kept or 0
    if not drawn:
        empty = torch.zeros(0, 1, side, side)
        return Fields(empty.expand(0, 2, side, side), empty, empty, torch.zeros(0, kept))
    return Fields(*(torch.cat(parts) for parts in zip(*drawn, strict=True)))


def decided(
    appearance: nn.Module, images_N1SS: Tensor, logits_NF: Tensor, fields: Fields, code_noise: float
) -> Decided:
    """How images are changed, by publishing and by training alike.

    Args:
        appearance: a `CoarseAppearance`, perhaps wrapped for several workers.
        images_N1SS: values in [0, 1], on its device.
        logits_NF: what its classifier says of them.
        fields: drawn for them, on the same device.
        code_noise: standard deviation of the noise on the kept numbers.

    Returns:
        Gain and offset with gradients to what the appearance learns.
    """
    contrast_N1SS = 1 + fields.contrast_N1SS
    gain, standard_N1SS = appearance(images_N1SS, logits_NF, code_noise * fields.noise_NK)
    return Decided(
        gain * contrast_N1SS,
        standard_N1SS * contrast_N1SS + fields.exposure_N1SS,
        integrated(fields.velocity_N2SS),
    )


def changed(images_N1HW: Tensor, how: Decided) -> Tensor:
    """Images changed as was decided, (N, 1, H, W) in [0, 1]: of the decision's size, or of any other one's."""
    height, width = images_N1HW.shape[-2:]
    gain_N1HW, offset_N1HW = how.gain_N1SS, how.offset_N1SS
    if gain_N1HW.shape[-2:] != (height, width):
        gain_N1HW, offset_N1HW = (
            F.interpolate(field, size=(height, width), mode="bilinear", align_corners=True)
            for field in (gain_N1HW, offset_N1HW)
        )
    grid_NHW2 = deformation.grid_at(how.displacement_N2SS, height, width)
    return deformation.warp(gain_N1HW * images_N1HW + offset_N1HW, grid_NHW2).clamp_(0, 1)


class MultiScaleField:
    """Standardizes, changes exposure and deforms, each image by its own seed; see `Obfuscator`.

    Args:
        settings: of kind ``multi-scale-field``.
        appearance: the network with its weights; it becomes this obfuscator's own.
        device: where it runs.
    """

    native = True
    keyed = True

    def __init__(
        self, settings: ObfuscationSettings, appearance: CoarseAppearance, device: torch.device | str = "cpu"
    ) -> None:
        if settings.kind != "multi-scale-field" or settings.fields_px is None:
            raise ValueError("MultiScaleField needs settings of kind 'multi-scale-field'")
        self.settings = settings
        self.device = torch.device(device)
        self._appearance = appearance.eval().requires_grad_(False).to(self.device)

    def fields(self, seeds_N: Tensor) -> Fields:
        """The fields that seeds stand for; an image has no part in them."""
        return Fields(*(part.to(self.device) for part in drawn_fields(self.settings, seeds_N)))

    @torch.no_grad()
    def displacement(self, images_N1HW: Tensor, seeds_N: Tensor) -> Tensor:
        """Normalised displacement of each image, float32, shape (N, 2, S, S); the image has no part in it."""
        check_batch(images_N1HW, seeds_N, self.settings.image_size)
        return integrated(self.fields(seeds_N).velocity_N2SS)

    @torch.no_grad()
    def __call__(self, images_N1HW: Tensor, seeds_N: Tensor) -> Tensor:
        """Obfuscated images at the obfuscator's resolution."""
        check_batch(images_N1HW, seeds_N, self.settings.image_size)
        images = images_N1HW.detach().to(self.device, torch.float32)
        return changed(images, self._decided(images, seeds_N)).to(images_N1HW.device)

    @torch.no_grad()
    def at_native(self, thumbnails_N1HW: Tensor, natives: Iterable[Tensor], seeds_N: Tensor) -> Iterator[Tensor]:
        """Native images changed by the fields of their thumbnails."""
        check_batch(thumbnails_N1HW, seeds_N, self.settings.image_size)
        how = self._decided(thumbnails_N1HW.detach().to(self.device, torch.float32), seeds_N)
        each = (Decided(*one) for one in zip(*(torch.split(part, 1) for part in how), strict=True))
        paired = zip(checked_natives(natives, len(thumbnails_N1HW)), each, strict=False)
        return (self._native(native, one) for native, one in paired)

    @torch.no_grad()
    def _native(self, native_1HW: Tensor, how: Decided) -> Tensor:
        images = native_1HW.detach()[None].to(self.device, torch.float32)
        return changed(images, how)[0].to(native_1HW.device)

    def _decided(self, images_N1SS: Tensor, seeds_N: Tensor) -> Decided:
        fields, appearance = self.fields(seeds_N), self._appearance
        logits_NF = images_N1SS.new_zeros(len(images_N1SS), len(appearance.centre))
        if self.settings.kept and len(images_N1SS):
            # One by one, so that a result is the same bits whatever the batch.
            logits_NF = torch.cat([appearance.classifier(image) for image in torch.split(images_N1SS, 1)])
        return decided(appearance, images_N1SS, logits_NF, fields, self.settings.code_noise or 0.0)

    @torch.no_grad()
    def undone(self, images_N1HW: Tensor, seeds_N: Tensor) -> Tensor:
        """What the holder of model and seeds computes back: deformation and exposure undone.

        The standardized coarse appearance stays: what it was is not in the image. With other seeds than the image's
        own, another deformation is undone.

        Args:
            images_N1HW: published images at the obfuscator's resolution, values in [0, 1].
            seeds_N: as in `__call__`.

        Returns:
            Values in [0, 1], same shape.
        """
        check_batch(images_N1HW, seeds_N, self.settings.image_size)
        fields, side = self.fields(seeds_N), self.settings.image_size
        back_NHW2 = deformation.grid_at(integrated(-fields.velocity_N2SS), side, side)
        still_N1SS = deformation.warp(images_N1HW.detach().to(self.device, torch.float32), back_NHW2)
        plain_N1SS: Tensor = (still_N1SS - fields.exposure_N1SS) / (1 + fields.contrast_N1SS)
        return plain_N1SS.clamp_(0, 1).to(images_N1HW.device)


def _drawn(settings: ObfuscationSettings, seed: int) -> Fields:
    side = settings.image_size
    velocity_12SS = torch.zeros(1, 2, side, side)
    for knots, bound in zip(KNOTS_PX, settings.fields_px or (), strict=False):
        if bound:
            spline = _spline(seed, f"velocity-{knots}", knots, 2, side)
            velocity_12SS += spline * (bound * 2 / (PIXELS - 1))
    contrast, exposure = torch.split(_spline(seed, "photometric", _PHOTOMETRIC_KNOTS_PX, 2, side), 1, dim=1)
    noise_1K = torch.special.ndtri(torch.from_numpy(uniform(seed, _stream("code"), settings.kept or 0)))[None]
    return Fields(
        velocity_12SS,
        contrast * (settings.contrast or 0.0),
        exposure * (settings.exposure or 0.0),
        noise_1K.float(),
    )


def _stream(name: str) -> str:
    return f"multi-scale-field/{name}"


def _spline(seed: int, name: str, knots_px: int, channels: int, side: int) -> Tensor:
    """A field in [-1, 1] that depends on the seed alone, float32, (1, channels, side, side)."""
    count = control_values(knots_px / PIXELS)
    # Sines of random phases lie near the bounds rather than near 0, so that fields make use of what they are allowed.
    control = np.sin(2 * math.pi * uniform(seed, _stream(name), channels * count * count))
    return spline_field(torch.from_numpy(control.reshape(1, channels, count, count)).float(), side)
