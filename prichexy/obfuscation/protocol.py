"""The one protocol that every obfuscator follows.

Shape suffixes: N batch, 1 the grey channel, H height, W width.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor

from prichexy.errors import UsageError
from prichexy.obfuscation.settings import ObfuscationSettings


@runtime_checkable
class Obfuscator(Protocol):
    """Images in [0, 1] to obfuscated images in [0, 1].

    Results are float32, on the device on which the images came, and carry no gradient. An image's result depends on
    the image and its seed, not on the images beside it (to rounding, where a network is involved).

    Attributes:
        settings: what the obfuscator is made of.
        native: whether `at_native` works, which is when the result at one resolution says what it is at another.
        keyed: whether results depend on the seeds; an attacker who holds the model then still lacks them.
    """

    @property
    def settings(self) -> ObfuscationSettings:
        """What the obfuscator is made of."""
        ...

    @property
    def native(self) -> bool:
        """Whether images can be published at their own resolution."""
        ...

    @property
    def keyed(self) -> bool:
        """Whether results depend on the seeds."""
        ...

    def __call__(self, images_N1HW: Tensor, seeds_N: Tensor) -> Tensor:
        """Obfuscated images at the obfuscator's resolution.

        Args:
            images_N1HW: values in [0, 1], shape (N, 1, S, S) with S = ``settings.image_size``.
            seeds_N: a secret 63-bit seed for each image, int64, shape (N,); ignored by obfuscators without chance.

        Returns:
            Values in [0, 1], shape (N, 1, S, S).

        Raises:
            ValueError: if a shape is another.
        """
        ...

    def at_native(self, thumbnails_N1HW: Tensor, natives: Iterable[Tensor], seeds_N: Tensor) -> Iterator[Tensor]:
        """Obfuscated images at their own resolutions, one after the other as they are asked for.

        The networks see the thumbnails as one batch; native images are taken from `natives` one at a time, so that
        memory holds one of them (with its grid) however many there are.

        Args:
            thumbnails_N1HW: the images resized to S x S, values in [0, 1], shape (N, 1, S, S).
            natives: the same images as they came, values in [0, 1], each of shape (1, H, W) of its own.
            seeds_N: as in `__call__`.

        Yields:
            For each native image one of the same shape, values in [0, 1].

        Raises:
            ValueError: if a shape is another.
            UsageError: if the obfuscator is not `native`.
        """
        ...


@runtime_checkable
class Undoable(Obfuscator, Protocol):
    """An obfuscator whose results whoever holds model and seeds can compute back, as far as they can be."""

    def undone(self, images_N1HW: Tensor, seeds_N: Tensor) -> Tensor:
        """Estimates of the originals whose results were published.

        Args:
            images_N1HW: published images, values in [0, 1], shape (N, 1, S, S).
            seeds_N: those with which they were made, int64, shape (N,); others undo what was not done.

        Returns:
            Values in [0, 1], same shape.
        """
        ...


def check_batch(images_N1HW: Tensor, seeds_N: Tensor, image_size: int) -> None:
    """Refuse a batch of the wrong shape, so that no image is silently broadcast or published undeformed.

    Raises:
        ValueError: if images are not (N, 1, image_size, image_size) or seeds not (N,).
    """
    if tuple(images_N1HW.shape[1:]) != (1, image_size, image_size):
        raise ValueError(f"expected images (N, 1, {image_size}, {image_size}), not {tuple(images_N1HW.shape)}")
    if tuple(seeds_N.shape) != (len(images_N1HW),):
        raise ValueError(f"expected one seed for each of {len(images_N1HW)} images, not {tuple(seeds_N.shape)}")


def checked_natives(natives: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    """The native images, refused when they don't match their thumbnails.

    Raises:
        ValueError: if there are not `count` images, each of shape (1, H, W).
    """
    seen = 0
    for seen, native in enumerate(natives, start=1):
        if seen > count:
            break
        if native.ndim != 3 or native.shape[0] != 1:
            raise ValueError(f"expected native images of shape (1, H, W), not {tuple(native.shape)}")
        yield native
    if seen != count:
        raise ValueError(f"expected {count} native images, one for each thumbnail")


def not_native(settings: ObfuscationSettings) -> UsageError:
    """The error of an obfuscator that has no result at another resolution than its own."""
    size = settings.image_size
    return UsageError(f"a '{settings.kind}' model can't publish at native resolution: set the resolution to {size}")
