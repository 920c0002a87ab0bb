"""One step of multi-scale-field against several attackers at once: generator, then each critic; torch only.

A generator that only one verifier judges learns to fool that one. Here judge: verifiers of different capacity, which go
on learning from what is published, and a correlation of thumbnails, which needs no learning and beats them on much that
a small deformation does. The most successful attacker counts most. Each compares all published images of a batch with
all originals, and is judged by ranks: by whether it puts an image's own patient before strangers, which no shift or
scale of its scores changes, so that a generator can't win by making a critic less sure of everything.

What is learned is an appearance's axes, the images along them and the shares of detail (`CoarseAppearance`). The fields
are drawn from keys as in publishing, new ones in every step.

Shape suffixes: P pair, Q query, G gallery, N image, D cell of a thumbnail, F finding, 1 the grey channel or one value,
H height, W width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from prichexy.networks.coarse_appearance import CoarseAppearance
from prichexy.networks.verifier import Verifier
from prichexy.obfuscation.settings import ObfuscationSettings
from prichexy.training.augmentation import Augmentation
from prichexy.training.batches import Batches, LabelledPairs, PatientPairs, grey, marks
from prichexy.training.compute import Compute, bare, descend, device_of, frozen
from prichexy.training.evaluation import Gather, alone, binary_auc, collect, finding_aucs, finite_metrics
from prichexy.training.generation import obfuscated_by_key
from prichexy.training.verifier_step import patients_step
from prichexy.training.world import World

Losses = dict[str, float]

SOFTNESS = 0.25
"""Standard deviations of all scores by which two must differ for their order to count nearly in full."""

WORST_WITHIN = 0.02
"""Attackers whose rank losses lie this close count about alike; one that is better by more outweighs the others."""

THUMBNAIL_SIDE = 16
"""Cells along an axis, as the audit's strongest attacker without training has them."""

_LEAST = 1e-12
"""Below it a root's gradient is taken for 0: it has none at 0."""

_MIX = 0x2545F4914F6CDD1D
"""An odd number whose multiples spread over all bits."""

_OF_KEYS, _OF_VALIDATION_KEYS = 3, 4
"""Last words of seeds, which tell these random numbers from others made of the same seed."""


class Networks(NamedTuple):
    """The generator and those that it is trained against; each may be wrapped for DDP.

    Attributes:
        generator: a `CoarseAppearance`, whose frozen classifier judges what is left of the findings.
        critics: verifiers.
        judges: further classifiers, frozen, whose findings shall be left as well. A generator that one classifier
            judges draws what that one reads and no other does.
    """

    generator: nn.Module
    critics: tuple[nn.Module, ...]
    judges: tuple[nn.Module, ...] = ()


class Optimisers(NamedTuple):
    """Those of `Networks`."""

    generator: Optimizer
    critics: tuple[Optimizer, ...]


@dataclass(frozen=True)
class MultiScaleSettings:
    """What is trained for, beside the data.

    Attributes:
        obfuscation: of kind ``multi-scale-field``.
        privacy_weight: of the attackers' success in the generator's loss, against what is lost of the findings.
        augmentation: of what critics learn from, 0 for none.
        seed: of keys and augmentation.
        compute: precision and clipping.
        world: this worker among the others; the generator is judged by each worker's own part of a batch.
    """

    obfuscation: ObfuscationSettings
    privacy_weight: float = 1.0
    augmentation: float = 0.0
    seed: int = 42
    compute: Compute = field(default_factory=Compute)
    world: World = field(default_factory=World)


def rank_loss(scores_QG: Tensor, same_QG: Tensor) -> Tensor:
    """How far an attacker is from chance: a smooth area under the ROC curve, less one half, without its sign.

    One that always takes strangers for the patient would tell as much as one that never does; so chance is the lowest.

    Args:
        scores_QG: higher for images of one patient; shifting and scaling them (by more than 0) changes nothing.
        same_QG: whether two images are of one patient.

    Returns:
        A scalar from 0 to 0.5, with gradients to the scores; 0 where all are of one sort.
    """
    scores_QG = scores_QG.float()
    deviation, mean = torch.std_mean(scores_QG, correction=0)
    standard_QG = (scores_QG - mean) / deviation.clamp(min=1e-12)
    same, strangers = standard_QG[same_QG], standard_QG[~same_QG]
    if not len(same) or not len(strangers):
        return scores_QG.sum() * 0
    return (torch.sigmoid((same[:, None] - strangers[None]) / SOFTNESS).mean() - 0.5).abs()


