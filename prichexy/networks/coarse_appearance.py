"""The coarse appearance that a radiograph is expected to have, given what a classifier of findings says of it.

Framing, habitus and exposure make up the low frequencies of a radiograph, and they tell patients apart. The cohort's
mean in their place tells nothing, but a large heart or an effusion shows there too. Between the two lies what this
module computes: the mean appearance of images on which the classifier agrees, as a linear function of a few numbers,
the main axes of its outputs.

Shape suffixes: N batch, 1 the grey channel, S side, F finding, K kept axis.
"""

import torch
from torch import Tensor, nn

from prichexy.findings import FINDINGS
from prichexy.networks.classifier import Classifier, ClassifierBackbone

FURTHEST = 3.0
"""Standard deviations; beyond them an image counts as that far along an axis."""


class CoarseAppearance(nn.Module):
    """Expected image for each image, by a few numbers in which a classifier summarizes it.

    Args:
        backbone: of the classifier.
        kept: K, how many axes of its outputs count; 0 gives the cohort's mean for every image.
        side: S, pixels.
    """

    centre: Tensor
    """(F,), the classifier's mean outputs."""
    axes: Tensor
    """(F, K), the kept axes, such that codes have variance 1."""
    mean_image: Tensor
    """(1, S, S)."""
    basis: Tensor
    """(K, S, S), how the expected image changes along each axis."""

    def __init__(self, backbone: ClassifierBackbone, kept: int, side: int) -> None:
        super().__init__()
        self.classifier = Classifier(backbone)
        self.register_buffer("centre", torch.zeros(len(FINDINGS)))
        self.register_buffer("axes", torch.zeros(len(FINDINGS), kept))
        self.register_buffer("mean_image", torch.zeros(1, side, side))
        self.register_buffer("basis", torch.zeros(kept, side, side))

    def codes(self, images_N1SS: Tensor) -> Tensor:
        """Where each image lies along the kept axes, in standard deviations, at most `FURTHEST`.

        Args:
            images_N1SS: values in [0, 1].

        Returns:
            Shape (N, K).
        """
        if not self.axes.shape[1]:
            return images_N1SS.new_zeros(len(images_N1SS), 0)
        codes_NK: Tensor = (self.classifier(images_N1SS) - self.centre) @ self.axes
        return codes_NK.clamp(-FURTHEST, FURTHEST)

    def forward(self, codes_NK: Tensor) -> Tensor:
        """The expected images, (N, 1, S, S), about [0, 1]."""
        return self.mean_image + torch.einsum("nk,kij->nij", codes_NK, self.basis)[:, None]
