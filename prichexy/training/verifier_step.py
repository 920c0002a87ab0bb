"""One step of the patient verifier, which is the audit's attacker too (arXiv 2209.11531, sections 2.2 and 3).

It learns from pairs, as published, or from all comparisons within a batch of patients.

Shape suffixes: P pair, N image, E embedding, 1 a single value or the grey channel.
"""

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prichexy.networks.verifier import Verifier
from prichexy.training.batches import Batches, ImagePairs, PatientPairs, grey, marks
from prichexy.training.compute import Compute, bare, descend, device_of
from prichexy.training.contrast import contrast_loss, joined
from prichexy.training.evaluation import Gather, alone, binary_auc, collect, finite_metrics
from prichexy.training.losses import same_patient_loss
from prichexy.training.world import World

Losses = dict[str, float]


def verifier_step(
    batch: ImagePairs, verifier: nn.Module, optimiser: Optimizer, compute: Compute, step: int = 0
) -> Losses:
    """Loss of a batch, ``verifier``, after which the verifier has been updated once.

    Args:
        batch: pairs, on any device; either side may be obfuscated.
        verifier: logits (P, 1) of two images (P, 1, H, W) each; it is put into train mode.
        optimiser: of its parameters.
        compute: precision and clipping.
        step: number of the step, for the error.

    Raises:
        NonFiniteLossError: if the loss is NaN or infinite; nothing has been updated.
    """
    device = device_of(verifier)
    verifier.train()
    with compute.autocast(device):
        logits_P1 = verifier(grey(batch.first, device), grey(batch.second, device))
    loss = same_patient_loss(logits_P1, marks(batch.same, device))
    return {"verifier": descend(loss, "verifier", verifier, optimiser, compute, step)}


def patients_step(
    batch: PatientPairs, verifier: nn.Module, optimiser: Optimizer, compute: Compute, world: World, step: int = 0
) -> Losses:
    """Loss of a batch's images, each compared with every other, ``verifier``, after the verifier's update.

    Args:
        batch: this worker's part of it.
        verifier: a `Verifier`, perhaps shared with other workers; it is put into train mode.
        optimiser: of its parameters.
        compute: precision and clipping.
        world: this worker among the others, whose images are compared with too: all learn from the joined batch.
        step: number of the step, for the error.

    Raises:
        NonFiniteLossError: if the loss is NaN or infinite; nothing has been updated.
    """
    device, head = device_of(verifier), cast(Verifier, bare(verifier))
    verifier.train()
    images_N1HW = torch.cat((grey(batch.first, device), grey(batch.second, device)))
    with compute.autocast(device):
        embeddings_NE = verifier(images_N1HW)
    all_NE = joined(embeddings_NE.float(), world)
    patients_N = world.gather(batch.patients.to(device).repeat(2))
    loss = contrast_loss(head.compare_all(all_NE, all_NE), patients_N)
    return {"verifier": descend(loss, "verifier", verifier, optimiser, compute, step)}


def verifier_update(
    compare: Literal["pairs", "batch"], verifier: nn.Module, optimiser: Optimizer, compute: Compute, world: World
) -> Callable[[Any, int], Losses]:
    """The step that the setting `verifier.compare` asks for, as a function of batch and step number."""
    if compare == "batch":
        return lambda batch, step: patients_step(batch, verifier, optimiser, compute, world, step)
    return lambda batch, step: verifier_step(batch, verifier, optimiser, compute, step)


def evaluate_verifier(
    verifier: nn.Module, batches: Batches[ImagePairs], compute: Compute, gather: Gather = alone
) -> Losses:
    """``verifier`` (mean loss) and ``auc`` of validation pairs; NaN for the AUC where all pairs are of one sort.

    Args:
        verifier: as in `verifier_step`; it is evaluated in eval mode and left in the mode that it was in.
        batches: the pairs.
        compute: precision.
        gather: see `prichexy.training.evaluation`.

    Raises:
        NonFiniteLossError: if the loss is NaN or infinite.
        UsageError: if there are no batches.
    """
    device = device_of(verifier)

    def outputs(batch: ImagePairs) -> tuple[Tensor, Tensor]:
        with compute.autocast(device):
            logits_P1 = verifier(grey(batch.first, device), grey(batch.second, device))
        return logits_P1, marks(batch.same, device)

    logits_P1, same_P = collect(batches, outputs, (verifier,), gather)
    losses = finite_metrics({"verifier": same_patient_loss(logits_P1, same_P)})
    return {**losses, "auc": binary_auc(logits_P1[:, 0], same_P)}
