"""Privacy-Net: each radiograph drawn anew by a network (Kim et al., IEEE TMI 2021); a comparison.

Shape suffixes: N batch, 1 the grey channel, H height, W width.
"""

from collections.abc import Iterable
from typing import NoReturn

import torch
from torch import Tensor, nn

from prichexy.obfuscation.engines import frozen
from prichexy.obfuscation.protocol import check_batch, not_native
from prichexy.obfuscation.settings import ObfuscationSettings


class PrivacyNet:
    """Draws images anew; see `Obfuscator`.

    Args:
        settings: of kind ``privacy-net``.
        generator: the network with its weights; it is copied.
        device: where the network runs.
    """

    native = False
    keyed = False

    def __init__(self, settings: ObfuscationSettings, generator: nn.Module, device: torch.device | str = "cpu") -> None:
        if settings.kind != "privacy-net" or settings.precision is None:
            raise ValueError("PrivacyNet needs settings of kind 'privacy-net'")
        self.settings = settings
        self._generator = frozen(generator, settings, device)

    def __call__(self, images_N1HW: Tensor, seeds_N: Tensor) -> Tensor:
        """Drawn images at the network's resolution; seeds are ignored."""
        check_batch(images_N1HW, seeds_N, self.settings.image_size)
        return self._generator(images_N1HW).to(images_N1HW.device)

    def at_native(self, thumbnails_N1HW: Tensor, natives: Iterable[Tensor], seeds_N: Tensor) -> NoReturn:
        """Not offered: the network draws an image of its own resolution.

        Raises:
            UsageError: always.
        """
        raise not_native(self.settings)
