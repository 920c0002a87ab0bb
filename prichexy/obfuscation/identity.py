"""The obfuscator that changes nothing: the control of every audit."""

from collections.abc import Iterable, Iterator

from torch import Tensor

from prichexy.obfuscation.protocol import check_batch, checked_natives
from prichexy.obfuscation.settings import ObfuscationSettings


class Identity:
    """Returns each image as it came; see `Obfuscator`."""

    native = True
    keyed = False

    def __init__(self, settings: ObfuscationSettings) -> None:
        self.settings = settings

    def __call__(self, images_N1HW: Tensor, seeds_N: Tensor) -> Tensor:
        """The images, as float32."""
        check_batch(images_N1HW, seeds_N, self.settings.image_size)
        return images_N1HW.detach().float()

    def at_native(self, thumbnails_N1HW: Tensor, natives: Iterable[Tensor], seeds_N: Tensor) -> Iterator[Tensor]:
        """The native images, as float32."""
        check_batch(thumbnails_N1HW, seeds_N, self.settings.image_size)
        return (native.detach().float() for native in checked_natives(natives, len(thumbnails_N1HW)))
