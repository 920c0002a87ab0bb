"""The attacker who compares what a classifier says of both images: findings that are kept are kept for him too.

A publication is worth something because findings are still on the images. A patient whose heart is enlarged on one
radiograph mostly has it enlarged on the next, so that what is kept for research tells patients apart.

Shape suffixes: N image, F finding, H height, W width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prichexy.audit.attackers.embedding import Embed, EmbeddingComparer, Vectors, unit
from prichexy.audit.attackers.whitening import whitening
from prichexy.audit.evidence import Evidence, Images
from prichexy.audit.utility import finding_scores
from prichexy.errors import UsageError
from prichexy.networks.classifier import Classifier

Floats = NDArray[np.float64]

LEAST_DEVIATION = 1e-3
"""Of a logit over the cohort; one that varies less, as that of images without contrast, holds nothing but rounding."""


@dataclass(frozen=True)
class Findings:
    """Cosine of both images' logits of findings, whitened within patients.

    Logits are standardized over the training split, each side by its own mean and deviation, then whitened by their
    covariance within patients. Chosen on real pairs at 64 px, without the test patients (80 pairs each of held-out
    training patients and of validation patients; mean AUC over originals and three random fields, two of them after
    the coarse appearance was standardized): cosine with a shrinkage of 0.1, 0.3, 0.5, 0.8 has 0.689, 0.692, 0.690,
    0.685, without whitening 0.675; distances have 0.65 to 0.67.

    Attributes:
        shrinkage: see `whitening`.
    """

    shrinkage: float = 0.3
    name = "findings"
    description = "Compares what a classifier of findings says of both images."
    seeded = False

    def applies(self, evidence: Evidence) -> bool:
        """Whether there is a classifier."""
        return evidence.classifier is not None

    def fit(self, evidence: Evidence, seed: int, training_pairs: int | None = None) -> EmbeddingComparer:
        """A comparer by the evidence's classifier, scaled on the training split.

        Raises:
            UsageError: there is no classifier, or no training patient has two images.
        """
        classifier = evidence.classifier
        if classifier is None:
            raise UsageError("findings needs a classifier of findings: name the training run, or its weights")
        train = evidence.train
        first_NF, second_NF = (finding_scores(classifier, side) for side in (train.anonymized_NHW, train.originals_NHW))
        first, second = _standardizing(first_NF), _standardizing(second_NF)
        values_NF = np.concatenate([first(first_NF), second(second_NF)])
        map_FF = whitening(values_NF, np.tile(train.patients_N, 2), 2, self.shrinkage)
        return EmbeddingComparer(_embedding(classifier, first, map_FF), _embedding(classifier, second, map_FF))


def _standardizing(logits_NF: Floats) -> Callable[[Floats], Floats]:
    """To mean 0 and deviation 1 over these logits; what hardly varies becomes 0."""
    mean_F, deviation_F = logits_NF.mean(axis=0), logits_NF.std(axis=0)
    scale_F = np.where(deviation_F > LEAST_DEVIATION, 1 / np.maximum(deviation_F, LEAST_DEVIATION), 0)
    return lambda others_NF: np.asarray((others_NF - mean_F) * scale_F)


def _embedding(classifier: Classifier, standardize: Callable[[Floats], Floats], map_FF: Floats) -> Embed:
    def embed(images_NHW: Images) -> Vectors:
        return unit(standardize(finding_scores(classifier, images_NHW)) @ map_FF)

    return embed
