import copy
import io
import math
import pickle
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prichexy.errors import PrichexyError, UsageError
from prichexy.networks.classifier import Classifier
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.networks.privacy_net import PrivacyNetGenerator
from prichexy.networks.verifier import Verifier
from prichexy.obfuscation.settings import ObfuscationSettings
from prichexy.training.adversarial_step import (
    AdversarialSettings,
    Networks,
    adversarial_step,
    evaluate_adversarial,
    published_optimisers,
    update_generator,
)
from prichexy.training.batches import ImagePairs, LabelledImages, LabelledPairs
from prichexy.training.classifier_step import classifier_step, evaluate_classifier
from prichexy.training.compute import Compute, NonFiniteLossError, adam, frozen, sgd
from prichexy.training.generation import obfuscated
from prichexy.training.losses import findings_loss, recognition_loss
from prichexy.training.pretraining_step import evaluate_pretraining, pretraining_step
from prichexy.training.schedule import EarlyStopping, LowestLosses, decay_on_plateau
from prichexy.training.seeds import random_state, restore_random_state, seed_everything
from prichexy.training.state import restore_training, training_state
from prichexy.training.verifier_step import evaluate_verifier, verifier_step

FLOW = ObfuscationSettings(kind="flow-field", image_size=64, mu=0.05, features=4)
DRAWN = ObfuscationSettings(kind="privacy-net", image_size=64, features=4)
PLAIN = Compute(channels_last=False)


def networks(kind: str = "flow-field") -> Networks:
    torch.manual_seed(0)
    generator = FlowFieldGenerator(features=4) if kind == "flow-field" else PrivacyNetGenerator(features=4)
    return Networks(generator, Verifier("tiny"), Classifier("tiny"))


def pairs(count: int = 4, seed: int = 0) -> LabelledPairs:
    random = torch.Generator().manual_seed(seed)
    first, second = (torch.rand(count, 1, 64, 64, generator=random) for _ in range(2))
    same = torch.arange(count) % 2
    return LabelledPairs(first, second, same, torch.randint(0, 2, (count, 14), generator=random))


