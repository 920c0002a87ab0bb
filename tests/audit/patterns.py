"""Images of patients who never lived: a pattern each, on what all share, other at each study."""

import numpy as np

from prichexy.audit.evidence import Evidence, Images, Patients, Split
from prichexy.cohort.pairs import draw_pairs


def drawn(
    patients: int, studies: int = 3, seed: int = 0, noise: float = 0.05, prefix: str = "p"
) -> tuple[Images, Patients]:
    """(N, 64, 64) images and their patients; `noise` is against a patient's own pattern of 0.1."""
    rng = np.random.default_rng(seed)
    shared = np.kron(np.random.default_rng(99).random((8, 8)), np.ones((8, 8)))
    own = np.kron(rng.normal(0, 0.1, (patients, 8, 8)), np.ones((8, 8)))
    owner = np.repeat(np.arange(patients), studies)
    fine = rng.normal(0, noise, (len(owner), 64, 64))
    coarse = np.kron(rng.normal(0, noise, (len(owner), 8, 8)), np.ones((8, 8)))
    grey = 0.25 + 0.5 * shared + own[owner] + fine + coarse
    names = np.array([f"{prefix}{number}" for number in owner])
    return (grey.clip(0, 1) * 255).round().astype(np.uint8), names


def split(originals: Images, patients: Patients, anonymized: Images | None = None, seed: int = 0) -> Split:
    """A split with all its pairs; published as they are unless given otherwise."""
    pairs = draw_pairs(patients, None, seed)
    return Split(originals, originals if anonymized is None else anonymized, patients, pairs)


def evidence(train: int = 30, validation: int = 12, test: int = 24, noise: float = 0.05) -> Evidence:
    """Splits of patterns, published as they are."""
    sizes = (("train", train), ("validation", validation), ("test", test))
    splits = [split(*drawn(size, seed=n, noise=noise, prefix=name)) for n, (name, size) in enumerate(sizes)]
    return Evidence(*splits)


def published(given: Evidence, how: str) -> Evidence:
    """The same evidence with images published as ``constant`` or as ``noise``."""

    def other(before: Split, seed: int) -> Split:
        rng, shape = np.random.default_rng(seed), before.originals_NHW.shape
        images = np.full(shape, 128) if how == "constant" else rng.integers(0, 256, shape)
        return Split(before.originals_NHW, images.astype(np.uint8), before.patients_N, before.pairs)

    return Evidence(other(given.train, 0), other(given.validation, 1), other(given.test, 2))
