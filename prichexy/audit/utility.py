"""What a researcher can still learn from the anonymized images, and how far they were changed.

- A classifier trained on originals, as it is, on originals and on their anonymized versions: per finding and in the
  mean, with intervals of the paired difference by resampled patients. Likewise, in the mean, one that the model did not
  learn from.
- A classifier that learns from anonymized images alone, tested on originals: what a published dataset is for.
- SSIM (Wang et al., IEEE TIP 2004) and PSNR; the displacement in pixels, and where the field folds.

Shape suffixes: N image, F finding, H height, W width, 1 the grey channel.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prichexy.audit.statistics import RESAMPLES, AucDifference, bootstrap_difference
from prichexy.errors import UsageError
from prichexy.findings import FINDINGS
from prichexy.networks import deformation
from prichexy.obfuscation import Obfuscator
from prichexy.obfuscation.flow_field import FlowField
from prichexy.obfuscation.multi_scale_field import MultiScaleField
from prichexy.training.batches import LabelledImages, grey
from prichexy.training.compute import device_of, evaluating
from prichexy.training.evaluation import finding_aucs
from prichexy.training.samples import Samples
from prichexy.verdict import FindingUtility, MeanUtility, Utility

Images = NDArray[np.uint8]
Marks = NDArray[np.bool_]

BATCH = 64
"""Images of one pass through a network."""


class Fidelity(NamedTuple):
    """How alike two sets of images are.

    Attributes:
        ssim: structural similarity, mean over images; 1 for equal ones.
        psnr_db: peak signal-to-noise ratio in dB, mean over the images that differ; None where none does.
    """

    ssim: float
    psnr_db: float | None


class FieldMeasures(NamedTuple):
    """How far a model's fields move pixels, over all images, in pixels of those images.

    Attributes:
        largest_px: the longest displacement (Euclidean).
        mean_px: the mean length.
        folded_share: share of pixels at which the field folds.
    """

    largest_px: float
    mean_px: float
    folded_share: float


@dataclass(frozen=True, eq=False)
class LabelledSplit:
    """Images with their findings.

    Attributes:
        images_NHW: uint8, (N, H, W).
        findings_NF: (N, 14) booleans, columns as `FINDINGS`.
    """

    images_NHW: Images  # noqa: N815 - tensors carry their shape
    findings_NF: Marks  # noqa: N815

    def samples(self) -> Samples[LabelledImages]:
        """For a training loop."""
        images_N1HW = torch.from_numpy(np.ascontiguousarray(self.images_NHW)).unsqueeze(1)
        labels_NF = torch.from_numpy(np.ascontiguousarray(self.findings_NF))
        return Samples(len(self.images_NHW), lambda rows: LabelledImages(images_N1HW[rows], labels_NF[rows]))


def measure_utility(
    classifier: nn.Module | None,
    originals_NHW: Images,
    anonymized_NHW: Images,
    findings_NF: Marks,
    patients_N: NDArray[Any],
    seed: int,
    obfuscator: Obfuscator | None = None,
    retrained: nn.Module | None = None,
    unseen: nn.Module | None = None,
    resamples: int = RESAMPLES,
    seeds_N: NDArray[np.int64] | None = None,
) -> Utility:
    """All of an audit's figures of utility, on test images.

    Args:
        classifier: logits (N, F) of images (N, 1, H, W); trained on originals of other patients. None: no findings.
        originals_NHW: uint8, (N, H, W).
        anonymized_NHW: the same images as published, same shape.
        findings_NF: (N, 14) booleans, columns as `FINDINGS`.
        patients_N: (N,) the patient of each.
        seed: of the resamples.
        obfuscator: what anonymized them, for the displacement; of another kind than a flow field it has none.
        retrained: a classifier that learned from anonymized images, or None.
        unseen: another classifier trained on originals, which the obfuscator did not learn from, or None.
        resamples: of an interval.
        seeds_N: with which the images were anonymized; where unknown, a keyed obfuscator's fields are measured with
            seeds of their own.

    Returns:
        Findings that all or none of the images have are left out; where none is left, the means are None.
    """
    fidelity = image_fidelity(originals_NHW, anonymized_NHW)
    if seeds_N is None:
        seeds_N = np.random.default_rng(seed).integers(0, 2**63, len(originals_NHW), dtype=np.int64)
    field = field_measures(obfuscator, originals_NHW, seeds_N) if obfuscator is not None else None
    compared: dict[str, Any] = {"findings": ()}

    def asked(judge: nn.Module) -> AucDifference:
        before_NF, after_NF = (finding_scores(judge, images) for images in (originals_NHW, anonymized_NHW))
        return bootstrap_difference(findings_NF, before_NF, after_NF, patients_N, seed, resamples)

    if classifier is not None and _known(findings_NF):
        difference = asked(classifier)
        compared = {"findings": _by_finding(difference, findings_NF), **_means(difference)}
        if unseen is not None:
            compared["unseen"] = MeanUtility(**_means(asked(unseen)))
    return Utility(
        **compared,
        retrained_on_anonymized=None if retrained is None else mean_auc(retrained, originals_NHW, findings_NF),
        ssim=fidelity.ssim,
        psnr_db=fidelity.psnr_db,
        displacement_max_px=field.largest_px if field else None,
        displacement_mean_px=field.mean_px if field else None,
        folded_share=field.folded_share if field else None,
    )


def finding_scores(classifier: nn.Module, images_NHW: Images) -> NDArray[np.float64]:
    """Logit of each finding, (N, F), of uint8 images (N, H, W)."""
    device = device_of(classifier)
    with evaluating(classifier):
        logits = [classifier(grey(images_N1HW, device)).double().cpu() for images_N1HW in _batches(images_NHW)]
    return torch.cat(logits).numpy()


def mean_auc(classifier: nn.Module, images_NHW: Images, findings_NF: Marks) -> float | None:
    """Mean over the findings that some images show and others don't; None where there is no such finding."""
    scores_NF = torch.from_numpy(finding_scores(classifier, images_NHW))
    mean = finding_aucs(scores_NF, torch.from_numpy(np.ascontiguousarray(findings_NF)))["auc"]
    return None if math.isnan(mean) else mean


