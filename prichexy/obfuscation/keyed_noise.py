"""Numbers that only the holder of a seed can compute again.

The stream is SHAKE-256 of the seed (FIPS 202), the same on every machine. `torch.Generator` would not do: its CPU
engine uses 32 of a seed's bits, few enough to try them all and subtract the noise.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


def uniform(seed: int, purpose: str, count: int) -> NDArray[np.float64]:
    """Uniform numbers in the open interval (0, 1), 53 bits each.

    Args:
        seed: 0 <= seed < 2**63, secret.
        purpose: a name, so that one seed serves several streams that tell nothing of each other.
        count: how many; a longer stream begins with the shorter one.

    Returns:
        Shape (count,).
    """
    stream = hashlib.shake_256(b"prichexy/" + purpose.encode() + seed.to_bytes(8, "big")).digest(8 * count)
    # Moved to the middles of their intervals, so that no logarithm is ever of zero.
    numbers: NDArray[np.float64] = (
        (np.frombuffer(stream, dtype=">u8") >> np.uint64(11)).astype(np.float64) + 0.5
    ) / 2.0**53
    return numbers
