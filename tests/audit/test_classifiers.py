"""The audit's own classifiers: they learn, reproducibly, and the one on originals is trained once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prichexy.audit.classifiers import train_classifier, unseen_classifier
from prichexy.audit.utility import LabelledSplit, finding_scores, mean_auc, measure_utility
from prichexy.config import AuditConfig, ClassifierConfig
from prichexy.errors import UsageError

QUICK = ClassifierConfig(backbone="tiny", optimiser="adam", learning_rate=1e-2, epochs=2, batch=8, patience=2)


def learnable(count: int, seed: int) -> LabelledSplit:
    """Images whose left half is bright where they have every even finding."""
    rng = np.random.default_rng(seed)
    marks = np.zeros((count, 14), np.bool_)
    marks[:, ::2] = (np.arange(count) % 2 == 0)[:, None]
    images = rng.integers(0, 60, (count, 64, 64))
    images[marks[:, 0], :, :32] += 120
    return LabelledSplit(images.astype(np.uint8), marks)


def test_a_classifier_trained_on_what_can_be_learned_learns_it_and_the_same_again() -> None:
    train, validation, test = learnable(32, 1), learnable(8, 2), learnable(24, 3)
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    first = train_classifier(train, validation, QUICK, seed=5)
    assert torch.equal(torch.rand(3), expected)  # the caller's random numbers are its own
    second = train_classifier(train, validation, QUICK, seed=5)
    other = train_classifier(train, validation, QUICK, seed=6)
    scores = [finding_scores(network, test.images_NHW) for network in (first, second, other)]
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])
    assert mean_auc(first, test.images_NHW, test.findings_NF) == 1.0
    found = measure_utility(
        first, test.images_NHW, test.images_NHW, test.findings_NF, np.arange(24), 1, retrained=second, resamples=20
    )
    assert found.retrained_on_anonymized == 1.0


def test_training_stops_when_validation_stalls_and_keeps_the_lowest(monkeypatch: pytest.MonkeyPatch) -> None:
    losses, epochs = iter([0.5, 0.4, 0.6, 0.7, 0.1]), []

    def evaluate(classifier: nn.Module, *_: object) -> dict[str, float]:
        epochs.append(next(classifier.parameters()).detach().clone())
        return {"classifier": next(losses)}

    monkeypatch.setattr("prichexy.audit.classifiers.evaluate_classifier", evaluate)
    settings = ClassifierConfig(backbone="tiny", epochs=9, batch=8, patience=2)
    trained = train_classifier(learnable(16, 1), learnable(8, 2), settings, seed=5)
    assert len(epochs) == 4
    assert torch.equal(next(trained.parameters()), epochs[1])
    with pytest.raises(UsageError, match="without training and validation images"):
        train_classifier(learnable(0, 1), learnable(8, 2), settings, seed=5)


@pytest.mark.usefixtures("local_ray")
def test_the_unseen_classifier_is_trained_once_and_is_none_of_a_training_with_the_same_seed(tmp_path: Path) -> None:
    config = AuditConfig(model="models:/some/1", table="table", out=str(tmp_path), classifier=QUICK, seed=5)
    train, validation, test = learnable(32, 1), learnable(8, 2), learnable(24, 3)
    first = unseen_classifier(train, validation, config)
    (kept,) = tmp_path.rglob("*.safetensors")
    written = kept.stat().st_mtime_ns
    again = unseen_classifier(train, validation, config)
    assert kept.stat().st_mtime_ns == written
    scores = finding_scores(first, test.images_NHW)
    assert np.array_equal(finding_scores(again, test.images_NHW), scores)
    assert mean_auc(first, test.images_NHW, test.findings_NF) == 1.0
    of_a_training = train_classifier(train, validation, QUICK, seed=5)
    assert not np.array_equal(finding_scores(of_a_training, test.images_NHW), scores)
    unseen_classifier(learnable(32, 4), validation, config)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2, "other images, another classifier"