def strongest(losses: Sequence[Tensor]) -> Tensor:
    """A smooth maximum: between the mean and the largest of some losses, near the largest where it stands out."""
    return WORST_WITHIN * (torch.logsumexp(torch.stack(tuple(losses)) / WORST_WITHIN, dim=0) - math.log(len(losses)))


def utility_loss(published_NF: Tensor, originals_NF: Tensor) -> Tensor:
    """How much the order of images by each finding has changed: 1 less the correlation of a classifier's logits.

    Correlated with its logits of the originals, not compared with labels: those of public data were mined from text,
    and on images that the classifier has learned from they say little. As with an AUC, each finding counts the same,
    however rare, and what shifts all images alike costs nothing. The root of the mean square over findings counts, not
    the mean: two numbers hold most findings well if they turn one upside down, and the mean would have it so.

    Args:
        published_NF: the classifier's logits of published images.
        originals_NF: of the same images as they were.

    Returns:
        A scalar from 0 to 2, with gradients to both.
    """
    published_NF, originals_NF = (
        F.normalize(logits_NF.float() - logits_NF.float().mean(dim=0), dim=0)
        for logits_NF in (published_NF, originals_NF)
    )
    lost_F = 1 - (published_NF * originals_NF).sum(dim=0)
    return lost_F.square().mean().clamp(min=_LEAST).sqrt()


