from pathlib import Path

import numpy as np
import pytest
import torch

from prichexy.cohort.table import SplitRows, open_table
from prichexy.config import StorageConfig
from prichexy.errors import UsageError
from prichexy.networks.classifier import Classifier
from prichexy.obfuscation import parse_settings
from prichexy.training.appearance_fit import fit_appearance
from tests.training.phantom_table import phantom_table


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> SplitRows:
    folder: Path = tmp_path_factory.mktemp("table")
    return open_table(phantom_table(folder, patients=30), StorageConfig()).split("train")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Classifier("tiny").eval()


def settings(kept: int, side: int = 64) -> object:
    return parse_settings({"kind": "multi-scale-field", "backbone": "tiny", "image_size": side, "kept": kept})


def units(rows: SplitRows) -> torch.Tensor:
    return torch.from_numpy(rows.images(np.arange(len(rows))).astype(np.float32) / 255)[:, None]


def test_codes_of_the_training_images_are_standard_and_uncorrelated(rows: SplitRows, classifier: Classifier) -> None:
    fitted = fit_appearance(rows, classifier, settings(3))
    codes = np.concatenate(
        [((fitted.classifier(image) - fitted.centre) @ fitted.axes).detach().numpy() for image in units(rows)[:, None]]
    )
    assert np.allclose(codes.mean(axis=0), 0, atol=1e-3)
    assert np.allclose(codes.T @ codes / len(codes), np.eye(3), atol=2e-2)
    axes = fitted.axes.detach().clone()
    fitted.restrain()  # what scales them while they learn is what they were fitted by
    assert torch.allclose(fitted.axes.detach(), axes, rtol=1e-4)


def test_expected_images_are_the_regression_of_images_on_codes(rows: SplitRows, classifier: Classifier) -> None:
    images = units(rows)
    errors = {}
    for kept in (0, 1, 6):
        fitted = fit_appearance(rows, classifier, settings(kept))
        expected = fitted.expected(fitted.codes(fitted.classifier(images)))
        errors[kept] = float((expected - images).detach().square().mean())
        assert torch.allclose(fitted.mean_image, images.mean(dim=0), atol=1e-4)
    assert errors[0] > errors[1] > errors[6]


def test_larger_images_are_resized(rows: SplitRows, tmp_path: Path, classifier: Classifier) -> None:
    large = open_table(phantom_table(tmp_path, patients=12, size=96), StorageConfig()).split("train")
    fitted = fit_appearance(large, classifier, settings(2))
    assert fitted.mean_image.shape == (1, 64, 64)
    assert abs(float(fitted.mean_image.mean()) - large.images(np.arange(len(large))).mean() / 255) < 0.01


def test_a_classifier_of_another_backbone_is_refused(rows: SplitRows, classifier: Classifier) -> None:
    other = parse_settings({"kind": "multi-scale-field", "backbone": "resnet18", "image_size": 64})
    with pytest.raises(UsageError, match="setting backbone: the classifier's is tiny"):
        fit_appearance(rows, classifier, other)
