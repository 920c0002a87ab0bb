"""One step of the patient verifier, which is the audit's attacker too (arXiv 2209.11531, sections 2.2 and 3).

Shape suffixes: P pair, 1 a single value or the grey channel.
"""

from torch import Tensor, nn
from torch.optim import Optimizer

from prichexy.training.batches import Batches, ImagePairs, grey, marks
from prichexy.training.compute import Compute, descend, device_of
from prichexy.training.evaluation import Gather, alone, binary_auc, collect, finite_metrics
from prichexy.training.losses import same_patient_loss

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
