"""The coarse appearance of multi-scale-field, fitted to a training table: a linear model of images by findings.

The classifier's outputs on the training split, less their mean, have main axes; the image is regressed on how far it
lies along the first few. It takes one pass over the images, whose sums are all that is kept of them.

Shape suffixes: N image, F finding, K kept axis, S side.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from prichexy.cohort.table import SplitRows
from prichexy.errors import UsageError
from prichexy.imaging import resize, to_unit
from prichexy.networks.classifier import Classifier
from prichexy.networks.coarse_appearance import CoarseAppearance
from prichexy.obfuscation.model_files import new_network
from prichexy.obfuscation.settings import ObfuscationSettings
from prichexy.progress import Progress
from prichexy.training.compute import device_of

BATCH = 64
RIDGE = 0.01
"""Weight of the penalty on the regression, in images' share: it matters where there are few images only."""


def fit_appearance(rows: SplitRows, classifier: Classifier, settings: ObfuscationSettings) -> CoarseAppearance:
    """The network of a multi-scale-field model.

    Args:
        rows: training images of at least the settings' size; larger ones are resized.
        classifier: trained on originals of no patient of validation or test; a copy becomes part of the model, on the
            same device.
        settings: of kind ``multi-scale-field``.

    Raises:
        UsageError: there are fewer images than axes, their images are smaller than the model's, or the classifier is
            of another backbone.
    """
    side, kept = settings.image_size, settings.kept
    if settings.backbone is None or kept is None:
        raise ValueError("settings of kind 'multi-scale-field' are needed")
    if classifier.backbone != settings.backbone:
        raise UsageError(f"setting backbone: the classifier's is {classifier.backbone}: set backbone to it")
    if len(rows) <= kept:
        raise UsageError("the table has too few training images to fit the coarse appearance: prepare a larger table")
    appearance = new_network(settings)
    assert isinstance(appearance, CoarseAppearance)
    appearance.classifier.load_state_dict(classifier.state_dict())
    appearance.eval().to(device_of(classifier))
    logits_NF, mean_SS = _first_pass(rows, appearance.classifier, side)
    centre_F = logits_NF.mean(axis=0)
    axes_FK = _main_axes(logits_NF - centre_F, kept)
    codes_NK = (logits_NF - centre_F) @ axes_FK
    centred_NF = logits_NF - centre_F
    with torch.no_grad():
        appearance.centre.copy_(torch.from_numpy(centre_F))
        appearance.axes.copy_(torch.from_numpy(axes_FK))
        appearance.mean_image.copy_(torch.from_numpy(mean_SS)[None])
        appearance.basis.copy_(torch.from_numpy(_regressed(rows, codes_NK, mean_SS)))
        appearance.covariance.copy_(torch.from_numpy(centred_NF.T @ centred_NF / len(centred_NF)))
    return appearance


def _main_axes(centred_NF: NDArray[np.float64], kept: int) -> NDArray[np.float64]:
    """Principal axes of the standardized outputs, scaled so that codes have variance 1; (F, K)."""
    spread_F = np.maximum(centred_NF.std(axis=0), 1e-6)
    _, _, axes_FF = np.linalg.svd(centred_NF / spread_F, full_matrices=False)
    axes_FK = (axes_FF[:kept] / spread_F).T
    deviation_K = np.maximum((centred_NF @ axes_FK).std(axis=0), 1e-6)
    return np.asarray(axes_FK / deviation_K)


def _first_pass(rows: SplitRows, classifier: Classifier, side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The classifier's outputs, (N, F), and the mean image, (S, S), in [0, 1]."""
    logits, total_SS, device = [], np.zeros((side, side)), device_of(classifier)
    with Progress("fit", len(rows)) as progress, torch.no_grad():
        for batch_nSS in _batches(rows, side):
            logits.append(classifier(torch.from_numpy(batch_nSS).unsqueeze(1).to(device)).double().cpu().numpy())
            total_SS += batch_nSS.sum(axis=0, dtype=np.float64)
            progress.advance(len(batch_nSS))
    return np.concatenate(logits), total_SS / len(rows)


def _regressed(rows: SplitRows, codes_NK: NDArray[np.float64], mean_SS: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ridge regression of images on codes, (K, S, S)."""
    count, kept = codes_NK.shape
    side = len(mean_SS)
    products_KSS, start = np.zeros((kept, side, side)), 0
    for batch_nSS in _batches(rows, side):
        part_nK = codes_NK[start : start + len(batch_nSS)]
        products_KSS += np.einsum("nk,nij->kij", part_nK, batch_nSS - mean_SS)
        start += len(batch_nSS)
    covariance_KK = codes_NK.T @ codes_NK + RIDGE * count * np.eye(kept)
    return np.linalg.solve(covariance_KK, products_KSS.reshape(kept, side * side)).reshape(kept, side, side)


def _batches(rows: SplitRows, side: int) -> Iterator[NDArray[np.float32]]:
    """float32 in [0, 1], (n, S, S) each."""
    for start in range(0, len(rows), BATCH):
        images = rows.images(np.arange(start, min(start + BATCH, len(rows))))
        yield to_unit(np.stack([resize(image, side, side) for image in images]), 8)
