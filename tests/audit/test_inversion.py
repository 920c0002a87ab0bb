from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prichexy.audit.attackers import ATTACKERS
from prichexy.audit.attackers.inversion import GUESSES, Inversion, InvertingComparer, inverted, psnr_db, way_back
from prichexy.audit.evidence import Evidence, Images, Split
from prichexy.audit.statistics import auc
from prichexy.cohort.phantom import PhantomCohort, render
from prichexy.errors import UsageError
from prichexy.networks.deformation import Operator, displacement, grid_at, warp
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.networks.verifier import Verifier
from prichexy.obfuscation.flow_field import FlowField
from prichexy.obfuscation.identity import Identity
from prichexy.obfuscation.settings import ObfuscationSettings
from tests.audit.keyed_model import Rolled, published_with
from tests.audit.patterns import evidence


@pytest.fixture(scope="module")
def chests() -> Tensor:
    """Phantom radiographs, float32 in [0, 1], (4, 1, 128, 128)."""
    cohort = PhantomCohort(2, seed=1, studies=(2, 2), size=128)
    images = [torch.from_numpy(np.array(render(study), dtype=np.float32)) for study in cohort.studies[:4]]
    return torch.stack(images)[:, None] / 255


def smooth_field(images_N1HW: Tensor, mu: float, operator: Operator = "corrected") -> Tensor:
    flow = torch.rand(len(images_N1HW), 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    side = images_N1HW.shape[-1]
    return displacement(F.interpolate(flow, size=(side, side), mode="bicubic").clamp(-1, 1), mu, operator)


def eight_bits(images_N1HW: Tensor) -> Images:
    return (images_N1HW[:, 0] * 255).round().to(torch.uint8).numpy()


def as_published(images_N1HW: Tensor, field_N2HW: Tensor) -> Tensor:
    side = images_N1HW.shape[-1]
    return (warp(images_N1HW, grid_at(field_N2HW, side, side)) * 255).round() / 255


@pytest.mark.parametrize("mu", [0.01, 0.05])
def test_a_known_field_is_undone_above_35_db(chests: Tensor, mu: float) -> None:
    field = smooth_field(chests, mu)
    published = as_published(chests, field)

    recovered = inverted(published, lambda _: field)

    gained = psnr_db(eight_bits(recovered), eight_bits(chests)) - psnr_db(eight_bits(published), eight_bits(chests))
    assert psnr_db(eight_bits(recovered), eight_bits(chests)) > 35
    assert gained > 8


def test_the_way_back_leads_back() -> None:
    field = smooth_field(torch.zeros(2, 1, 64, 64), 0.03)

    back, found = way_back(field)

    there = back + F.grid_sample(field, back, padding_mode="border", align_corners=True).permute(0, 2, 3, 1)
    inside = (slice(None), slice(3, -3), slice(3, -3))
    assert (there - grid_at(torch.zeros_like(field), 64, 64))[inside].abs().max() < 1e-5
    assert found.min() == 1


def test_what_the_published_operator_destroys_at_the_border_stays_as_published(chests: Tensor) -> None:
    field = smooth_field(chests, 0.01, "reference")
    published = as_published(chests, field)

    recovered = inverted(published, lambda _: field)

    assert torch.equal(recovered[..., 0, :], published[..., 0, :])
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert psnr_db(eight_bits(recovered[inner]), eight_bits(chests[inner])) > 40


def flow_field(mu: float) -> FlowField:
    torch.manual_seed(0)
    settings = ObfuscationSettings(kind="flow-field", image_size=64, mu=mu, features=4)
    generator = FlowFieldGenerator(features=4)
    with torch.no_grad():
        for parameter in list(generator.parameters())[-2:]:
            parameter.mul_(20)  # far-reaching fields, as an untrained generator has none
    return FlowField(settings, generator)


def anonymized(given: Split, model: FlowField) -> Split:
    grey = torch.from_numpy(given.originals_NHW)[:, None].float() / 255
    images = eight_bits(model(grey, torch.zeros(len(grey), dtype=torch.int64)))
    return Split(given.originals_NHW, images, given.patients_N, given.pairs)


def test_whoever_holds_the_generator_recovers_originals_and_recognizes_them() -> None:
    plain, model = evidence(noise=0.02), flow_field(mu=0.1)
    splits = [anonymized(part, model) for part in (plain.train, plain.validation, plain.test)]
    given = Evidence(*splits, obfuscator=model)
    attacker = ATTACKERS["inversion"]

    comparer = attacker.fit(given, 0)
    scores = comparer.pair_scores(given.test.first_images, given.test.second_images)

    assert attacker.applies(given)
    assert comparer.details["inversion_psnr_db"] > comparer.details["published_psnr_db"] + 5
    assert auc(scores, given.test.pairs.same) > 0.95
    all_pairs = comparer.similarity(given.test.anonymized_NHW[:4], given.test.originals_NHW)
    at = np.flatnonzero(given.test.pairs.first < 4)
    expected = all_pairs[given.test.pairs.first[at], given.test.pairs.second[at]]
    np.testing.assert_allclose(scores[at], expected, atol=1e-3)


def test_without_a_field_there_is_nothing_to_undo() -> None:
    plain = evidence()
    given = Evidence(
        plain.train, plain.validation, plain.test, obfuscator=Identity(ObfuscationSettings(kind="identity"))
    )

    assert not ATTACKERS["inversion"].applies(given)
    assert not ATTACKERS["inversion"].applies(plain)
    with pytest.raises(UsageError, match="flow-field"):
        ATTACKERS["inversion"].fit(given, 0)


def scored(given: Evidence) -> tuple[float, Mapping[str, float]]:
    comparer = ATTACKERS["inversion"].fit(given, 0)
    return auc(
        comparer.pair_scores(given.test.first_images, given.test.second_images), given.test.pairs.same
    ), comparer.details


def test_of_a_keyed_model_only_the_holder_of_the_keys_recovers_anything() -> None:
    """Attacker and custodian draw from the same seed; their keys differ all the same."""
    found, details = scored(published_with(Rolled(), evidence(noise=0.02)))

    assert details["with_key_psnr_db"] > 80  # exactly
    assert details["inversion_psnr_db"] < 20
    assert details["published_psnr_db"] < 20
    assert details["with_key_auc"] > 0.95
    assert found < 0.65


def test_where_a_verifier_knows_nothing_correlation_compares_what_is_recovered() -> None:
    torch.manual_seed(0)
    ignorant = Verifier("tiny")
    nn.init.zeros_(ignorant.fc_end.weight)  # every pair has the same logit
    plain = replace(evidence(noise=0.02), verifier=ignorant)

    _, details = scored(published_with(Rolled(), plain))

    assert details["with_key_auc"] > 0.95


def test_the_custodians_keys_change_nothing_but_the_details() -> None:
    plain = evidence(noise=0.02)
    known, unknown = (published_with(Rolled(), plain, knows_keys=knows) for knows in (True, False))

    (found, details), (again, others) = scored(known), scored(unknown)

    assert again == found
    assert set(details) - set(others) == {"with_key_psnr_db", "with_key_auc"}
    assert others.items() <= details.items()


def test_the_score_of_several_guesses_is_their_mean_for_pairs_and_for_retrieval() -> None:
    given = published_with(Rolled(), evidence(noise=0.02))
    comparer, test = Inversion().fit(given, 0), given.test

    scores = comparer.pair_scores(test.first_images, test.second_images)

    all_QG = comparer.similarity(test.anonymized_NHW, test.originals_NHW)
    np.testing.assert_allclose(scores, all_QG[test.pairs.first, test.pairs.second], atol=1e-5)
    single = [InvertingComparer([undo], comparer.inner, {}) for undo in comparer.inversions]
    each = [one.pair_scores(test.first_images, test.second_images) for one in single]
    assert len(each) == GUESSES
    np.testing.assert_allclose(scores, np.mean(each, axis=0), atol=1e-6)


def test_psnr_is_ten_times_the_logarithm() -> None:
    black = np.zeros((2, 10, 10), dtype=np.uint8)
    grey = black.copy()
    grey[0] += 51

    assert psnr_db(grey[:1], black[:1]) == pytest.approx(20 * np.log10(5))
    assert psnr_db(black, black) == pytest.approx(10 * np.log10(255**2 * 100))
