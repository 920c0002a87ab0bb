import numpy as np
import pytest
import torch

from prichexy.audit.attackers import Attacker, VerifierRecipe, attackers_with
from prichexy.audit.attackers.protocol import Comparer
from prichexy.audit.evidence import Evidence, Split
from prichexy.audit.statistics import auc
from prichexy.config import VerifierConfig
from prichexy.errors import UsageError
from prichexy.networks.verifier import Verifier
from tests.audit.patterns import evidence, published

TINY = VerifierConfig(backbone="tiny", epochs=3, batch=16, learning_rate=3e-3, patience=3)
QUICK = VerifierRecipe(TINY, training_pairs=96)
RETRAINED = attackers_with(QUICK)["verifier-retrained"]
ADAPTIVE = attackers_with(QUICK)["verifier-adaptive"]


@pytest.fixture(scope="module")
def given() -> Evidence:
    return evidence(train=40, noise=0.03)


@pytest.fixture(scope="module")
def retrained(given: Evidence) -> Comparer:
    return RETRAINED.fit(given, 3)


def test_a_retrained_verifier_recognizes_patients_it_has_never_seen(given: Evidence, retrained: Comparer) -> None:
    scores = retrained.pair_scores(given.test.first_images, given.test.second_images)

    assert auc(scores, given.test.pairs.same) > 0.75
    assert retrained.details["training_pairs"] == 96
    assert 1 <= retrained.details["epochs"] <= 3


def test_the_weights_are_those_of_the_lowest_validation_loss(given: Evidence, retrained: Comparer) -> None:
    part, pairs = given.validation, given.validation.pairs

    logits = retrained.pair_scores(part.anonymized_NHW[pairs.first], part.anonymized_NHW[pairs.second])

    loss = np.logaddexp(0, np.where(pairs.same, -logits, logits)).mean()
    assert retrained.details["validation_loss"] == pytest.approx(loss, rel=1e-4)


def test_the_same_seed_trains_the_same_attacker_and_another_seed_another(given: Evidence, retrained: Comparer) -> None:
    first, second = given.test.first_images[:20], given.test.second_images[:20]
    before = torch.random.get_rng_state()

    again, other = RETRAINED.fit(given, 3), RETRAINED.fit(given, 4, training_pairs=16)

    assert np.array_equal(again.pair_scores(first, second), retrained.pair_scores(first, second))
    assert again.details == retrained.details
    assert not np.array_equal(other.pair_scores(first, second), retrained.pair_scores(first, second))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_similarity_of_all_is_that_of_each_pair(given: Evidence, retrained: Comparer) -> None:
    test = given.test

    all_QG = retrained.similarity(test.anonymized_NHW[:5], test.originals_NHW)

    rows = np.repeat(np.arange(5), 72), np.tile(np.arange(72), 5)
    pairs = retrained.pair_scores(test.anonymized_NHW[rows[0]], test.originals_NHW[rows[1]])
    np.testing.assert_allclose(all_QG.ravel(), pairs, atol=1e-4)


def test_only_the_adaptive_attacker_learns_from_originals(given: Evidence) -> None:
    def blank(part: Split) -> Split:
        return Split(np.zeros_like(part.originals_NHW), part.anonymized_NHW, part.patients_N, part.pairs)

    blanked = Evidence(blank(given.train), blank(given.validation), given.test)

    def losses(attacker: Attacker) -> list[float]:
        return [attacker.fit(each, 0, training_pairs=16).details["validation_loss"] for each in (given, blanked)]

    before, after = losses(RETRAINED)
    assert before == after
    before, after = losses(ADAPTIVE)
    assert before != pytest.approx(after, abs=0.01)


def test_nothing_is_learnt_from_constant_images(given: Evidence) -> None:
    constant = published(given, "constant")

    comparer = ADAPTIVE.fit(constant, 0, training_pairs=32)

    assert comparer.details["training_pairs"] == 32
    scores = comparer.pair_scores(constant.test.first_images, constant.test.second_images)
    assert 0.35 < auc(scores, constant.test.pairs.same) < 0.65


@pytest.mark.parametrize(
    "other",
    [
        {"compare": "batch", "augmentation": 0.3, "optimiser": "adamw", "cosine_decay": True, "patience": None},
        {"augmentation": 0.3, "decay_patience": 0},
    ],
    ids=["whole batches", "changed pairs"],
)
def test_the_recipes_of_training_are_the_attackers_too(given: Evidence, other: dict[str, object]) -> None:
    settings = VerifierConfig.model_validate({**TINY.model_dump(), "epochs": 3, **other})
    attacker = attackers_with(VerifierRecipe(settings, training_pairs=96))["verifier-adaptive"]

    trained, fixed = attacker.fit(given, 1), attacker.fit(given, 1, training_pairs=96)

    first, second = given.test.first_images, given.test.second_images
    scores = trained.pair_scores(first, second)
    assert auc(scores, given.test.pairs.same) > 0.75
    # Pairs are drawn anew for each epoch only where their number was not asked for.
    redrawn = settings.compare == "batch"
    assert np.array_equal(fixed.pair_scores(first, second), scores) is not redrawn


def test_training_stops_when_validation_no_longer_falls(given: Evidence) -> None:
    noise = published(given, "noise")
    settings = VerifierConfig(backbone="tiny", epochs=40, batch=8, learning_rate=3e-3, patience=1)
    recipe = VerifierRecipe(settings, training_pairs=16)

    comparer = attackers_with(recipe)["verifier-retrained"].fit(noise, 0)

    assert comparer.details["epochs"] < 40


def test_the_verifier_as_trained_is_used_as_it_is(given: Evidence) -> None:
    torch.manual_seed(0)
    verifier = Verifier("tiny").train()
    attacker = attackers_with(QUICK)["verifier-as-trained"]
    with_it = Evidence(given.train, given.validation, given.test, verifier=verifier)

    scores = attacker.fit(with_it, 0).pair_scores(given.test.first_images[:6], given.test.second_images[:6])

    assert verifier.training
    verifier.eval()
    sides = [torch.from_numpy(side[:6])[:, None] / 255 for side in (given.test.first_images, given.test.second_images)]
    with torch.no_grad():
        np.testing.assert_allclose(scores, verifier(*sides)[:, 0].numpy(), atol=1e-5)


def test_without_a_verifier_the_attacker_as_trained_is_refused(given: Evidence) -> None:
    attacker = attackers_with(QUICK)["verifier-as-trained"]

    assert not attacker.applies(given)
    with pytest.raises(UsageError, match="needs the verifier"):
        attacker.fit(given, 0)


def test_a_recipe_that_cant_train_is_refused() -> None:
    with pytest.raises(UsageError, match="training_pairs must be at least 4"):
        VerifierRecipe(training_pairs=2)
    with pytest.raises(UsageError, match="threads must be at least 1"):
        VerifierRecipe(threads=0)