def parameters(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("settings", [FLOW, DRAWN], ids=lambda settings: settings.kind)
def test_the_generators_gradient_is_that_of_unfrozen_critics(settings: ObfuscationSettings) -> None:
    ours = networks(settings.kind)
    plain = copy.deepcopy(ours)
    batch = LabelledPairs(*(value.float() for value in pairs()))
    update_generator(batch, ours, adam(ours.generator), AdversarialSettings(settings, compute=PLAIN))
    plain.verifier.eval(), plain.classifier.eval()
    images = obfuscated(plain.generator.train(), batch.first, settings, PLAIN)
    recognized = -torch.log(1 - torch.sigmoid(plain.verifier(images, batch.second).double())).mean()
    (findings_loss(plain.classifier(images), batch.labels) + recognized).backward()
    for mine, theirs in zip(ours.generator.parameters(), plain.generator.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-9)
    assert all(p.grad is None for p in (*ours.verifier.parameters(), *ours.classifier.parameters()))
    assert all(p.requires_grad for p in (*ours.verifier.parameters(), *ours.classifier.parameters()))


@pytest.mark.parametrize("settings", [FLOW, DRAWN], ids=lambda settings: settings.kind)
@pytest.mark.parametrize("compute", [PLAIN, Compute(bf16=True, clip_norm=1.0)], ids=["float32", "bf16"])
def test_an_adversarial_step_updates_all_three(settings: ObfuscationSettings, compute: Compute) -> None:
    trio = networks(settings.kind)
    for network in trio:
        compute.prepare(network, "cpu")
    before = [parameters(network) for network in trio]
    losses = adversarial_step(pairs(), trio, published_optimisers(trio), AdversarialSettings(settings, compute=compute))
    assert losses["total"] == pytest.approx(losses["auxiliary"] + losses["verification"], rel=1e-6)
    assert 0.3 < losses["verifier"] < 4  # the small verifier starts with cosines between -0.2 and 0.8 as sure
    assert losses["classifier"] == pytest.approx(math.log(2), abs=0.3)
    for network, old in zip(trio, before, strict=True):
        moved = (parameters(network) - old).abs().max()
        assert 1e-6 < float(moved) < 1e-3


def test_the_weights_of_the_losses_count() -> None:
    trio = networks()
    settings = AdversarialSettings(FLOW, auxiliary_weight=2, verification_weight=0.5, compute=PLAIN)
    losses = adversarial_step(pairs(), trio, published_optimisers(trio), settings)
    assert losses["total"] == pytest.approx(2 * losses["auxiliary"] + 0.5 * losses["verification"], rel=1e-6)


def test_stored_bytes_are_the_same_images() -> None:
    stored = torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    generator = networks().generator
    batches = ([LabelledImages(stored, torch.zeros(4, 14))], [LabelledImages(stored / 255, torch.zeros(4, 14))])
    first, second = (evaluate_pretraining(generator, each, FLOW, PLAIN)["pretraining"] for each in batches)
    assert first == pytest.approx(second, rel=1e-6)
    assert first > 1e-4


def test_each_step_learns_its_batch() -> None:
    trio, batch = networks(), pairs()
    optimisers = adam(trio.generator, 1e-3), adam(trio.verifier, 1e-3), sgd(trio.classifier, 1e-2)
    labelled, paired = LabelledImages(batch.first, batch.labels), ImagePairs(batch.first, batch.second, batch.same)
    errors = [
        pretraining_step(batch.first, trio.generator, optimisers[0], FLOW, PLAIN)["pretraining"] for _ in range(9)
    ]
    same = [verifier_step(paired, trio.verifier, optimisers[1], PLAIN)["verifier"] for _ in range(9)]
    found = [classifier_step(labelled, trio.classifier, optimisers[2], PLAIN)["classifier"] for _ in range(9)]
    assert errors[-1] < 0.9 * errors[0]
    assert same[-1] < 0.5 * same[0]
    assert found[-1] < 0.7 * found[0]


def test_clipping_limits_the_gradient() -> None:
    trio = networks()
    batch = LabelledPairs(*(value.float() for value in pairs()))
    settings = AdversarialSettings(FLOW, compute=Compute(channels_last=False, clip_norm=1e-3))
    update_generator(batch, trio, adam(trio.generator), settings)
    norm = torch.cat([p.grad.flatten() for p in trio.generator.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_with_step_and_learning_rate() -> None:
    trio = networks()
    optimisers = published_optimisers(trio)
    before = [parameters(network) for network in trio]
    broken = pairs()
    broken.first[0, 0, 0, 0] = math.nan
    with pytest.raises(NonFiniteLossError) as error:
        adversarial_step(broken, trio, optimisers, AdversarialSettings(FLOW, compute=PLAIN), step=17)
    expected = "the generator loss is not finite at step 17 (learning rate 0.0001)"
    assert str(error.value).startswith(expected)
    assert isinstance(error.value, PrichexyError)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    for network, old in zip(trio, before, strict=True):
        torch.testing.assert_close(parameters(network), old, rtol=0, atol=0)


def test_a_surely_recognized_pair_costs_its_logit_and_stays_finite() -> None:
    logits = torch.tensor([[100.0], [0.0]], requires_grad=True)
    loss = recognition_loss(logits)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((100 + math.log(2)) / 2, rel=1e-12)
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([0.5, 0.25])


def test_frozen_networks_are_as_before_afterwards() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    network[0].bias.requires_grad_(False)
    with frozen(network):
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())
    assert network[1].training
    assert [p.requires_grad for p in network.parameters()] == [True, False, True, True]


def test_evaluations_are_those_of_all_samples_whatever_the_batches() -> None:
    trio, whole = networks(), pairs(6)
    parts = [LabelledPairs(*(value[:2] for value in whole)), LabelledPairs(*(value[2:] for value in whole))]
    settings = AdversarialSettings(FLOW, compute=PLAIN)
    at_once, in_parts = (evaluate_adversarial(trio, batches, settings) for batches in ([whole], parts))
    assert at_once == pytest.approx(in_parts, rel=1e-4)
    assert at_once["total"] == pytest.approx(at_once["auxiliary"] + at_once["verification"], rel=1e-6)
    assert 0 <= at_once["verifier_auc"] <= 1
    assert trio.generator.training


class Brightness(nn.Module):
    """A critic whose scores are known: how much brighter than 0.5 an image is, and how alike two are."""

    def __init__(self, findings: int = 0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.findings = findings

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        brightness = first.mean(dim=(1, 2, 3))[:, None] - 0.5
        if second is None:
            return self.scale * brightness.expand(-1, self.findings)
        return -self.scale * (first - second).abs().mean(dim=(1, 2, 3))[:, None]


def test_aucs_are_of_the_findings_that_some_images_have() -> None:
    levels = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, 1, 1, 1).expand(4, 1, 64, 64)
    labels = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
    metrics = evaluate_classifier(Brightness(3), [LabelledImages(levels, labels)], PLAIN)
    assert {name: metrics[name] for name in metrics if name.startswith("auc")} == {
        "auc": pytest.approx(0.875),
        "auc/0": 1,
        "auc/1": 0.75,
    }
    paired = ImagePairs(levels, levels.flip(0), torch.tensor([0, 1, 1, 0]))
    metrics = evaluate_verifier(Brightness(), [paired], PLAIN)
    assert metrics["auc"] == 1
    distances = [0.3, 0.1, 0.1, 0.3]
    expected = sum(math.log1p(math.exp(d if same else -d)) for d, same in zip(distances, (0, 1, 1, 0), strict=True)) / 4
    assert metrics["verifier"] == pytest.approx(expected, rel=1e-5)
    alike = evaluate_verifier(Brightness(), [ImagePairs(levels, levels, torch.ones(4))], PLAIN)
    assert math.isnan(alike["auc"])


def test_an_empty_validation_set_is_refused() -> None:
    with pytest.raises(UsageError, match="validation set is empty"):
        evaluate_verifier(Verifier("tiny"), [], PLAIN)


def test_two_halves_gathered_are_the_whole() -> None:
    trio, whole = networks(), pairs(6)
    paired = ImagePairs(whole.first, whole.second, whole.same)
    mine, others = (ImagePairs(*(value[part] for value in paired)) for part in (slice(0, 3), slice(3, 6)))
    theirs: list[Tensor] = []
    evaluate_verifier(trio.verifier, [others], PLAIN, gather=lambda values: theirs.append(values) or values)
    queue = iter(theirs)
    joined = evaluate_verifier(trio.verifier, [mine], PLAIN, lambda values: torch.cat((values, next(queue))))
    assert joined == pytest.approx(evaluate_verifier(trio.verifier, [paired], PLAIN), rel=1e-4)


def test_the_learning_rate_falls_when_validation_stalls() -> None:
    optimiser = sgd(nn.Linear(1, 1), 0.1)
    schedule = decay_on_plateau(optimiser, patience=1)
    rates = []
    for loss in (1.0, 0.9, 0.9, 0.9, 0.9):
        schedule.step(loss)
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01])


