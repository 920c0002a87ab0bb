"""Principal components of images at 32 x 32, and the attacker that compares them with equal weight.

Shape suffixes: N image, D grey value, C component, H height, W width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prichexy.audit.attackers.embedding import FLAT, Embed, EmbeddingComparer, Vectors, shrunk, unit
from prichexy.audit.attackers.protocol import AnyEvidence
from prichexy.audit.evidence import Evidence, Images, Split

SIDE = 32
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Components:
    """Directions of the largest variance, over images of both sides, each less its own side's mean.

    Attributes:
        axes: (C, D), of length 1, largest variance first.
        variance: (C,), along them.
        mean_first: (D,), mean published image.
        mean_second: (D,), mean original.
    """

    axes: Floats
    variance: Floats
    mean_first: Floats
    mean_second: Floats

    def first(self, images_NHW: Images) -> Floats:
        """Coordinates of published images, (N, C)."""
        return np.asarray((shrunk(images_NHW, SIDE) - self.mean_first) @ self.axes.T)

    def second(self, images_NHW: Images) -> Floats:
        """Coordinates of originals, (N, C)."""
        return np.asarray((shrunk(images_NHW, SIDE) - self.mean_second) @ self.axes.T)


def principal_components(anonymized_NHW: Images, originals_NHW: Images, count: int) -> Components:
    """At most `count` components; those that hold nothing but rounding are left out."""
    first_ND, second_ND = shrunk(anonymized_NHW, SIDE), shrunk(originals_NHW, SIDE)
    mean_first_D, mean_second_D = (side_ND.mean(axis=0, dtype=np.float64) for side_ND in (first_ND, second_ND))
    covariance_DD = np.zeros((SIDE * SIDE, SIDE * SIDE))
    for side_ND, mean_D in ((first_ND, mean_first_D), (second_ND, mean_second_D)):
        centred_ND = side_ND - mean_D
        covariance_DD += centred_ND.T @ centred_ND
    variance_D, axes_DD = np.linalg.eigh(covariance_DD / (len(first_ND) + len(second_ND)))
    kept = [place for place in np.argsort(-variance_D)[:count] if variance_D[place] > FLAT**2]
    return Components(axes_DD[:, kept].T, variance_D[kept], mean_first_D, mean_second_D)


@dataclass(frozen=True)
class WhitenedComponents(AnyEvidence):
    """Cosine of two images' principal components, each divided by its standard deviation.

    In a correlation the two or three directions in which radiographs vary most decide; whitened, all count alike.
    """

    count: int = 80
    name = "pca-whitened"
    description = "Compares the 80 main directions in which images of the cohort vary, all with equal weight."
    seeded = False

    def fit(self, evidence: Evidence, seed: int, training_pairs: int | None = None) -> EmbeddingComparer:
        """A comparer with the components of the training split."""
        return self.on(evidence.train)

    def on(self, cohort: Split) -> EmbeddingComparer:
        """A comparer with the components of a cohort."""
        components = principal_components(cohort.anonymized_NHW, cohort.originals_NHW, self.count)
        return projecting(components, np.diag(components.variance**-0.5))


def projecting(components: Components, map_CC: Floats) -> EmbeddingComparer:
    """A comparer by the cosine of components after a linear map.

    Args:
        components: of which images are made.
        map_CC: (C, C'); coordinates are multiplied with it from the right.
    """

    def embedding(coordinates: Callable[[Images], Floats]) -> Embed:
        def embed(images_NHW: Images) -> Vectors:
            values_NC = coordinates(images_NHW)
            # Judged before the map, which may blow up what is nothing but rounding.
            holds_N = np.linalg.norm(values_NC, axis=1) > FLAT * np.sqrt(SIDE * SIDE)
            return unit((values_NC @ map_CC) * holds_N[:, None], flat=0.0)

        return embed

    return EmbeddingComparer(embedding(components.first), embedding(components.second))