def image_fidelity(originals_NHW: Images, anonymized_NHW: Images) -> Fidelity:
    """SSIM (Gaussian window of 11, sigma 1.5) and PSNR of uint8 images (N, H, W), at least 11 pixels a side.

    Raises:
        UsageError: there are no images.
    """
    from monai.metrics import PSNRMetric, SSIMMetric  # takes seconds to import

    if not len(originals_NHW):
        raise UsageError("there are no images to compare: audit with a table that has test images")
    similarity, noise = SSIMMetric(spatial_dims=2, reduction="none"), PSNRMetric(max_val=1.0, reduction="none")
    ssims, psnrs = [], []
    cpu = torch.device("cpu")
    for before, after in zip(_batches(originals_NHW), _batches(anonymized_NHW), strict=True):
        before_N1HW, after_N1HW = grey(before, cpu), grey(after, cpu)
        ssims.append(similarity(after_N1HW, before_N1HW).double().flatten())
        psnrs.append(noise(after_N1HW, before_N1HW).double().flatten())
    psnr_N = torch.cat(psnrs)
    changed_N = psnr_N[torch.isfinite(psnr_N)]
    ssim = min(1.0, float(torch.cat(ssims).mean()))  # float32 sums may exceed it by a rounding
    return Fidelity(ssim, float(changed_N.mean()) if len(changed_N) else None)


def field_measures(obfuscator: Obfuscator, originals_NHW: Images, seeds_N: NDArray[np.int64]) -> FieldMeasures | None:
    """Displacement and folds of a model's fields for some images; None of a model without a field.

    Args:
        obfuscator: of any kind.
        originals_NHW: uint8, (N, S, S) with S the model's image size, N at least 1.
        seeds_N: a seed for each image, for fields that come from one.

    Raises:
        UsageError: the images are of another size.
    """
    if not isinstance(obfuscator, FlowField | MultiScaleField):
        return None
    height, width = originals_NHW.shape[1:]
    size = obfuscator.settings.image_size
    if (height, width) != (size, size):
        raise UsageError(f"the model works on images of {size} x {size}, not {height} x {width}: use a table of that")
    largest, means, folds = [], [], []
    for batch, seeds_n in zip(
        _batches(originals_NHW), torch.split(torch.from_numpy(np.array(seeds_N)), BATCH), strict=True
    ):
        displacement_N2HW = obfuscator.displacement(grey(batch, torch.device("cpu")), seeds_n)
        grid_NHW2 = deformation.grid_at(displacement_N2HW, height, width)
        moved = deformation.displacement_pixels(grid_NHW2)
        largest.append(moved.largest)
        means.append(moved.mean)
        folds.append(deformation.folded_share(grid_NHW2))
    return FieldMeasures(
        float(torch.cat(largest).max()), float(torch.cat(means).double().mean()), float(torch.cat(folds).mean())
    )


def _by_finding(difference: AucDifference, findings_NF: Marks) -> tuple[FindingUtility, ...]:
    return tuple(
        FindingUtility(
            finding=FINDINGS[f],
            positives=int(findings_NF[:, f].sum()),
            auc_original=difference.first[f],
            auc_anonymized=difference.second[f],
            difference=difference.second[f] - difference.first[f],
            low=difference.low[f],
            high=difference.high[f],
        )
        for f in _known(findings_NF)
    )


def _means(difference: AucDifference) -> dict[str, float]:
    """A paired comparison's means, as the fields of `Utility` and `MeanUtility`."""
    return {
        "mean_original": difference.first_mean,
        "mean_anonymized": difference.second_mean,
        "mean_difference": difference.second_mean - difference.first_mean,
        "low": difference.mean.low,
        "high": difference.mean.high,
    }


def _known(findings_NF: Marks) -> list[int]:
    """The findings that some images show and others don't."""
    return [f for f in range(findings_NF.shape[1]) if 0 < int(findings_NF[:, f].sum()) < len(findings_NF)]


def _batches(images_NHW: Images) -> Iterator[Tensor]:
    """uint8, (n, 1, H, W) each."""
    for start in range(0, len(images_NHW), BATCH):
        yield torch.from_numpy(np.ascontiguousarray(images_NHW[start : start + BATCH])).unsqueeze(1)
