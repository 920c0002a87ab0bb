"""How many images a GPU computes at once: tried at start, from one image on, while a larger batch is worth it."""

from collections.abc import Callable
from dataclasses import dataclass

from prichexy.errors import UsageError

GAIN = 0.05
"""Share by which a batch of twice the size must be faster, an image; it costs memory, and padding of short batches."""


@dataclass(frozen=True)
class Trial:
    """A batch as it was tried.

    Attributes:
        batch: images in it.
        seconds: that it took.
        bytes: of the device's memory that it took.
    """

    batch: int
    seconds: float
    bytes: int

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.batch / self.seconds


def find_batch(attempt: Callable[[int], Trial | None], budget: int, most: int) -> Trial:
    """The batch to use, of 1, 2, 4 ... up to `most`: the last before one that is not faster by `GAIN`, or too large.

    Args:
        attempt: tries a batch; None where the device's memory did not suffice. Called in rising order, and not for a
            batch that would exceed the budget by what the one of half its size took.
        budget: bytes that a batch may take.
        most: the largest batch to try, at least 1.

    Raises:
        UsageError: there is not even memory for one image.
    """
    best = attempt(1)
    if best is None or best.bytes > budget:
        raise UsageError(
            "the GPU has too little free memory for one image: end what else uses it, or hide it from the workers"
        )
    while 2 * best.batch <= most and 2 * best.bytes <= budget:
        larger = attempt(2 * best.batch)
        if larger is None or larger.bytes > budget or larger.rate < (1 + GAIN) * best.rate:
            break
        best = larger
    return best
