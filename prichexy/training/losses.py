"""The losses of the method (arXiv 2209.11531, section 2.3), each a mean over the batch, in float32 or better.

Shape suffixes: N batch, P pair, 1 a single value or the grey channel, H height, W width, F finding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def findings_loss(logits_NF: Tensor, labels_NF: Tensor) -> Tensor:
    """Binary cross entropy of the findings' logits: what trains a classifier, and the generator's auxiliary loss."""
    return F.binary_cross_entropy_with_logits(logits_NF.float(), labels_NF)


def findings_probability_loss(logits_NF: Tensor, labels_NF: Tensor) -> Tensor:
    """The same of the probabilities, as published for the classifier's update in adversarial training.

    It differs from `findings_loss` where float32 rounds a probability to 0 or 1: torch limits such a term to 100, and
    no gradient comes from it.

    Raises:
        FloatingPointError: if a logit is NaN; the loss itself would stop the process on a GPU.
    """
    probabilities_NF = torch.sigmoid(logits_NF.float())
    if bool(torch.isnan(probabilities_NF).any()):
        raise FloatingPointError("NaN among the probabilities")
    return F.binary_cross_entropy(probabilities_NF, labels_NF)


def same_patient_loss(logits_P1: Tensor, same_P: Tensor) -> Tensor:
    """Binary cross entropy of the verifier's logits, which trains it."""
    return F.binary_cross_entropy_with_logits(logits_P1.float()[:, 0], same_P)


def recognition_loss(logits_P1: Tensor) -> Tensor:
    """-log(1 - p), p the verifier's probability of the same patient: what the generator pays for being recognized.

    float64, as published; written as the logarithm of the sigmoid of the negated logit, which is the same and stays
    finite where p rounds to 1.
    """
    return -F.logsigmoid(-logits_P1.double()).mean()


def squared_error(images_N1HW: Tensor, others_N1HW: Tensor) -> Tensor:
    """Mean squared difference of each image to its other, shape (N,)."""
    return (images_N1HW - others_N1HW).square().mean(dim=(1, 2, 3))
