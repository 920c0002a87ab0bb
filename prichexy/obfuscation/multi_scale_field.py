"""Smooth fields at several scales, drawn from an image's secret seed, over a standardized coarse appearance.

A radiograph x is published as y = warp((gain * x + offset), phi):

- The coarse appearance (a Gaussian of `coarse_px`) gives way to what the cohort looks like where a classifier of
  findings says the same in `kept` numbers (`CoarseAppearance`), and of the fine detail a share of `detail` stays. At
  detail 1 this is ``x - low(x) + low(expected)``, at 0 the expected image alone.
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
from torch import Tensor
from torch.nn import functional as F

from prichexy.networks import deformation
from prichexy.networks.coarse_appearance import FURTHEST, CoarseAppearance
from prichexy.networks.smooth_fields import control_values, integrated, low_pass, spline_field
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
        self._fields_px = settings.fields_px
        self._exposure, self._contrast = settings.exposure or 0.0, settings.contrast or 0.0
        self._detail, self._noise = settings.detail or 0.0, settings.code_noise or 0.0
        self._sigma = (settings.coarse_px or 0.0) / PIXELS * settings.image_size

    def fields(self, seeds_N: Tensor) -> Fields:
        """The fields that seeds stand for; an image has no part in them."""
        drawn = [self._drawn(int(seed)) for seed in seeds_N.tolist()]
        side, kept = self.settings.image_size, self._appearance.axes.shape[1]
        if not drawn:
            empty = torch.zeros(0, 1, side, side, device=self.device)
            return Fields(empty.expand(0, 2, side, side), empty, empty, torch.zeros(0, kept, device=self.device))
        return Fields(*(torch.cat(parts).to(self.device) for parts in zip(*drawn, strict=True)))

    def _drawn(self, seed: int) -> Fields:
        side = self.settings.image_size
        velocity_12SS = torch.zeros(1, 2, side, side)
        for knots, bound in zip(KNOTS_PX, self._fields_px, strict=True):
            if bound:
                spline = _spline(seed, f"velocity-{knots}", knots, 2, side)
                velocity_12SS += spline * (bound * 2 / (PIXELS - 1))
        contrast, exposure = torch.split(_spline(seed, "photometric", _PHOTOMETRIC_KNOTS_PX, 2, side), 1, dim=1)
        noise_1K = torch.special.ndtri(
            torch.from_numpy(uniform(seed, _stream("code"), self._appearance.axes.shape[1]))
        )[None]
        return Fields(velocity_12SS, contrast * self._contrast, exposure * self._exposure, noise_1K.float())

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
        gain, offset, displacement = self._decided(images, seeds_N)
        return _applied(images, gain, offset, displacement).to(images_N1HW.device)

    @torch.no_grad()
    def at_native(self, thumbnails_N1HW: Tensor, natives: Iterable[Tensor], seeds_N: Tensor) -> Iterator[Tensor]:
        """Native images changed by the fields of their thumbnails."""
        check_batch(thumbnails_N1HW, seeds_N, self.settings.image_size)
        decided = self._decided(thumbnails_N1HW.detach().to(self.device, torch.float32), seeds_N)
        each = zip(*(torch.split(part, 1) for part in decided), strict=True)
        paired = zip(checked_natives(natives, len(thumbnails_N1HW)), each, strict=False)
        return (_native(native, gain, offset, moved, self.device) for native, (gain, offset, moved) in paired)

    def _decided(self, images_N1SS: Tensor, seeds_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gain and offset (N, 1, S, S) and normalised displacement (N, 2, S, S) of each image."""
        fields = self.fields(seeds_N)
        contrast_N1SS = 1 + fields.contrast_N1SS
        standard_N1SS = self._standard(images_N1SS, fields.noise_NK)
        return (
            self._detail * contrast_N1SS,
            standard_N1SS * contrast_N1SS + fields.exposure_N1SS,
            integrated(fields.velocity_N2SS),
        )

    def _standard(self, images_N1SS: Tensor, noise_NK: Tensor) -> Tensor:
        """What is added to `detail` times the image, so that its coarse part is the expected one."""
        if not self._sigma:
            return torch.zeros_like(images_N1SS)
        # One by one, so that a result is the same bits whatever the batch.
        codes_NK = torch.cat([self._appearance.codes(image) for image in torch.split(images_N1SS, 1)] or [noise_NK])
        codes_NK = (codes_NK + self._noise * noise_NK).clamp(-FURTHEST, FURTHEST)
        expected_N1SS = self._appearance(codes_NK)
        fine_N1SS = expected_N1SS - low_pass(expected_N1SS, self._sigma)
        standard_N1SS: Tensor = expected_N1SS - self._detail * (low_pass(images_N1SS, self._sigma) + fine_N1SS)
        return standard_N1SS

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


def _stream(name: str) -> str:
    return f"multi-scale-field/{name}"


def _spline(seed: int, name: str, knots_px: int, channels: int, side: int) -> Tensor:
    """A field in [-1, 1] that depends on the seed alone, float32, (1, channels, side, side)."""
    count = control_values(knots_px / PIXELS)
    # Sines of random phases lie near the bounds rather than near 0, so that fields make use of what they are allowed.
    control = np.sin(2 * math.pi * uniform(seed, _stream(name), channels * count * count))
    return spline_field(torch.from_numpy(control.reshape(1, channels, count, count)).float(), side)


def _applied(images_N1HW: Tensor, gain_N1HW: Tensor, offset_N1HW: Tensor, displacement_N2SS: Tensor) -> Tensor:
    height, width = images_N1HW.shape[-2:]
    grid_NHW2 = deformation.grid_at(displacement_N2SS, height, width)
    return deformation.warp(gain_N1HW * images_N1HW + offset_N1HW, grid_NHW2).clamp_(0, 1)


@torch.no_grad()
def _native(
    native_1HW: Tensor, gain_11SS: Tensor, offset_11SS: Tensor, displacement_12SS: Tensor, device: torch.device
) -> Tensor:
    size = native_1HW.shape[-2:]
    gain_11HW, offset_11HW = (
        F.interpolate(field, size=size, mode="bilinear", align_corners=True) for field in (gain_11SS, offset_11SS)
    )
    images = native_1HW.detach()[None].to(device, torch.float32)
    return _applied(images, gain_11HW, offset_11HW, displacement_12SS)[0].to(native_1HW.device)
