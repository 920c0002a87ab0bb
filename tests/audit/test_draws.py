"""What an attacker makes for himself of a keyed model."""

from dataclasses import replace

import numpy as np
import pytest

from prichexy.audit.attackers import ATTACKERS, VerifierRecipe, attackers_with
from prichexy.audit.attackers.draws import DRAWS, SEVERAL, Draws, anonymized, fresh_draws, own_keys, with_draws
from prichexy.audit.attackers.verifier_training import trained_verifier
from prichexy.audit.evidence import Evidence, Images
from prichexy.audit.statistics import auc
from prichexy.config import VerifierConfig
from prichexy.obfuscation.dp_pix import DPPix
from prichexy.obfuscation.identity import Identity
from prichexy.obfuscation.settings import ObfuscationSettings
from tests.audit.keyed_model import Keyed, Rolled, patterned, published_with
from tests.audit.patterns import evidence


def test_no_key_is_drawn_twice_and_none_is_the_custodians() -> None:
    drawn = [own_keys(seed, number, 50) for seed in (0, 42) for number in range(3)]
    custodian = [np.random.default_rng((42, split)).integers(0, 2**63, 50, dtype=np.int64) for split in range(3)]

    everyone = np.concatenate([*drawn, *custodian])

    assert len(np.unique(everyone)) == len(everyone)
    assert np.array_equal(own_keys(42, 2, 50), drawn[5])
    assert everyone.min() >= 0
    assert everyone.max() > 2**62


def test_each_epoch_sees_other_versions_until_they_come_again() -> None:
    originals = evidence().train.originals_NHW
    draws = Draws(Rolled(), originals, seed=3)

    seen = [draws.of_epoch(epoch) for epoch in range(DRAWS + 1)]

    assert len({images.tobytes() for images in seen[:DRAWS]}) == DRAWS
    assert seen[DRAWS] is seen[0]
    assert np.array_equal(seen[1], anonymized(Rolled(), originals, own_keys(3, 1, len(originals))))
    for image, original in zip(seen[1][:3], originals[:3], strict=True):
        assert sorted(image.ravel()) == sorted(original.ravel())  # it is that image, rolled


def test_versions_beyond_the_memory_are_made_again_when_they_are_asked_for() -> None:
    originals, model = evidence().train.originals_NHW, Rolled()
    kept, sparing = (Draws(model, originals, 0, count=2, held_bytes=size) for size in (2**30, originals.nbytes))

    first, second = kept.of_epoch(0), kept.of_epoch(1)
    made = model.calls
    again = [sparing.of_epoch(epoch) for epoch in (0, 1, 2, 2)]

    assert made == 2 * len(originals)
    assert model.calls - made == 3 * len(originals)
    for images, expected in zip(again, (first, second, first, first), strict=True):
        assert np.array_equal(images, expected)
    assert again[3] is again[2]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"obfuscator": None}, "the attacker has no model"),
        ({"obfuscator": Identity(ObfuscationSettings(kind="identity", image_size=64))}, "there is no key"),
        ({"obfuscator": Keyed(lambda image, key: image, size=96)}, "the model works at another size"),
        ({"native": True}, "images were anonymized at another size"),
    ],
)
def test_without_a_key_or_at_another_size_nothing_is_drawn(changes: dict[str, object], why: str) -> None:
    given = replace(published_with(Rolled(), evidence()), **changes)  # type: ignore[arg-type]

    assert fresh_draws(given, 0) is None, why
    assert with_draws(given, 0) is given.train


def test_dp_pix_is_keyed_as_well() -> None:
    model = DPPix(ObfuscationSettings(kind="dp-pix", cell=8, image_size=64))
    given = published_with(model, evidence())

    draws = fresh_draws(given, 0)

    assert draws is not None
    assert not np.array_equal(draws.of_epoch(0), draws.of_epoch(1))
    assert not np.array_equal(draws.of_epoch(0), given.train.anonymized_NHW)


def test_several_versions_are_the_split_itself_and_others_of_the_same_images() -> None:
    given = published_with(Rolled(), evidence())
    count = len(given.train)

    whole = with_draws(given, 0)
    half = with_draws(given, 0, held_bytes=4 * given.train.originals_NHW.nbytes)
    sparing = with_draws(given, 0, held_bytes=3 * given.train.originals_NHW.nbytes)

    assert (len(whole), len(half), len(sparing)) == (SEVERAL * count, 2 * count, count)
    assert np.array_equal(whole.anonymized_NHW[:count], given.train.anonymized_NHW)
    assert np.array_equal(whole.anonymized_NHW[: 2 * count], half.anonymized_NHW)
    for number in range(SEVERAL):
        rows = slice(number * count, (number + 1) * count)
        assert np.array_equal(whole.originals_NHW[rows], given.train.originals_NHW)
        assert (whole.patients_N[rows] == given.train.patients_N).all()
    versions = whole.anonymized_NHW.reshape(SEVERAL, -1)
    assert len({version.tobytes() for version in versions}) == SEVERAL


def test_several_draws_teach_the_linear_metric_what_a_key_changes() -> None:
    given = published_with(patterned(0.1), evidence(train=14, test=40, noise=0.12))
    blind = replace(given, obfuscator=None)

    def found(one: Evidence) -> float:
        comparer = ATTACKERS["linear-metric"].fit(one, 0)
        return auc(comparer.pair_scores(one.test.first_images, one.test.second_images), one.test.pairs.same)

    assert found(given) > found(blind) + 0.02


@pytest.mark.parametrize("compare", ["pairs", "batch"])
def test_a_verifier_is_trained_on_the_versions_of_each_epoch(compare: str) -> None:
    given, asked = evidence(), []
    blank = np.zeros_like(given.train.anonymized_NHW)

    def published(epoch: int) -> Images:
        asked.append(epoch)
        return given.train.anonymized_NHW if epoch % 2 else blank

    settings = VerifierConfig.model_validate(
        {"backbone": "tiny", "epochs": 3, "batch": 16, "learning_rate": 1e-3, "patience": None, "compare": compare}
    )
    recipe = VerifierRecipe(settings, training_pairs=32)

    varied = trained_verifier(given.train, given.validation, False, recipe, 0, None, published)
    fixed = trained_verifier(
        given.train, given.validation, False, recipe, 0, None, lambda _: given.train.anonymized_NHW
    )
    plain = trained_verifier(given.train, given.validation, False, recipe, 0)

    assert asked == [0, 0, 1, 2]  # the first is asked for once more, to count its pairs
    assert fixed.validation_loss == plain.validation_loss
    assert varied.validation_loss != plain.validation_loss


def test_the_trained_attackers_draw_of_keyed_models_only() -> None:
    settings = VerifierConfig(backbone="tiny", epochs=2, batch=16, learning_rate=1e-3, patience=None)
    everyone = attackers_with(VerifierRecipe(settings, training_pairs=16))
    model = Rolled()
    given = published_with(model, evidence())
    before = model.calls

    for name in ("verifier-retrained", "verifier-adaptive"):
        keyed = everyone[name].fit(given, 0)
        plain = everyone[name].fit(replace(given, obfuscator=None), 0)
        assert (keyed.details["versions"], plain.details["versions"]) == (2, 1)
        assert keyed.details["validation_loss"] != plain.details["validation_loss"]

    assert model.calls - before == 2 * 2 * len(given.train)
