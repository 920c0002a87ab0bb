"""multi-scale-field against several attackers: what its losses measure, what learns, and that it helps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prichexy.networks.coarse_appearance import CoarseAppearance
from prichexy.networks.smooth_fields import low_pass, spline_field
from prichexy.networks.verifier import Verifier
from prichexy.obfuscation import ObfuscationSettings, build, parse_settings
from prichexy.obfuscation.model_files import new_network
from prichexy.training.batches import LabelledPairs, PatientPairs
from prichexy.training.compute import Compute, NonFiniteLossError, adam, adamw
from prichexy.training.generation import obfuscated_by_key
from prichexy.training.multi_scale_step import (
    MultiScaleSettings,
    Networks,
    Optimisers,
    correlated,
    evaluate_multi_scale,
    fingerprints,
    multi_scale_step,
    rank_loss,
    restart,
    restarted,
    strongest,
    thumbnails,
    update_generator,
    utility_loss,
)

PAIRS = 16


def settings(**given: object) -> ObfuscationSettings:
    own = {"kind": "multi-scale-field", "backbone": "tiny", "image_size": 64, "kept": 2, "detail": 0.5}
    return parse_settings({**own, **given})


def appearance(of: ObfuscationSettings) -> CoarseAppearance:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        made = new_network(of)
        assert isinstance(made, CoarseAppearance)
        with torch.no_grad():
            made.axes.normal_()
            made.basis.copy_(0.05 * torch.randn_like(made.basis))
            made.mean_image.fill_(0.5)
    return made


class Stripes(nn.Module):
    """A classifier that finds one thing alone: fine stripes in the middle of the image."""

    def forward(self, images_N1HW: Tensor) -> Tensor:
        fine_N1HW = images_N1HW - low_pass(images_N1HW, 1.5)
        strength_N = fine_N1HW[..., 20:44, 20:44].square().mean(dim=(1, 2, 3)).sqrt()
        return (100 * strength_N)[:, None].expand(-1, 14)


def planted(seed: int, pairs: int = PAIRS) -> LabelledPairs:
    """Patients who are known by a coarse pattern of their own; some images have fine stripes, the finding."""
    random = torch.Generator().manual_seed(seed)
    identity_P1HW = spline_field(torch.rand(pairs, 1, 12, 12, generator=random), 64)
    stripes_W = torch.sin(torch.arange(64) * (2 * torch.pi / 4))
    labels_P = torch.rand(pairs, generator=random) < 0.5
    sides = []
    for has_P in (labels_P, torch.rand(pairs, generator=random) < 0.5):
        finding_P1HW = 0.1 * has_P.float()[:, None, None, None] * stripes_W
        noise_P1HW = 0.02 * torch.randn(pairs, 1, 64, 64, generator=random)
        sides.append((0.25 + 0.5 * identity_P1HW + finding_P1HW + noise_P1HW).clamp(0, 1))
    seconds = torch.cat((sides[1], sides[1].roll(1, dims=0)))
    same = torch.tensor([1] * pairs + [0] * pairs)
    labels_PF = labels_P.float()[:, None].expand(-1, 14).repeat(2, 1)
    return LabelledPairs(sides[0].repeat(2, 1, 1, 1), seconds, same, labels_PF)


def of_patients(pairs: LabelledPairs) -> PatientPairs:
    half = len(pairs.same) // 2
    return PatientPairs(pairs.first[:half], pairs.second[:half], torch.arange(half))


def critics(*widths: float) -> tuple[Verifier, ...]:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return tuple(Verifier("tiny", width) for width in widths)


def optimisers(networks: Networks, rate: float = 1e-3) -> Optimisers:
    return Optimisers(adam(networks.generator, rate), tuple(adamw(critic, 1e-3) for critic in networks.critics))


@pytest.mark.parametrize("change", [lambda s: s + 7, lambda s: 30 * s, lambda s: 0.001 * s - 2])
def test_no_shift_and_no_scale_of_scores_changes_the_rank_loss(change: Callable[[Tensor], Tensor]) -> None:
    same = torch.eye(12, dtype=torch.bool)
    scores = torch.randn(12, 12, generator=torch.Generator().manual_seed(1)) + same.float()
    assert 0.1 < float(rank_loss(scores, same)) < 0.4
    assert torch.allclose(rank_loss(change(scores), same), rank_loss(scores, same), atol=1e-5)
    scores.requires_grad_()
    rank_loss(scores, same).backward()
    assert scores.grad is not None
    assert scores.grad.abs().max() > 1e-3
    assert abs(float(scores.grad.sum())) < 1e-6  # no way down by shifting
    assert abs(float((scores.grad * scores.detach()).sum())) < 1e-6  # and none by scaling


def test_chance_is_the_lowest_rank_loss() -> None:
    same = torch.eye(40, dtype=torch.bool)
    by_chance = torch.randn(40, 40, generator=torch.Generator().manual_seed(2))
    assert rank_loss(by_chance, same) < 0.06
    assert rank_loss(torch.zeros(40, 40), same) == 0
    assert rank_loss(by_chance + 9 * same, same) > 0.45
    assert rank_loss(by_chance - 9 * same, same) > 0.45  # who is always wrong need only be turned round
    assert rank_loss(by_chance, torch.ones(40, 40, dtype=torch.bool)) == 0


def test_the_best_attacker_counts_most() -> None:
    losses = torch.tensor([0.30, 0.10, 0.05], requires_grad=True)
    found = strongest(tuple(losses.unbind()))
    found.backward()
    assert 0.15 < float(found) <= 0.30
    assert losses.grad is not None
    assert losses.grad[0] > 0.99
    assert float(strongest([torch.tensor(0.1)] * 3)) == pytest.approx(0.1)


def test_utility_is_lost_by_another_order_and_not_by_another_level() -> None:
    logits = torch.randn(20, 14, generator=torch.Generator().manual_seed(3))
    assert float(utility_loss(3 * logits - 1, logits)) == pytest.approx(0, abs=1e-5)
    assert float(utility_loss(-logits, logits)) == pytest.approx(2, abs=1e-5)
    mixed = logits.clone()
    mixed[:, :7] = logits[torch.randperm(20, generator=torch.Generator().manual_seed(4)), :7]
    assert 0.2 < float(utility_loss(mixed, logits)) < 0.8


def test_a_finding_turned_upside_down_costs_more_than_all_findings_a_little_worse() -> None:
    logits = torch.randn(400, 14, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(400, 14, generator=torch.Generator().manual_seed(1))
    one = logits.clone()
    one[:, 3] *= -1
    assert float(utility_loss(one, logits)) == pytest.approx(2 / 14**0.5, abs=1e-4)
    assert float(utility_loss(logits + noise, logits)) < 0.4  # though its mean over findings is twice the other's


def test_training_and_publishing_make_the_same_images() -> None:
    of = settings(code_noise=0.3)
    network, images, seeds = appearance(of), planted(1).first[:4], torch.tensor([5, 2**62, 7, 8])
    with torch.no_grad():
        network.shares.copy_(torch.tensor([0.1, 0.4, 0.9]))
        trained, logits_NF = obfuscated_by_key(network, images, seeds, of, Compute())
    assert torch.allclose(build(of, network.state_dict())(images, seeds), trained, atol=1e-6)
    assert torch.allclose(logits_NF, network.classifier(images), atol=1e-6)


def test_gradients_reach_axes_basis_and_shares_and_nothing_else() -> None:
    networks = Networks(appearance(settings()), critics(0.25, 0.5))
    frozen = {name: value.clone() for name, value in networks.generator.state_dict().items()}
    judges = [{name: value.clone() for name, value in each.state_dict().items()} for each in networks.critics]
    update_generator(of_patients(planted(1)), networks, adam(networks.generator, 1e-3), MultiScaleSettings(settings()))
    with_gradient = {name for name, p in networks.generator.named_parameters() if p.grad is not None}
    assert with_gradient == {"axes", "basis", "shares"}
    for name in with_gradient:
        assert networks.generator.get_parameter(name).grad.abs().max() > 0  # type: ignore[union-attr]
    changed = {name for name, value in networks.generator.state_dict().items() if not torch.equal(value, frozen[name])}
    assert changed == with_gradient
    for critic, before in zip(networks.critics, judges, strict=True):
        assert all(p.grad is None for p in critic.parameters())
        assert all(torch.equal(value, before[name]) for name, value in critic.state_dict().items())


def test_what_is_learned_keeps_its_bounds() -> None:
    network = appearance(settings())
    network.covariance.copy_(torch.diag(torch.linspace(0.5, 3, 14)))
    codes_NF = torch.randn(3, 14, generator=torch.Generator().manual_seed(1)) * 0.05
    expected = network.expected(network.codes(codes_NF))
    with torch.no_grad():
        network.shares.copy_(torch.tensor([-0.2, 0.5, 1.3]))
    network.restrain()
    assert network.shares.tolist() == [0, 0.5, 1]
    assert torch.allclose((network.axes.T @ network.covariance @ network.axes).diagonal(), torch.ones(2), atol=1e-5)
    assert torch.allclose(network.expected(network.codes(codes_NF)), expected, atol=1e-5)


def test_a_step_updates_every_critic_and_draws_other_fields_each_time() -> None:
    networks = Networks(appearance(settings()), critics(0.25, 0.5))
    before = [critic.fc_end.weight.clone() for critic in networks.critics]
    of = MultiScaleSettings(settings(), augmentation=1.0)
    losses = multi_scale_step(of_patients(planted(1)), networks, optimisers(networks), of, 0)
    named = {"correlation_auc", "critic_1_auc", "critic_2_auc", "critic_1", "critic_2", "utility", "privacy", "total"}
    assert set(losses) == named
    assert losses["total"] == pytest.approx(losses["utility"] + losses["privacy"], abs=1e-6)
    assert all(not torch.equal(c.fc_end.weight, was) for c, was in zip(networks.critics, before, strict=True))
    still = Networks(networks.generator, ())
    first, again, other = (
        update_generator(of_patients(planted(1)), still, adam(networks.generator, 1e-12), of, step)[0]
        for step in (1, 1, 2)
    )
    assert torch.allclose(first, again, atol=1e-5)
    assert (first - other).abs().mean() > 0.005


def test_learning_hides_a_coarse_identity_and_leaves_a_fine_finding() -> None:
    """Bands of 8 to 4, 4 to 2 and below 2 px: patients are known by the first two, the finding lies in the third."""
    of = settings(coarse_px=32, detail=0.9, kept=1, fields_px=(1, 0.5, 0), exposure=0.0, contrast=0.0)
    network = appearance(of)
    network.classifier = Stripes()
    with torch.no_grad():
        network.basis.zero_()
    networks, step_settings = Networks(network, ()), MultiScaleSettings(of)
    before = evaluate_multi_scale(networks, [planted(99, 40)], step_settings)
    ready = optimisers(networks, 0.05)
    for step in range(30):
        multi_scale_step(of_patients(planted(step)), networks, ready, step_settings, step)
    after = evaluate_multi_scale(networks, [planted(99, 40)], step_settings)
    assert before["correlation_auc"] > 0.95
    assert after["correlation_auc"] < before["correlation_auc"] - 0.15
    assert after["classifier_auc"] > 0.95
    assert after["utility"] < 0.1
    assert network.shares[:2].max() < 0.3 < 0.6 < network.shares[2]


def test_validation_reports_a_second_classifier_and_draws_the_same_keys_each_time() -> None:
    networks = Networks(appearance(settings()), critics(0.25))
    of = MultiScaleSettings(settings())
    found, again = (evaluate_multi_scale(networks, [planted(5), planted(6)], of, Stripes()) for _ in range(2))
    assert found == again
    assert found["check_auc"] + found["check_auc_loss"] == 1  # stripes are found in all originals
    assert found["strongest_auc"] == max(found["correlation_auc"], found["critic_1_auc"])
    assert "check_auc" not in evaluate_multi_scale(networks, [planted(5)], of)


def test_findings_are_counted_once_an_image_however_many_pairs_it_is_in() -> None:
    given = settings(kept=0, fields_px=(0, 0, 0), exposure=0, contrast=0)  # keys change nothing
    networks, of = Networks(appearance(given), critics(0.25)), MultiScaleSettings(given)
    few = planted(5)
    again = LabelledPairs(*(torch.cat((part, part[:3], part[:3], part[:1])) for part in few))
    once, often = (evaluate_multi_scale(networks, [batch], of, Stripes()) for batch in (few, again))
    assert 0.05 < abs(once["classifier_auc"] - 0.5) < 0.5
    assert often["classifier_auc"] == pytest.approx(once["classifier_auc"], abs=1e-6)
    assert often["classifier_auc_loss"] == pytest.approx(once["classifier_auc_loss"], abs=1e-6)


def test_images_are_told_apart_by_the_least_change_and_not_by_their_batch() -> None:
    images = planted(5).first
    found = fingerprints(images)
    assert torch.equal(fingerprints(images[3:7]), found[3:7])
    assert len(torch.unique(found, dim=0)) == PAIRS  # each is in two pairs
    other = images.clone()
    other[4, 0, 9, 9] += 1 / 255
    assert (fingerprints(other) != found).any(dim=1).nonzero().tolist() == [[4]]
    assert len(torch.unique(fingerprints(torch.rand(5000, 1, 8, 8)), dim=0)) == 5000


def test_utility_is_the_mean_over_the_own_classifier_and_every_judge() -> None:
    of = MultiScaleSettings(settings())

    def taught(*judges: nn.Module) -> dict[str, float]:
        networks = Networks(appearance(settings()), critics(0.25), judges)
        return multi_scale_step(of_patients(planted(1)), networks, optimisers(networks), of)

    alone, twice, both = taught(), taught(Stripes()), taught(Stripes(), Stripes())
    assert alone["utility"] != twice["utility"]
    own, seen = alone["utility"], 2 * twice["utility"] - alone["utility"]
    assert both["utility"] == pytest.approx((own + 2 * seen) / 3, rel=1e-4)
    networks = Networks(appearance(settings()), critics(0.25), (Stripes(),))
    found = evaluate_multi_scale(networks, [planted(5)], of, Stripes())
    assert found["judge_1_auc"] == found["check_auc"]


def test_the_correlation_is_that_of_thumbnails_less_their_mean() -> None:
    images = planted(3).first[:PAIRS]
    vectors = correlated(thumbnails(images))
    cells = torch.nn.functional.avg_pool2d(images, 4).flatten(1)
    assert torch.allclose(vectors @ vectors.T, torch.corrcoef(cells - cells.mean(dim=0)), atol=1e-4)


def test_critics_start_anew_in_turn() -> None:
    assert [restarted(epoch, 2, 3) for epoch in range(10)] == [None, None, 0, None, 1, None, 2, None, 0, None]
    assert [restarted(epoch, None, 3) for epoch in range(5)] == [None] * 5


def test_a_critic_that_starts_anew_has_learned_nothing() -> None:
    networks = Networks(appearance(settings()), critics(0.25, 0.25))
    ready = optimisers(networks)
    multi_scale_step(of_patients(planted(1)), networks, ready, MultiScaleSettings(settings()))
    fresh, other = critics(0.25)[0], networks.critics[1].fc_end.weight.clone()
    restart(networks.critics[0], ready.critics[0], fresh)
    assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in networks.critics[0].state_dict().items())
    assert not ready.critics[0].state
    assert ready.critics[1].state
    assert torch.equal(networks.critics[1].fc_end.weight, other)


def test_a_loss_that_is_no_number_stops_before_anything_has_learned() -> None:
    networks = Networks(appearance(settings()), ())
    before = networks.generator.get_parameter("shares").clone()
    batch = of_patients(planted(1))
    with pytest.raises(NonFiniteLossError, match="the generator loss is not finite at step 3"):
        multi_scale_step(
            batch._replace(first=batch.first * torch.nan),
            networks,
            optimisers(networks),
            MultiScaleSettings(settings()),
            3,
        )
    assert torch.equal(networks.generator.get_parameter("shares"), before)
