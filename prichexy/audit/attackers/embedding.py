"""Comparers that turn each image into a vector of length 1; the score of two images is their cosine.

Shape suffixes: N image, U different image, P pair, Q query, G gallery image, D dimension, H height, W width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from prichexy.audit.attackers.protocol import Scores
from prichexy.audit.evidence import Images

Vectors = NDArray[np.float32]
Embed = Callable[[Images], Vectors]

_BLOCK = 512
"""Images that are made small at a time."""

FLAT = 1e-5
"""Root mean square, in grey values of [0, 1] (or of components scaled like them), below which an image holds nothing
but rounding. One pixel of a 64 x 64 image that is off by one level of 255 has 6e-5."""


@dataclass(frozen=True, eq=False)
class EmbeddingComparer:
    """A `Comparer` by cosine.

    Attributes:
        embed_first: published images to vectors of length 1 (or 0), (N, D).
        embed_second: originals to the same.
        details: see `Comparer`.
    """

    embed_first: Embed
    embed_second: Embed
    details: Mapping[str, float] = field(default_factory=dict)

    def pair_scores(self, first_PHW: Images, second_PHW: Images) -> Scores:
        """Cosine of each pair, (P,) in [-1, 1]."""
        first_UHW, first_P = once_each(first_PHW)
        second_UHW, second_P = once_each(second_PHW)
        first_UD, second_UD = self.embed_first(first_UHW), self.embed_second(second_UHW)
        cosine_P = (first_UD[first_P] * second_UD[second_P]).sum(axis=1)
        return np.asarray(cosine_P, dtype=np.float64)

    def similarity(self, queries_QHW: Images, gallery_GHW: Images) -> Scores:
        """Cosine of each query with each gallery image, (Q, G)."""
        return (self.embed_first(queries_QHW) @ self.embed_second(gallery_GHW).T).astype(np.float64)


def once_each(images_NHW: Images) -> tuple[Images, NDArray[np.int64]]:
    """The different images among them, and which one each is: an image that is in ten pairs is embedded once."""
    place: dict[bytes, int] = {}
    which_N = np.empty(len(images_NHW), dtype=np.int64)
    first_rows: list[int] = []
    for row, image in enumerate(images_NHW):
        digest = blake2b(image.tobytes(), digest_size=16).digest()
        if digest not in place:
            place[digest] = len(first_rows)
            first_rows.append(row)
        which_N[row] = place[digest]
    return images_NHW[first_rows], which_N


def shrunk(images_NHW: Images, side: int) -> Vectors:
    """Images averaged to `side` x `side` cells, as rows of grey values in [0, 1]: (N, side * side)."""
    rows = np.empty((len(images_NHW), side * side), dtype=np.float32)
    for start in range(0, len(images_NHW), _BLOCK):
        block = torch.from_numpy(np.array(images_NHW[start : start + _BLOCK])).float().div_(255)
        cells = F.adaptive_avg_pool2d(block[:, None], side)
        rows[start : start + _BLOCK] = cells.flatten(1).numpy()
    return rows


def unit(values_ND: NDArray[np.floating], flat: float = FLAT) -> Vectors:
    """Rows scaled to length 1; rows that hold nothing but rounding become 0, which resembles nothing.

    Args:
        values_ND: any rows.
        flat: root mean square below which a row is 0.
    """
    length_N = np.linalg.norm(values_ND, axis=1)
    holds_N = length_N > flat * np.sqrt(values_ND.shape[1])
    scale_N = np.where(holds_N, 1 / np.where(holds_N, length_N, 1), 0)
    return (values_ND * scale_N[:, None]).astype(np.float32)


def correlation_rows(values_ND: Vectors) -> Vectors:
    """Rows less their mean, scaled to length 1: their products are Pearson's correlations."""
    return unit(values_ND - values_ND.mean(axis=1, keepdims=True))
