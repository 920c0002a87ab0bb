"""What changes between images of one patient, so that it can be made to count little.

Shape suffixes: N row, C coordinate.
"""

import numpy as np
from numpy.typing import NDArray

from prichexy.errors import UsageError

Floats = NDArray[np.float64]


def whitening(values_NC: Floats, patients_N: NDArray[np.str_], versions: int, shrinkage: float) -> Floats:
    """Linear map after which coordinates vary alike, and independently, within a patient.

    Args:
        values_NC: coordinates of images of both sides, each less its side's mean.
        patients_N: (N,) the patient of each row.
        versions: rows that each image has; patients with a single image say nothing of what changes between images.
        shrinkage: share of the covariance that is replaced by a multiple of the identity of the same trace, 0 to 1.

    Returns:
        (C, C); coordinates are multiplied with it from the right.

    Raises:
        UsageError: no patient has two images.
    """
    _, owner_N, rows = np.unique(patients_N, return_inverse=True, return_counts=True)
    several_N = rows[owner_N] > versions
    if not several_N.any():
        raise UsageError("no training patient has two images: there is nothing to learn from about what changes")
    sums = np.zeros((len(rows), values_NC.shape[1]))
    np.add.at(sums, owner_N, values_NC)
    deviation_NC = (values_NC - sums[owner_N] / rows[owner_N, None])[several_N]
    covariance_CC = deviation_NC.T @ deviation_NC / len(deviation_NC)
    level = np.trace(covariance_CC) / len(covariance_CC)
    # Where every image of a patient is the same the trace is 0, and any multiple of the identity will do.
    shrunk_CC = (1 - shrinkage) * covariance_CC + shrinkage * (level or 1.0) * np.eye(len(covariance_CC))
    variance_C, axes_CC = np.linalg.eigh(shrunk_CC)
    return np.asarray(axes_CC / np.sqrt(variance_C))
