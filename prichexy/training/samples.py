"""Which samples a worker sees, in which order, and how they are read while the step before computes.

An epoch's order is a function of seed and epoch alone, and a worker's part a function of that order: whoever goes on
from a checkpoint, with however many workers, sees the samples that an undisturbed run would have seen. Images are
read from the memory-mapped training table; Ray Data, which shards by stream, has no such order to resume in.

Shape suffixes: N batch, P pair, 1 the grey channel, H height, W width.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prichexy.cohort.pairs import Pairs
from prichexy.cohort.table import SplitRows
from prichexy.errors import UsageError
from prichexy.training.augmentation import Augmentation
from prichexy.training.batches import Batch, ImagePairs, LabelledImages, LabelledPairs, PatientPairs

Rows = NDArray[np.int64]


class ImageRows(Protocol):
    """Images that are read by row, such as those of a `SplitRows`."""

    @property
    def patients(self) -> NDArray[np.str_]:
        """The patient of each row."""
        ...

    def images(self, rows: Rows) -> NDArray[np.uint8]:
        """Some images, (n, H, W), in the order asked for."""
        ...


@dataclass(frozen=True)
class Samples(Generic[Batch]):
    """A set of samples that can be read in any order.

    Attributes:
        count: how many there are.
        load: the samples of some indices in [0, count), as a batch on the CPU.
        images: images of one sample, for the throughput: 2 for pairs.
        of_epoch: the samples of an epoch, where each has others.
    """

    count: int
    load: Callable[[Rows], Batch]
    images: int = 1
    of_epoch: Callable[[int], "Samples[Batch]"] | None = None

    def in_epoch(self, epoch: int) -> "Samples[Batch]":
        """Those that an epoch learns from."""
        return self if self.of_epoch is None else self.of_epoch(epoch)


def labelled_images(rows: SplitRows) -> Samples[LabelledImages]:
    """A split's images with their findings."""
    return Samples(len(rows), lambda at: LabelledImages(_images(rows, at), torch.from_numpy(rows.findings[at])))


def image_pairs(rows: ImageRows, pairs: Pairs, seconds: ImageRows | None = None) -> Samples[ImagePairs]:
    """Pairs of images; the second of each from `seconds`, where it is another version of the same rows."""

    def load(at: Rows) -> ImagePairs:
        first, second = _images(rows, pairs.first[at]), _images(seconds or rows, pairs.second[at])
        return ImagePairs(first, second, torch.from_numpy(pairs.same[at]))

    return Samples(len(pairs), load, images=2)


def changed_pairs(
    rows: ImageRows, pairs: Pairs, augmentation: Augmentation, seconds: ImageRows | None = None
) -> Samples[ImagePairs]:
    """The same, their images changed at random: differently in every epoch, and the two of a pair independently."""
    sides, owners_N = (rows, seconds or rows), _owners(rows)

    def in_epoch(epoch: int) -> Samples[ImagePairs]:
        def load(at: Rows) -> ImagePairs:
            first, second = _changed(sides, (pairs.first[at], pairs.second[at]), owners_N, augmentation, epoch, at)
            return ImagePairs(first, second, torch.from_numpy(pairs.same[at]))

        return Samples(len(pairs), load, images=2)

    return replace(in_epoch(0), of_epoch=in_epoch)


def patient_pairs(
    rows: ImageRows,
    draw: Callable[[int], Pairs],
    augmentation: Augmentation | None,
    seconds: ImageRows | None = None,
) -> Samples[PatientPairs]:
    """Same-patient pairs, drawn anew for every epoch, their images changed at random.

    Args:
        rows: of the split.
        draw: pairs of an epoch; those of two patients are left out.
        augmentation: its strength may be 0, when images are mirrored only; None leaves them as they are.
        seconds: as in `image_pairs`.

    Raises:
        UsageError: an epoch, such as one of listed pairs, has no pair of one patient.
    """
    sides, owners_N = (rows, seconds or rows), _owners(rows)

    def in_epoch(epoch: int) -> Samples[PatientPairs]:
        pairs = draw(epoch)
        if not pairs.same.any():
            raise UsageError("there is no same-patient pair to learn from: setting pairs.train_list names other pairs")
        firsts_P, seconds_P = pairs.first[pairs.same], pairs.second[pairs.same]

        def load(at: Rows) -> PatientPairs:
            chosen = firsts_P[at], seconds_P[at]
            if augmentation is None:
                first, second = (_images(side, each) for side, each in zip(sides, chosen, strict=True))
            else:
                first, second = _changed(sides, chosen, owners_N, augmentation, epoch, at)
            return PatientPairs(first, second, torch.from_numpy(owners_N[firsts_P[at]]))

        return Samples(len(firsts_P), load, images=2)

    return replace(in_epoch(0), of_epoch=in_epoch)


def verifier_samples(
    compare: Literal["pairs", "batch"],
    rows: ImageRows,
    draw: Callable[[int], Pairs],
    augmentation: Augmentation,
    seconds: ImageRows | None = None,
) -> Samples[ImagePairs] | Samples[PatientPairs]:
    """What a verifier learns from, as the setting `verifier.compare` says.

    Args:
        compare: ``pairs``, those of the first epoch in every one; or ``batch``, see `patient_pairs`.
        rows: of the split.
        draw: pairs of an epoch.
        augmentation: of strength 0 for none.
        seconds: as in `image_pairs`.
    """
    if compare == "batch":
        return patient_pairs(rows, draw, augmentation, seconds)
    if augmentation.strength:
        return changed_pairs(rows, draw(0), augmentation, seconds)
    return image_pairs(rows, draw(0), seconds)


def labelled_pairs(rows: SplitRows, pairs: Pairs) -> Samples[LabelledPairs]:
    """Pairs of a split's images, with the findings of the first."""

    def load(at: Rows) -> LabelledPairs:
        first, second = _images(rows, pairs.first[at]), _images(rows, pairs.second[at])
        labels = torch.from_numpy(rows.findings[pairs.first[at]])
        return LabelledPairs(first, second, torch.from_numpy(pairs.same[at]), labels)

    return Samples(len(pairs), load, images=2)


def _images(rows: ImageRows, at: Rows) -> Tensor:
    """uint8, (N, 1, H, W)."""
    return torch.from_numpy(rows.images(at)).unsqueeze(1)


def _owners(rows: ImageRows) -> Rows:
    """The patient of each image as a number from 0, shape (N,)."""
    return np.unique(rows.patients, return_inverse=True)[1].astype(np.int64)


def _changed(
    sides: tuple[ImageRows, ImageRows],
    chosen: tuple[Rows, Rows],
    owners_N: Rows,
    augmentation: Augmentation,
    epoch: int,
    at: Rows,
) -> list[Tensor]:
    """Images of a choice of rows of each side, changed; those of sample `at[i]` by that sample's random numbers."""
    randoms, mirrored = augmentation.generators(epoch, at), augmentation.mirrored(epoch, int(owners_N.max()) + 1)
    both = zip(sides, chosen, strict=True)
    return [augmentation.apply(_images(rows, each), randoms, mirrored[owners_N[each]]) for rows, each in both]


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