def _mean_utility_loss(judged: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Over classifiers, of whose logits of published images and originals each is a pair."""
    return torch.stack([utility_loss(*each) for each in judged]).mean()


def thumbnails(images_N1HW: Tensor) -> Tensor:
    """Grey values of 16 x 16 cells, (N, 256)."""
    return F.adaptive_avg_pool2d(images_N1HW, THUMBNAIL_SIDE).flatten(1)


def correlated(thumbnails_ND: Tensor) -> Tensor:
    """Vectors of length 1 whose products are correlations, of thumbnails less the mean one of them all."""
    less_mean_ND = thumbnails_ND - thumbnails_ND.mean(dim=0)
    return F.normalize(less_mean_ND - less_mean_ND.mean(dim=1, keepdim=True), dim=1)


def multi_scale_step(
    batch: PatientPairs, networks: Networks, optimisers: Optimisers, settings: MultiScaleSettings, step: int = 0
) -> Losses:
    """Losses of a batch, after which the generator and every critic have been updated once.

    The critics learn from the very images on which the generator was judged, made before its update.

    Args:
        batch: two images of each patient, on any device; the first is published with a key of this step.
        networks: put into train mode, but for the judges; the critics judge the generator in eval mode.
        optimisers: of their parameters.
        settings: obfuscation, weights, precision.
        step: number of the step, for keys and errors.

    Returns:
        The generator's ``utility``, ``privacy`` and ``total``; each attacker's AUC within the batch,
        ``correlation_auc`` and ``critic_1_auc`` ...; each critic's own loss, ``critic_1`` ...

    Raises:
        NonFiniteLossError: if one of the losses is NaN or infinite; networks before it have been updated.
    """
    device = device_of(networks.generator)
    first_P1HW, second_P1HW = grey(batch.first, device), grey(batch.second, device)
    patients_P = batch.patients.to(device)
    published_P1HW, losses = update_generator(
        PatientPairs(first_P1HW, second_P1HW, patients_P), networks, optimisers.generator, settings, step
    )
    learned_from = _augmented(PatientPairs(published_P1HW, second_P1HW, patients_P), settings, step)
    for number, (critic, optimiser) in enumerate(zip(networks.critics, optimisers.critics, strict=True), start=1):
        own = patients_step(learned_from, critic, optimiser, settings.compute, settings.world, step)
        losses[f"critic_{number}"] = own["verifier"]
    return losses


def update_generator(
    batch: PatientPairs, networks: Networks, optimiser: Optimizer, settings: MultiScaleSettings, step: int = 0
) -> tuple[Tensor, Losses]:
    """Published first images, (P, 1, H, W) without gradient, and the generator's losses, after its update.

    Arguments, losses and errors as in `multi_scale_step`, with the batch on the generator's device.
    """
    networks.generator.train()
    appearance = cast(CoarseAppearance, bare(networks.generator))
    critics = [cast(Verifier, bare(critic)) for critic in networks.critics]
    same_PP = batch.patients[:, None] == batch.patients[None]
    seeds_P = _keys(np.random.default_rng([settings.seed, step, settings.world.rank, _OF_KEYS]), len(same_PP))
    published_P1HW, before_PF = obfuscated_by_key(
        networks.generator, batch.first, seeds_P, settings.obfuscation, settings.compute
    )
    with frozen(*critics, *networks.judges):
        scores = {"correlation": correlated(thumbnails(published_P1HW)) @ correlated(thumbnails(batch.second)).T}
        with settings.compute.autocast(published_P1HW.device):
            after_PF = appearance.classifier(published_P1HW)
            judged = [(judge(published_P1HW), _of_originals(judge, batch.first)) for judge in networks.judges]
            embedded = [(critic.embed(published_P1HW), _of_originals(critic.embed, batch.second)) for critic in critics]
        for number, (critic, (first_PE, second_PE)) in enumerate(zip(critics, embedded, strict=True), start=1):
            scores[f"critic_{number}"] = critic.compare_all(first_PE.float(), second_PE.float())
        privacy = strongest([rank_loss(scores_PP, same_PP) for scores_PP in scores.values()])
        utility = _mean_utility_loss([(after_PF, before_PF), *judged])
        total = utility + settings.privacy_weight * privacy
        value = descend(total, "generator", networks.generator, optimiser, settings.compute, step)
    appearance.restrain()
    losses = {"utility": float(utility.detach()), "privacy": float(privacy.detach()), "total": value}
    same = same_PP.flatten().float().cpu()
    aucs = {f"{name}_auc": binary_auc(found.detach().flatten().cpu(), same) for name, found in scores.items()}
    return published_P1HW.detach(), {**losses, **aucs}


@torch.no_grad()
def _of_originals(network: Callable[[Tensor], Tensor], images_N1HW: Tensor) -> Tensor:
    """What a network makes of images from which no gradient is wanted."""
    return network(images_N1HW)


def _keys(random: np.random.Generator, count: int) -> Tensor:
    """Seeds of fields, which stand for the keys that a publication derives from its secret."""
    return torch.from_numpy(random.integers(0, 2**63 - 1, count, dtype=np.int64))


def _augmented(batch: PatientPairs, settings: MultiScaleSettings, step: int) -> PatientPairs:
    """What critics learn from: both images changed at random, as published images and originals could have been."""
    if not settings.augmentation:
        return batch
    augmentation, world = Augmentation(settings.augmentation, settings.seed), settings.world
    patients_P = batch.patients.cpu().numpy()
    randoms = augmentation.generators(step, np.arange(len(patients_P)) * world.size + world.rank)
    mirrored_P = augmentation.mirrored(step, int(patients_P.max()) + 1)[patients_P]
    first, second = (
        augmentation.apply(images.mul(255).round().to("cpu", torch.uint8), randoms, mirrored_P)
        for images in (batch.first, batch.second)
    )
    return PatientPairs(first, second, batch.patients)


def restart(critic: nn.Module, optimiser: Optimizer, fresh: Verifier) -> None:
    """Let a critic begin anew, with the weights of a fresh one and an optimiser that has seen nothing.

    A critic that grew together with its generator has learned where that generator hides things, and underestimates
    an attacker who starts on what is published now.

    Args:
        critic: of the fresh one's kind, perhaps wrapped for several workers.
        optimiser: of its parameters.
        fresh: the same in every worker.
    """
    bare(critic).load_state_dict(fresh.state_dict())
    optimiser.state.clear()


def restarted(epoch: int, every: int | None, critics: int) -> int | None:
    """Which critic begins anew before an epoch: each in its turn, one every so many epochs; None for none.

    Args:
        epoch: from 0.
        every: epochs from one restart to the next, None for never.
        critics: how many there are.
    """
    if every is None or epoch == 0 or epoch % every:
        return None
    return (epoch // every - 1) % critics


def fingerprints(images_P1HW: Tensor) -> Tensor:
    """Two whole numbers below 2**24 for each image, (P, 2), float32: equal ones for equal images, whatever the batch.

    Args:
        images_P1HW: in [0, 1], or whatever it holds; told apart from 1 / 65535 on.
    """
    levels_PD = (images_P1HW.flatten(1) * 65535).round().long()
    places_D = torch.arange(1, levels_PD.shape[1] + 1, device=levels_PD.device)
    hash_P = (levels_PD * (places_D * _MIX ^ (places_D << 17))).sum(dim=1) * _MIX  # wraps
    return torch.stack((hash_P >> 40 & 0xFFFFFF, hash_P >> 16 & 0xFFFFFF), dim=1).float()


def evaluate_multi_scale(
    networks: Networks,
    batches: Batches[LabelledPairs],
    settings: MultiScaleSettings,
    check: nn.Module | None = None,
    gather: Gather = alone,
) -> Losses:
    """Losses and attackers' AUCs of validation pairs, the first image of each published; all in eval mode.

    The keys are the same in every call, so that epochs can be compared.

    Args:
        networks: without wrappers.
        batches: the pairs, of one patient and of two.
        settings: as in training.
        check: a classifier of findings that training never uses.
        gather: see `prichexy.training.evaluation`.

    Returns:
        ``utility``, ``privacy`` and ``total`` as in `multi_scale_step`, but of exact AUCs; ``correlation_auc``,
        ``critic_1_auc`` ... and ``strongest_auc``; ``classifier_auc`` (mean over findings, of published images, each
        original once, however many pairs it is in) and ``classifier_auc_loss`` (what it was on the originals, less
        that); likewise of each judge, ``judge_1_auc`` ..., and of the check.

    Raises:
        NonFiniteLossError: if one of the losses is NaN or infinite.
        UsageError: if there are no batches.
    """
    device = device_of(networks.generator)
    random = np.random.default_rng([settings.seed, settings.world.rank, _OF_VALIDATION_KEYS])
    appearance = cast(CoarseAppearance, networks.generator)
    judges: dict[str, Callable[[Tensor], Tensor]] = {"classifier": appearance.classifier}
    judges |= {f"judge_{number}": judge for number, judge in enumerate(networks.judges, start=1)}
    trained_by = len(judges)
    if check is not None:
        judges["check"] = check

    def outputs(batch: LabelledPairs) -> tuple[Tensor, ...]:
        first_P1HW, second_P1HW = grey(batch.first, device), grey(batch.second, device)
        published_P1HW, _ = obfuscated_by_key(
            appearance, first_P1HW, _keys(random, len(first_P1HW)), settings.obfuscation, settings.compute
        )
        with settings.compute.autocast(device):
            findings = [judge(images) for judge in judges.values() for images in (published_P1HW, first_P1HW)]
            logits = [critic(published_P1HW, second_P1HW) for critic in networks.critics]
        cells = (thumbnails(published_P1HW), thumbnails(second_P1HW))
        names_P2 = fingerprints(first_P1HW)
        return (marks(batch.same, device), marks(batch.labels, device), names_P2, *cells, *logits, *findings)

    used = (appearance, *networks.critics, *networks.judges, *(() if check is None else (check,)))
    same_P, labels_PF, names_P2, first_PD, second_PD, *rest = collect(batches, outputs, used, gather)
    logits, findings = rest[: len(networks.critics)], rest[len(networks.critics) :]
    scores = {"correlation": (correlated(first_PD) * correlated(second_PD)).sum(dim=1)}
    scores |= {f"critic_{number}": logits_P1[:, 0] for number, logits_P1 in enumerate(logits, start=1)}
    aucs = {f"{name}_auc": binary_auc(found_P, same_P) for name, found_P in scores.items()}
    privacy = strongest([torch.tensor(abs(auc - 0.5)) for auc in aucs.values()])
    pairs = list(zip(findings[::2], findings[1::2], strict=True))
    utility = _mean_utility_loss(pairs[:trained_by])
    losses = finite_metrics(
        {"utility": utility, "privacy": privacy, "total": utility + settings.privacy_weight * privacy}
    )
    kept: Losses = {}
    # Patients with many images have many pairs: counted by pairs, findings of few patients would be all there is.
    once_N = torch.from_numpy(np.unique(names_P2.numpy(), axis=0, return_index=True)[1])
    labels_NF = labels_PF[once_N]
    for name, (published_PF, originals_PF) in zip(judges, pairs, strict=True):
        kept[f"{name}_auc"] = finding_aucs(published_PF[once_N], labels_NF)["auc"]
        kept[f"{name}_auc_loss"] = finding_aucs(originals_PF[once_N], labels_NF)["auc"] - kept[f"{name}_auc"]
    return {**losses, **aucs, "strongest_auc": max(aucs.values()), **kept}
