"""A metric learnt in seconds: components weighed by how little they change between images of one patient.

Shape suffixes: N image, C component, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prichexy.audit.attackers.components import Floats, principal_components, projecting
from prichexy.audit.attackers.embedding import EmbeddingComparer
from prichexy.audit.attackers.protocol import AnyEvidence
from prichexy.audit.evidence import Evidence, Split
from prichexy.cohort.pairs import DEFAULT_PER_PATIENT, draw_pairs
from prichexy.errors import UsageError


@dataclass(frozen=True)
class LinearMetric(AnyEvidence):
    """Cosine of principal components, whitened by their covariance within patients.

    Within-patient deviations are those of a patient's originals and published images, each less its side's mean, from
    the patient's mean: what changes with posture, exposure and the anonymization itself counts little.

    Attributes:
        count: principal components of images at 32 x 32.
        shrinkage: share of the covariance that is replaced by a multiple of the identity of the same trace; on real
            radiographs 0.05 to 0.4 are alike (AUC on originals 0.85), without it 0.81 to 0.84.
        per_patient: most same-patient pairs of one patient, where the number of pairs is limited.
    """

    count: int = 150
    shrinkage: float = 0.1
    per_patient: int = DEFAULT_PER_PATIENT
    name = "linear-metric"
    description = "Learns in seconds which image features stay the same within a patient, and compares those."
    seeded = False

    def fit(self, evidence: Evidence, seed: int, training_pairs: int | None = None) -> EmbeddingComparer:
        """A comparer learnt from the training split, or from the images in `training_pairs` pairs drawn from it.

        Raises:
            UsageError: no training patient has two images.
        """
        train = evidence.train
        if training_pairs is None:
            return self.on(train)
        pairs = draw_pairs(train.patients_N, training_pairs, seed, self.per_patient)
        return self.on(train, np.unique(np.concatenate([pairs.first, pairs.second])))

    def on(self, cohort: Split, rows: NDArray[np.int64] | None = None) -> EmbeddingComparer:
        """A comparer learnt from a cohort, or from some of its images."""
        chosen = np.arange(len(cohort)) if rows is None else rows
        anonymized_NHW, originals_NHW = cohort.anonymized_NHW[chosen], cohort.originals_NHW[chosen]
        components = principal_components(anonymized_NHW, originals_NHW, self.count)
        values_NC = np.concatenate([components.first(anonymized_NHW), components.second(originals_NHW)])
        covariance_CC = self._within(values_NC, np.tile(cohort.patients_N[chosen], 2))
        variance_C, axes_CC = np.linalg.eigh(covariance_CC)
        return projecting(components, axes_CC / np.sqrt(variance_C))

    def _within(self, values_NC: Floats, patients_N: NDArray[np.str_]) -> Floats:
        """Shrunk covariance within the patients who have several images (each is there twice)."""
        _, owner_N, images = np.unique(patients_N, return_inverse=True, return_counts=True)
        several_N = images[owner_N] > 2
        if not several_N.any():
            raise UsageError("no training patient has two images: the linear metric has nothing to learn from")
        sums = np.zeros((len(images), values_NC.shape[1]))
        np.add.at(sums, owner_N, values_NC)
        deviation_NC = (values_NC - sums[owner_N] / images[owner_N, None])[several_N]
        covariance_CC = deviation_NC.T @ deviation_NC / len(deviation_NC)
        level = np.trace(covariance_CC) / len(covariance_CC)
        # Where every image of a patient is the same the trace is 0, and any multiple of the identity will do.
        shrunk_CC = (1 - self.shrinkage) * covariance_CC + self.shrinkage * (level or 1.0) * np.eye(len(covariance_CC))
        return np.asarray(shrunk_CC)
