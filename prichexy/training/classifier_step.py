"""One step of the auxiliary classifier on real images (CheXNet's recipe: arXiv 1711.05225).

Shape suffixes: N batch, F finding.
"""

from torch import Tensor, nn
from torch.optim import Optimizer

from prichexy.training.batches import Batches, LabelledImages, grey, marks
from prichexy.training.compute import Compute, descend, device_of
from prichexy.training.evaluation import Gather, alone, collect, finding_aucs, finite_metrics
from prichexy.training.losses import findings_loss

Losses = dict[str, float]


def classifier_step(
    batch: LabelledImages, classifier: nn.Module, optimiser: Optimizer, compute: Compute, step: int = 0
) -> Losses:
    """Loss of a batch, ``classifier``, after which the classifier has been updated once.

    Args:
        batch: images and labels, on any device.
        classifier: logits (N, F) of images (N, 1, H, W); it is put into train mode.
        optimiser: of its parameters.
        compute: precision and clipping.
        step: number of the step, for the error.

    Raises:
        NonFiniteLossError: if the loss is NaN or infinite; nothing has been updated.
    """
    device = device_of(classifier)
    classifier.train()
    with compute.autocast(device):
        logits_NF = classifier(grey(batch.images, device))
    loss = findings_loss(logits_NF, marks(batch.labels, device))
    return {"classifier": descend(loss, "classifier", classifier, optimiser, compute, step)}


def evaluate_classifier(
    classifier: nn.Module, batches: Batches[LabelledImages], compute: Compute, gather: Gather = alone
) -> Losses:
    """``classifier`` (mean loss), ``auc`` (mean over findings) and ``auc/NAME`` of validation images.

    Args:
        classifier: as in `classifier_step`; it is evaluated in eval mode and left in the mode that it was in.
        batches: the images.
        compute: precision.
        gather: see `prichexy.training.evaluation`.

    Raises:
        NonFiniteLossError: if the loss is NaN or infinite.
        UsageError: if there are no batches.
    """
    device = device_of(classifier)

    def outputs(batch: LabelledImages) -> tuple[Tensor, Tensor]:
        with compute.autocast(device):
            logits_NF = classifier(grey(batch.images, device))
        return logits_NF, marks(batch.labels, device)

    logits_NF, labels_NF = collect(batches, outputs, (classifier,), gather)
    losses = finite_metrics({"classifier": findings_loss(logits_NF, labels_NF)})
    return {**losses, **finding_aucs(logits_NF, labels_NF)}
