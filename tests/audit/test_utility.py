"""Utility: known answers, and agreement with brute force."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from prichexy.audit.utility import (
    field_measures,
    finding_scores,
    image_fidelity,
    mean_auc,
    measure_utility,
)
from prichexy.errors import UsageError
from prichexy.networks import deformation
from prichexy.obfuscation import Obfuscator, create_untrained, load


class Brightness(nn.Module):
    """A classifier whose logits are the mean grey of the image, rising for even findings, falling for odd ones."""

    def __init__(self) -> None:
        super().__init__()
        self.signs = nn.Parameter(torch.tensor([1.0, -1.0] * 7))

    def forward(self, images_N1HW: Tensor) -> Tensor:
        return images_N1HW.mean(dim=(1, 2, 3))[:, None] * self.signs


@pytest.fixture
def images() -> NDArray[np.uint8]:
    rng = np.random.default_rng(1)
    return (rng.integers(0, 100, (80, 1, 1)) + rng.integers(0, 80, (80, 64, 64))).astype(np.uint8)


@pytest.fixture
def findings() -> NDArray[np.bool_]:
    marks = np.random.default_rng(2).random((80, 14)) < 0.3
    marks[:, 3], marks[:, 5] = True, False  # no AUC for either
    return marks


SEEDS = np.arange(80, dtype=np.int64)
PATIENTS = np.repeat(np.arange(40), 2).astype(np.str_)


def flow(folder: Path, operator: str) -> Obfuscator:
    create_untrained("flow-field", folder, 3, {"features": 4, "mu": 0.05, "image_size": 64, "operator": operator})
    return load(folder)


def test_findings_are_compared_as_scikit_learn_does(images: NDArray[np.uint8], findings: NDArray[np.bool_]) -> None:
    rng = np.random.default_rng(4)
    noisy = np.clip(images.astype(int) + rng.integers(-30, 30, (80, 1, 1)), 0, 255).astype(np.uint8)
    found = measure_utility(Brightness(), images, noisy, findings, PATIENTS, seed=1, resamples=100)
    assert [entry.finding for entry in found.findings].count("Infiltration") == 0
    assert len(found.findings) == 12
    for column, entry in zip([0, 1, 2, 4, *range(6, 14)], found.findings, strict=True):
        sign = 1 if column % 2 == 0 else -1
        expected = roc_auc_score(findings[:, column], sign * images.mean(axis=(1, 2)))
        assert entry.auc_original == pytest.approx(expected, abs=2e-3)  # float32 sums may tie or untie an image
        assert entry.difference == pytest.approx(entry.auc_anonymized - entry.auc_original)
        assert entry.low < entry.difference < entry.high
        assert entry.positives == findings[:, column].sum()
    assert found.mean_original == pytest.approx(np.mean([entry.auc_original for entry in found.findings]))
    assert found.mean_difference == pytest.approx(np.mean([entry.difference for entry in found.findings]))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.mean_difference < found.high
    assert (found.folded_share, found.displacement_max_px, found.retrained_on_anonymized) == (None, None, None)


def test_unchanged_images_lose_nothing(images: NDArray[np.uint8], findings: NDArray[np.bool_]) -> None:
    found = measure_utility(Brightness(), images, images, findings, PATIENTS, seed=1, resamples=50)
    assert (found.mean_difference, found.low, found.high) == (0, 0, 0)
    assert found.ssim == pytest.approx(1, abs=1e-6)
    assert found.psnr_db is None


def test_of_two_classifiers_the_one_that_loses_more_is_counted(
    images: NDArray[np.uint8], findings: NDArray[np.bool_]
) -> None:
    findings[:, 0] = images.mean((1, 2)) > np.median(images.mean((1, 2)))
    flat = np.full_like(images, 90)
    blind = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 14))
    nn.init.zeros_(blind[1].weight)
    seeing_first = measure_utility(Brightness(), images, flat, findings, PATIENTS, 1, unseen=blind, resamples=50)
    assert seeing_first.unseen is not None
    assert (seeing_first.unseen.mean_original, seeing_first.unseen.mean_difference) == (0.5, 0)
    seeing_second = measure_utility(blind, images, flat, findings, PATIENTS, 1, unseen=Brightness(), resamples=50)
    assert seeing_second.unseen is not None
    assert seeing_second.unseen.mean_original == seeing_first.mean_original
    assert seeing_second.unseen.mean_anonymized == 0.5
    lost = seeing_second.unseen.mean_original - 0.5
    assert lost > 0.01
    assert seeing_first.loss == seeing_second.loss == pytest.approx(lost)
    assert seeing_second.counted == pytest.approx(0.5 - lost)


def test_the_same_seed_gives_the_same_intervals(images: NDArray[np.uint8], findings: NDArray[np.bool_]) -> None:
    noisy = np.random.default_rng(4).permutation(images)
    first, second, other = (
        measure_utility(Brightness(), images, noisy, findings, PATIENTS, seed=seed, resamples=50) for seed in (1, 1, 2)
    )
    assert first == second
    assert [entry.low for entry in first.findings] != [entry.low for entry in other.findings]


def test_labels_without_both_kinds_give_no_means(images: NDArray[np.uint8]) -> None:
    found = measure_utility(Brightness(), images, images, np.zeros((80, 14), np.bool_), PATIENTS, seed=1)
    assert (found.findings, found.mean_original, found.mean_difference) == ((), None, None)
    assert mean_auc(Brightness(), images, np.ones((80, 14), np.bool_)) is None


def test_scores_do_not_depend_on_the_batch_and_leave_the_mode(images: NDArray[np.uint8]) -> None:
    classifier = Brightness().train()
    scores = finding_scores(classifier, images)
    assert scores.shape == (80, 14)
    assert np.allclose(scores[:, 0], images.mean(axis=(1, 2)) / 255, atol=1e-6)
    assert np.array_equal(finding_scores(classifier, images[70:71]), scores[70:71])
    assert classifier.training


def test_ssim_and_psnr_agree_with_their_definitions() -> None:
    rng = np.random.default_rng(3)
    before = rng.integers(0, 256, (2, 20, 24)).astype(np.uint8)
    after = np.clip(before.astype(int) + rng.integers(-40, 40, before.shape), 0, 255).astype(np.uint8)
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / np.outer(taps, taps).sum()
    ssims, psnrs = [], []
    for x, y in zip(before / 255, after / 255, strict=True):
        local = []
        for row in range(20 - 10):
            for column in range(24 - 10):
                a, b = x[row : row + 11, column : column + 11], y[row : row + 11, column : column + 11]
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a, var_b = (window * a * a).sum() - mean_a**2, (window * b * b).sum() - mean_b**2
                cov = (window * a * b).sum() - mean_a * mean_b
                c1, c2 = 0.01**2, 0.03**2
                local.append(
                    (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
                )
        ssims.append(np.mean(local))
        psnrs.append(-10 * np.log10(((x - y) ** 2).mean()))
    found = image_fidelity(before, after)
    assert found.ssim == pytest.approx(np.mean(ssims), abs=1e-4)
    assert found.psnr_db == pytest.approx(np.mean(psnrs), abs=1e-4)
    half = image_fidelity(np.concatenate([before, before]), np.concatenate([before, after]))
    assert half.psnr_db == pytest.approx(np.mean(psnrs), abs=1e-4)  # of those that changed
    assert half.ssim == pytest.approx((1 + np.mean(ssims)) / 2, abs=1e-4)


def test_the_field_is_measured_in_pixels(images: NDArray[np.uint8], tmp_path: Path) -> None:
    model = flow(tmp_path, "corrected")
    found = field_measures(model, images, SEEDS)
    assert found is not None
    unit = torch.from_numpy(images).unsqueeze(1) / 255
    moved = model.displacement(unit) * (63 / 2)  # type: ignore[attr-defined]
    lengths = torch.linalg.vector_norm(moved, dim=1)
    assert found.largest_px == pytest.approx(float(lengths.max()), abs=1e-3)
    assert found.mean_px == pytest.approx(float(lengths.mean()), abs=1e-3)
    assert 0 < found.largest_px <= 0.05 * 63 / 2 * 2**0.5 + 1e-3
    assert found.folded_share == 0.0


def test_the_reference_operator_folds_at_the_border(images: NDArray[np.uint8], tmp_path: Path) -> None:
    found = field_measures(flow(tmp_path, "reference"), images[:4], SEEDS[:4])
    assert found is not None
    ring = deformation.folded_share(deformation.sampling_grid(torch.zeros(1, 2, 64, 64), 0.05, "reference"))
    assert found.folded_share == pytest.approx(float(ring), abs=0.02)
    assert found.folded_share > 0


def test_a_model_without_a_field_has_no_measures_and_another_size_is_refused(
    images: NDArray[np.uint8], tmp_path: Path
) -> None:
    create_untrained("dp-pix", tmp_path / "dp", 0, {"image_size": 64})
    assert field_measures(load(tmp_path / "dp"), images, SEEDS) is None
    with pytest.raises(UsageError, match="works on images of 64 x 64, not 48 x 48"):
        field_measures(flow(tmp_path / "flow", "corrected"), images[:, :48, :48], SEEDS)
    with pytest.raises(UsageError, match="no images to compare"):
        image_fidelity(images[:0], images[:0])