def test_early_stopping_counts_epochs_without_a_gain_across_a_restart() -> None:
    stopping = EarlyStopping(patience=2)
    assert [stopping.update(loss) for loss in (1.0, 1.1, 0.9, 0.95)] == [False] * 4
    again = EarlyStopping(patience=2)
    again.load_state_dict(stopping.state_dict())
    assert again.update(0.9)
    assert not again.update(0.8)


def test_lowest_losses_name_what_improved() -> None:
    lowest = LowestLosses("auxiliary", "total")
    assert lowest.update({"auxiliary": 1.0, "total": 3.0, "other": 0.0}) == ["auxiliary", "total"]
    assert lowest.update({"auxiliary": 1.0, "total": 2.0}) == ["total"]
    again = LowestLosses("auxiliary", "total")
    again.load_state_dict(lowest.state_dict())
    assert again.update({"auxiliary": 0.5, "total": 2.5}) == ["auxiliary"]


def test_random_numbers_go_on_where_they_stood() -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(1))]

    seed_everything(42)
    first = draw()
    state = random_state()
    expected = draw()
    restore_random_state(state)
    assert draw() == expected
    seed_everything(42)
    assert draw() == first


def test_a_restored_run_takes_the_same_step() -> None:
    settings = AdversarialSettings(FLOW, compute=PLAIN)
    trio = networks()
    optimisers = published_optimisers(trio)
    stopping = EarlyStopping()
    adversarial_step(pairs(), trio, optimisers, settings)
    stopping.update(0.5)
    file = io.BytesIO()
    state = training_state(trio._asdict(), optimisers._asdict(), {"stopping": stopping}, {"epoch": 3, "step": 1})
    torch.save(state, file)
    expected = adversarial_step(pairs(seed=1), trio, optimisers, settings)

    file.seek(0)
    stored = torch.load(file, weights_only=True)
    torch.manual_seed(5)
    others = Networks(FlowFieldGenerator(features=4), Verifier("tiny"), Classifier("tiny"))
    fresh, restored = published_optimisers(others), EarlyStopping()
    position = restore_training(stored, others._asdict(), fresh._asdict(), {"stopping": restored})
    assert position == {"epoch": 3, "step": 1}
    assert restored.lowest == 0.5
    assert adversarial_step(pairs(seed=1), others, fresh, settings) == pytest.approx(expected, rel=1e-6)
    for mine, theirs in zip(others, trio, strict=True):
        torch.testing.assert_close(parameters(mine), parameters(theirs), rtol=1e-6, atol=1e-8)


def test_a_state_of_another_stage_or_format_is_refused() -> None:
    state = training_state({"verifier": nn.Linear(1, 1)}, {}, {}, {})
    with pytest.raises(PrichexyError, match="another stage"):
        restore_training(state, {"classifier": nn.Linear(1, 1)}, {}, {})
    with pytest.raises(PrichexyError, match="format must be 1"):
        restore_training({**state, "format": 0}, {"verifier": nn.Linear(1, 1)}, {}, {})
    with pytest.raises(UsageError, match="of another shape"):
        restore_training(state, {"verifier": nn.Linear(1, 2)}, {}, {})
