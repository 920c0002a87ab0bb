"""Which samples a worker sees, in which order, and how they are read while the step before computes.

An epoch's order is a function of seed and epoch alone, and a worker's part a function of that order: whoever goes on
from a checkpoint, with however many workers, sees the samples that an undisturbed run would have seen. Images are
read from the memory-mapped training table; Ray Data, which shards by stream, has no such order to resume in.

Shape suffixes: N batch, P pair, 1 the grey channel, H height, W width.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prichexy.cohort.pairs import Pairs
from prichexy.cohort.table import SplitRows
from prichexy.training.batches import Batch, ImagePairs, LabelledImages, LabelledPairs

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Samples(Generic[Batch]):
    """A set of samples that can be read in any order.

    Attributes:
        count: how many there are.
        load: the samples of some indices in [0, count), as a batch on the CPU.
        images: images of one sample, for the throughput: 2 for pairs.
    """

    count: int
    load: Callable[[Rows], Batch]
    images: int = 1


def labelled_images(rows: SplitRows) -> Samples[LabelledImages]:
    """A split's images with their findings."""
    return Samples(len(rows), lambda at: LabelledImages(_images(rows, at), torch.from_numpy(rows.findings[at])))


def image_pairs(rows: SplitRows, pairs: Pairs) -> Samples[ImagePairs]:
    """Pairs of a split's images."""

    def load(at: Rows) -> ImagePairs:
        first, second = _images(rows, pairs.first[at]), _images(rows, pairs.second[at])
        return ImagePairs(first, second, torch.from_numpy(pairs.same[at]))

    return Samples(len(pairs), load, images=2)


def labelled_pairs(rows: SplitRows, pairs: Pairs) -> Samples[LabelledPairs]:
    """Pairs of a split's images, with the findings of the first."""

    def load(at: Rows) -> LabelledPairs:
        first, second = _images(rows, pairs.first[at]), _images(rows, pairs.second[at])
        labels = torch.from_numpy(rows.findings[pairs.first[at]])
        return LabelledPairs(first, second, torch.from_numpy(pairs.same[at]), labels)

    return Samples(len(pairs), load, images=2)


def _images(rows: SplitRows, at: Rows) -> Tensor:
    """uint8, (N, 1, H, W)."""
    return torch.from_numpy(rows.images(at)).unsqueeze(1)


def epoch_order(samples: int, seed: int, epoch: int) -> Rows:
    """The order in which an epoch visits its samples: a permutation that follows from seed and epoch alone."""
    return np.random.default_rng([seed, epoch]).permutation(samples).astype(np.int64)


def training_shares(order: Rows, batch: int, rank: int, workers: int) -> list[Rows]:
    """A worker's part of each batch of an epoch: every `workers`-th sample, so that all parts have one size.

    The last samples, too few for a batch, wait for another epoch's order; where there are fewer than a batch in all,
    as many as the workers can share equally are one batch.

    Args:
        order: of the epoch.
        batch: samples of a step, all workers together; a multiple of `workers`.
        rank: which worker, from 0.
        workers: how many.
    """
    size = min(batch, len(order) // workers * workers)
    return [order[start + rank : start + size : workers] for start in range(0, len(order) - size + 1, size)]


def validation_shares(samples: int, batch: int, rank: int, workers: int) -> list[Rows]:
    """A worker's part of a validation set, in batches: samples rank, rank + workers, ..., none left out."""
    own = np.arange(rank, samples, workers, dtype=np.int64)
    size = max(1, batch // workers)
    return [own[start : start + size] for start in range(0, len(own), size)]


class Reader(Generic[Batch]):
    """Batches, each read by a thread while the one before is computed with.

    Attributes:
        waited: seconds that the iteration has spent waiting for data.
    """

    def __init__(self, samples: Samples[Batch], shares: Sequence[Rows]) -> None:
        self._samples: Samples[Batch] = samples
        self._shares = shares
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(1, "read") as thread:
            coming = [thread.submit(self._samples.load, share) for share in self._shares[:1]]
            for share in [*self._shares[1:], None]:
                if not coming:
                    return
                began = time.perf_counter()
                batch = coming.pop().result()
                self.waited += time.perf_counter() - began
                if share is not None:
                    coming.append(thread.submit(self._samples.load, share))
                yield batch
