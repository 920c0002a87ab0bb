"""Validation: outputs of all samples first, then losses and AUCs over them.

Metrics are computed from the outputs of the whole validation set, since an AUC is no mean over batches. Where several
workers each hold a part of it, `gather` joins a tensor of this worker with those of the others along its first axis;
every worker then has the same metrics.

Shape suffixes: N batch, F finding.
"""

import math
from collections.abc import Callable

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from prichexy.errors import UsageError
from prichexy.findings import FINDINGS
from prichexy.training.batches import Batch, Batches
from prichexy.training.compute import NonFiniteLossError, evaluating

Gather = Callable[[Tensor], Tensor]


def alone(values: Tensor) -> Tensor:
    """The values as they are: the `gather` of a single worker."""
    return values


def collect(
    batches: Batches[Batch],
    outputs: Callable[[Batch], tuple[Tensor, ...]],
    networks: tuple[nn.Module, ...],
    gather: Gather,
) -> list[Tensor]:
    """Outputs of all samples, each joined along its first axis, float32 on the CPU.

    Args:
        batches: the validation set.
        outputs: some tensors of a batch, a row a sample.
        networks: what `outputs` runs, put into eval mode meanwhile.
        gather: joins the workers' parts.

    Raises:
        UsageError: if there are no batches.
    """
    with evaluating(*networks):
        parts = [outputs(batch) for batch in batches]
    if not parts:
        raise UsageError("the validation set is empty: give it at least one batch")
    return [gather(torch.cat(part)).float().cpu() for part in zip(*parts, strict=True)]


def finite_metrics(losses: dict[str, Tensor]) -> dict[str, float]:
    """Losses as numbers.

    Raises:
        NonFiniteLossError: if one is NaN or infinite.
    """
    values = {name: float(loss) for name, loss in losses.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise NonFiniteLossError(name)
    return values


def binary_auc(scores_N: Tensor, labels_N: Tensor) -> float:
    """Area under the ROC curve; NaN where all labels are equal."""
    if float(labels_N.min()) == float(labels_N.max()):
        return math.nan
    return float(roc_auc_score(labels_N.numpy(), scores_N.numpy()))


def finding_aucs(scores_NF: Tensor, labels_NF: Tensor) -> dict[str, float]:
    """``auc/NAME`` of each finding that some images have and others don't, and their mean as ``auc`` (NaN if none)."""
    names = FINDINGS if scores_NF.shape[1] == len(FINDINGS) else [str(index) for index in range(scores_NF.shape[1])]
    aucs = {f"auc/{name}": binary_auc(scores_NF[:, i], labels_NF[:, i]) for i, name in enumerate(names)}
    known = {name: auc for name, auc in aucs.items() if not math.isnan(auc)}
    return {"auc": sum(known.values()) / len(known) if known else math.nan, **known}
