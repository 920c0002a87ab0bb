"""The coarse appearance that a radiograph is expected to have, given what a classifier of findings says of it.

Framing, habitus and exposure make up the low frequencies of a radiograph, and they tell patients apart. The cohort's
mean in their place tells nothing, but a large heart or an effusion shows there too. Between the two lies what this
module computes: the mean appearance of images on which the classifier agrees, as a linear function of a few numbers,
axes of its outputs. What is finer is made of frequency bands, octaves below the coarse part; of each a share stays.

Axes, images along them and shares are parameters: a fit sets them (`prichexy.training.appearance_fit`), and training
against attackers goes on from there (`prichexy.training.multi_scale_step`). The classifier never learns here.

Shape suffixes: N batch, 1 the grey channel, S side, F finding, K kept axis, B frequency band.
"""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from prichexy.findings import FINDINGS
from prichexy.networks.classifier import Classifier, ClassifierBackbone
from prichexy.networks.smooth_fields import low_pass

FURTHEST = 3.0
"""Standard deviations; beyond them an image counts as that far along an axis."""

BANDS = 3
"""Between Gaussians of 1, 1/2 and 1/4 of the coarse sigma, and all that is finer than the last, which at 64 px and the
default of 8 px of 256 has a sigma of half a pixel: of a further octave such an image holds nothing."""


class CoarseAppearance(nn.Module):
    """Expected image for each image, by a few numbers in which a classifier summarizes it; and what else stays.

    Args:
        backbone: of the classifier.
        kept: K, how many axes of its outputs count; 0 gives the cohort's mean for every image.
        side: S, pixels.
        sigma: of the Gaussian that tells coarse from fine, in pixels of side S; 0 leaves all images as they are.
        detail: share of each frequency band that stays, 0 to 1, until other shares are learned or loaded.
    """

    centre: Tensor
    """(F,), the classifier's mean outputs."""
    mean_image: Tensor
    """(1, S, S)."""
    covariance: Tensor
    """(F, F), of the classifier's outputs on the images that the axes were fitted to: what they are scaled by while
    they learn. It is not among the weights; nothing that is published depends on it."""

    def __init__(
        self, backbone: ClassifierBackbone, kept: int, side: int, sigma: float = 0.0, detail: float = 1.0
    ) -> None:
        super().__init__()
        self.sigma = sigma
        self.classifier = Classifier(backbone).eval().requires_grad_(False)
        self.axes = nn.Parameter(torch.zeros(len(FINDINGS), kept), requires_grad=kept > 0)
        """(F, K), such that codes have variance 1."""
        self.basis = nn.Parameter(torch.zeros(kept, side, side), requires_grad=kept > 0)
        """(K, S, S), how the expected image changes along each axis."""
        self.shares = nn.Parameter(torch.full((BANDS,), float(detail)))
        """(B,), of each band, the coarsest first."""
        self.register_buffer("centre", torch.zeros(len(FINDINGS)))
        self.register_buffer("mean_image", torch.zeros(1, side, side))
        self.register_buffer("covariance", torch.eye(len(FINDINGS)), persistent=False)

    def train(self, mode: bool = True) -> Self:
        """As in every module; but the classifier stays in eval mode."""
        super().train(mode)
        self.classifier.eval()
        return self

    def completed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights with shares; models from before there were bands have none, and keep of each what `detail` says."""
        return {"shares": self.shares.detach(), **state}

    def codes(self, logits_NF: Tensor) -> Tensor:
        """Where each image lies along the kept axes, in standard deviations, at most `FURTHEST`.

        Args:
            logits_NF: what the classifier says of the images.

        Returns:
            Shape (N, K).
        """
        codes_NK: Tensor = (logits_NF - self.centre) @ self.axes
        return codes_NK.clamp(-FURTHEST, FURTHEST)

    def expected(self, codes_NK: Tensor) -> Tensor:
        """The expected images, (N, 1, S, S), about [0, 1]."""
        return self.mean_image + torch.einsum("nk,kij->nij", codes_NK, self.basis)[:, None]

    def forward(self, images_N1SS: Tensor, logits_NF: Tensor, noise_NK: Tensor) -> tuple[Tensor, Tensor]:
        """What standardizes images: ``gain * image + offset``, its coarse part the expected one.

        The gain is the finest band's share, so that it serves a larger version of the image too; the other bands
        come into the offset.

        Args:
            images_N1SS: values in [0, 1].
            logits_NF: what the classifier says of them.
            noise_NK: added to the codes.

        Returns:
            The gain, a scalar, and the offset, (N, 1, S, S); with gradients to axes, basis and shares.
        """
        gain = self.shares[-1]
        if not self.sigma:
            return gain, torch.zeros_like(images_N1SS)
        codes_NK = (self.codes(logits_NF) + noise_NK).clamp(-FURTHEST, FURTHEST)
        expected_N1SS = self.expected(codes_NK)
        # The sum over bands of share times band, of the expected image less the image, by the low-passed images that
        # lie between two bands: each counts by how much the finer band's share exceeds the coarser one's.
        taken_N1SS = torch.zeros_like(images_N1SS)
        for band, step in enumerate(torch.diff(self.shares, prepend=self.shares.new_zeros(1))):
            if not step.requires_grad and not step:
                continue  # all the same from here on, as fitted: two Gaussians are saved
            sigma = self.sigma / 2**band
            fine_N1SS = expected_N1SS - low_pass(expected_N1SS, sigma)
            taken_N1SS = taken_N1SS + step * (low_pass(images_N1SS, sigma) + fine_N1SS)
        return gain, expected_N1SS - taken_N1SS

    @torch.no_grad()
    def restrain(self) -> None:
        """Bring what has been learned back into its bounds: codes of variance 1, shares in [0, 1]."""
        variance_K = torch.einsum("fk,fg,gk->k", self.axes, self.covariance, self.axes)
        deviation_K = variance_K.clamp(min=1e-12).sqrt()
        self.axes.div_(deviation_K)
        self.basis.mul_(deviation_K[:, None, None])  # expected images stay what they were
        self.shares.clamp_(0, 1)
