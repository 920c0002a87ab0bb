"""PriCheXy-Net: each radiograph deformed by a field that a network predicts (arXiv 2209.11531, section 2.1).

Shape suffixes: N batch, 1 the grey channel, 2 the axes (x, y), H height, W width.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from prichexy.networks import deformation
from prichexy.obfuscation.engines import frozen
from prichexy.obfuscation.protocol import check_batch, checked_natives
from prichexy.obfuscation.settings import ObfuscationSettings


class FlowField:
    """Deforms images by their predicted fields; see `Obfuscator`.

    Args:
        settings: of kind ``flow-field``.
        generator: the network with its weights; it is copied.
        device: where the network and the warping run.
    """

    native = True
    keyed = False

    def __init__(self, settings: ObfuscationSettings, generator: nn.Module, device: torch.device | str = "cpu") -> None:
        if settings.mu is None or settings.operator is None or settings.precision is None:
            raise ValueError("FlowField needs settings of kind 'flow-field'")
        self.settings = settings
        self._mu, self._operator = settings.mu, settings.operator
        self._generator = frozen(generator, settings, device)

    @property
    def device(self) -> torch.device:
        """Where fields are predicted, and images deformed."""
        return self._generator.device

    def displacement(self, images_N1HW: Tensor, seeds_N: Tensor | None = None) -> Tensor:
        """Normalised displacement of each image, float32, shape (N, 2, S, S); what an audit measures.

        Seeds are ignored.
        """
        with torch.no_grad():
            return deformation.displacement(self._generator(images_N1HW), self._mu, self._operator)

    def __call__(self, images_N1HW: Tensor, seeds_N: Tensor) -> Tensor:
        """Deformed images at the network's resolution; seeds are ignored."""
        check_batch(images_N1HW, seeds_N, self.settings.image_size)
        return self._deform(images_N1HW, self.displacement(images_N1HW))

    def at_native(self, thumbnails_N1HW: Tensor, natives: Iterable[Tensor], seeds_N: Tensor) -> Iterator[Tensor]:
        """Native images deformed by the fields of their thumbnails; seeds are ignored."""
        check_batch(thumbnails_N1HW, seeds_N, self.settings.image_size)
        displacements = torch.split(self.displacement(thumbnails_N1HW), 1)
        paired = zip(checked_natives(natives, len(thumbnails_N1HW)), displacements, strict=False)
        return (self._deform(native[None], displacement_12HW)[0] for native, displacement_12HW in paired)

    @torch.no_grad()
    def _deform(self, images_N1HW: Tensor, displacement_N2HW: Tensor) -> Tensor:
        height, width = images_N1HW.shape[-2:]
        grid_NHW2 = deformation.grid_at(displacement_N2HW, height, width)
        deformed = deformation.warp(images_N1HW.to(grid_NHW2.device, torch.float32), grid_NHW2)
        return deformed.clamp_(0, 1).to(images_N1HW.device)  # interpolation weights may sum to 1 + 1e-7
