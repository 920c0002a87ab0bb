"""One step of adversarial training: generator, then verifier, then classifier (arXiv 2209.11531, section 2.3).

Shape suffixes: P pair, 1 a single value or the grey channel, H height, W width, F finding.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prichexy.obfuscation.settings import ObfuscationSettings
from prichexy.training.batches import Batches, ImagePairs, LabelledPairs, grey, marks
from prichexy.training.compute import (
    Compute,
    NonFiniteLossError,
    adam,
    bare,
    descend,
    device_of,
    frozen,
    sgd,
)
from prichexy.training.evaluation import Gather, alone, binary_auc, collect, finding_aucs, finite_metrics
from prichexy.training.generation import obfuscated
from prichexy.training.losses import findings_loss, findings_probability_loss, recognition_loss
from prichexy.training.verifier_step import verifier_step

Losses = dict[str, float]


class Networks(NamedTuple):
    """The three that train against each other; each may be wrapped for DDP.

    Attributes:
        generator: flow-field or Privacy-Net generator.
        verifier: logits (P, 1) of two images each.
        classifier: logits (P, F) of an image each.
    """

    generator: nn.Module
    verifier: nn.Module
    classifier: nn.Module


class Optimisers(NamedTuple):
    """One for each of `Networks`."""

    generator: Optimizer
    verifier: Optimizer
    classifier: Optimizer


@dataclass(frozen=True)
class AdversarialSettings:
    """What is trained for, beside the data.

    Attributes:
        obfuscation: kind, mu and operator.
        auxiliary_weight: of the classifier's loss in the generator's; 1 as published.
        verification_weight: of the verifier's; 1 as published.
        compute: precision and clipping.
    """

    obfuscation: ObfuscationSettings
    auxiliary_weight: float = 1.0
    verification_weight: float = 1.0
    compute: Compute = field(default_factory=Compute)


def published_optimisers(networks: Networks) -> Optimisers:
    """Adam 1e-4 for generator and verifier, SGD 1e-4 (momentum 0.9, weight decay 1e-4) for the classifier."""
    return Optimisers(adam(networks.generator), adam(networks.verifier), sgd(networks.classifier))


def adversarial_step(
    batch: LabelledPairs, networks: Networks, optimisers: Optimisers, settings: AdversarialSettings, step: int = 0
) -> Losses:
    """Losses of a batch, after which all three networks have been updated once.

    The critics then learn from the very images on which the generator was judged, made before its update.

    Args:
        batch: pairs, on any device; the first image of each is obfuscated.
        networks: put into train mode.
        optimisers: of their parameters.
        settings: operator, weights of the losses, precision.
        step: number of the step, for the error.

    Returns:
        ``auxiliary``, ``verification``, ``total`` (the generator's, before weights: the first two),
        ``same_patient_probability`` (the mean that the verifier gave), ``verifier`` and ``classifier`` (their own).

    Raises:
        NonFiniteLossError: if one of the losses is NaN or infinite; networks before it in the order above have been
            updated.
    """
    device = device_of(networks.generator)
    batch = LabelledPairs(
        grey(batch.first, device),
        grey(batch.second, device),
        marks(batch.same, device),
        marks(batch.labels, device),
    )
    images_P1HW, losses = update_generator(batch, networks, optimisers.generator, settings, step)
    pairs = ImagePairs(images_P1HW, batch.second, batch.same)
    losses |= verifier_step(pairs, networks.verifier, optimisers.verifier, settings.compute, step)
    losses |= _update_classifier(
        images_P1HW, batch.labels, networks.classifier, optimisers.classifier, settings.compute, step
    )
    return losses


def update_generator(
    batch: LabelledPairs, networks: Networks, optimiser: Optimizer, settings: AdversarialSettings, step: int = 0
) -> tuple[Tensor, Losses]:
    """Obfuscated first images, (P, 1, H, W) without gradient, and the generator's losses, after its update.

    Arguments, losses and errors as in `adversarial_step`, with the batch on the generator's device.
    """
    networks.generator.train()
    images_P1HW = obfuscated(networks.generator, batch.first, settings.obfuscation, settings.compute)
    # The critics without their DDP wrappers, which would wait for gradients that nobody computes.
    verifier, classifier = bare(networks.verifier), bare(networks.classifier)
    with frozen(verifier, classifier):
        with settings.compute.autocast(images_P1HW.device):
            findings_PF = classifier(images_P1HW)
            same_P1 = verifier(images_P1HW, batch.second)
        auxiliary = findings_loss(findings_PF, batch.labels)
        verification = recognition_loss(same_P1)
        total = settings.auxiliary_weight * auxiliary + settings.verification_weight * verification
        value = descend(total, "generator", networks.generator, optimiser, settings.compute, step)
    parts = torch.stack((auxiliary.double(), verification, torch.sigmoid(same_P1.double()).mean())).tolist()
    names = ("auxiliary", "verification", "same_patient_probability")
    return images_P1HW.detach(), {**dict(zip(names, parts, strict=True)), "total": value}


def _update_classifier(
    images_P1HW: Tensor, labels_PF: Tensor, classifier: nn.Module, optimiser: Optimizer, compute: Compute, step: int
) -> Losses:
    classifier.train()
    with compute.autocast(images_P1HW.device):
        logits_PF = classifier(images_P1HW)
    try:
        loss = findings_probability_loss(logits_PF, labels_PF)
    except FloatingPointError:
        raise NonFiniteLossError("classifier", step, float(optimiser.param_groups[0]["lr"])) from None
    return {"classifier": descend(loss, "classifier", classifier, optimiser, compute, step)}


def evaluate_adversarial(
    networks: Networks, batches: Batches[LabelledPairs], settings: AdversarialSettings, gather: Gather = alone
) -> Losses:
    """The generator's losses on validation pairs, and how well its critics do on its images, all in eval mode.

    Returns:
        ``auxiliary``, ``verification``, ``total`` and ``same_patient_probability`` as in `adversarial_step`;
        ``verifier_auc`` of pairs (obfuscated, real), NaN where all are of one sort; ``classifier_auc`` (mean over
        findings) and ``classifier_auc/NAME``.

    Raises:
        NonFiniteLossError: if one of the losses is NaN or infinite.
        UsageError: if there are no batches.
    """
    device = device_of(networks.generator)

    def outputs(batch: LabelledPairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first_P1HW, second_P1HW = grey(batch.first, device), grey(batch.second, device)
        images_P1HW = obfuscated(networks.generator, first_P1HW, settings.obfuscation, settings.compute)
        with settings.compute.autocast(device):
            findings_PF, same_P1 = networks.classifier(images_P1HW), networks.verifier(images_P1HW, second_P1HW)
        return findings_PF, marks(batch.labels, device), same_P1, marks(batch.same, device)

    findings_PF, labels_PF, same_P1, same_P = collect(batches, outputs, tuple(networks), gather)
    auxiliary, verification = findings_loss(findings_PF, labels_PF), recognition_loss(same_P1)
    losses = {
        "auxiliary": auxiliary,
        "verification": verification,
        "total": settings.auxiliary_weight * auxiliary + settings.verification_weight * verification,
        "same_patient_probability": torch.sigmoid(same_P1.double()).mean(),
    }
    aucs = {f"classifier_{name}": auc for name, auc in finding_aucs(findings_PF, labels_PF).items()}
    return {**finite_metrics(losses), "verifier_auc": binary_auc(same_P1[:, 0], same_P), **aucs}
