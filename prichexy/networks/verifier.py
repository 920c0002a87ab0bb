"""The patient verifier: are two radiographs of the same patient? (arXiv 2209.11531, section 2.2).

Two heads compare what the backbone makes of the images. The published one, a linear layer on the absolute difference
of sigmoids, has to learn how much each value counts, for which it wants many pairs or ImageNet's weights. The small
network, which is trained from scratch on few patients, has a metric instead: the cosine of batch-normalized
embeddings, scaled and shifted to a logit. On the same patients that lifts it from below a linear metric to above it.

Shape suffixes: P pair, N batch, Q query, G gallery, C channel, H height, W width, E embedding.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prichexy.networks.backbones import resnet
from prichexy.networks.grey_input import ImageNetInput, check_size
from prichexy.networks.small_resnet import GREY_MEAN, GREY_STD, SmallResNet

EMBEDDING = 128

VerifierBackbone = Literal["resnet50", "resnet18", "tiny"]
"""``resnet50`` is the published one; ``resnet18`` has torchvision's key names too; ``tiny`` is `SmallResNet`."""

LEAST_DEVIATION = 0.05
"""Added to an image's standard deviation (grey range 1), so that a nearly uniform image is not all noise."""

FIRST_SCALE, FIRST_SHIFT = 10.0, -3.0
"""Where the metric head starts: at a cosine of 0.3 it is in doubt, at -0.2 and 0.8 it is sure (a logit of 5)."""


class StandardizedInput(nn.Module):
    """Each image brought to one mean and one contrast: exposure tells films apart, and patients only by chance."""

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images of mean 0.5 and standard deviation 0.25 (nearly, where there is little contrast), same shape."""
        deviation_N111, mean_N111 = torch.std_mean(images_NCHW, dim=(1, 2, 3), correction=0, keepdim=True)
        return (images_NCHW - mean_N111) / (deviation_N111 + LEAST_DEVIATION) * GREY_STD + GREY_MEAN


class Verifier(nn.Module):
    """Siamese network: an embedding of each image, and a head that makes a logit of two of them.

    Key names are those of the published checkpoints (torchvision's for the ResNets, under ``model.``). It starts from
    random weights; none are ever downloaded.

    Args:
        backbone: the network that embeds an image; ``tiny`` compares by the metric head, the others as published.
        width: of ``tiny``'s layers, a multiple of its usual one.

    Raises:
        ValueError: if there is no such backbone, or another than ``tiny`` shall have another width.
    """

    def __init__(self, backbone: VerifierBackbone = "resnet50", width: float = 1.0) -> None:
        super().__init__()
        if backbone not in get_args(VerifierBackbone):
            raise ValueError(f"the verifier's backbone must be one of {', '.join(get_args(VerifierBackbone))}")
        if width != 1 and backbone != "tiny":
            raise ValueError("only the verifier's backbone tiny comes in several widths")
        self.backbone: VerifierBackbone = backbone
        self.metric: bool
        self.normalise: nn.Module
        self.model: nn.Module
        if backbone == "tiny":
            self.metric, self.normalise, self.model = True, StandardizedInput(), SmallResNet(EMBEDDING, width)
        else:
            self.metric, self.normalise, self.model = False, ImageNetInput(), resnet(backbone, EMBEDDING)
        self.norm: nn.Module = nn.BatchNorm1d(EMBEDDING) if self.metric else nn.Identity()
        self.fc_end = nn.Linear(1 if self.metric else EMBEDDING, 1)
        if self.metric:
            nn.init.constant_(self.fc_end.weight, FIRST_SCALE)
            nn.init.constant_(self.fc_end.bias, FIRST_SHIFT)

    def embed(self, images_NCHW: Tensor) -> Tensor:
        """Embedding of each image.

        Args:
            images_NCHW: values in [0, 1], shape (N, 1 or 3, H, W), H and W at least 64; 256 x 256 as published.

        Returns:
            Shape (N, 128): values in (0, 1), or with the metric head vectors of length 1.

        Raises:
            ValueError: if the images are smaller, or have neither one nor three channels.
        """
        check_size(images_NCHW)
        values_NE = self.norm(self.model(self.normalise(images_NCHW)))
        # In float32 at least: under autocast a length of 1 would be rounded to three digits.
        return F.normalize(values_NE.float(), dim=1) if self.metric else torch.sigmoid(values_NE)

    def compare(self, first_PE: Tensor, second_PE: Tensor) -> Tensor:
        """Logit for each pair of embeddings that both are of the same patient.

        Args:
            first_PE: what `embed` gave of one image of each pair.
            second_PE: of the other, same shape.

        Returns:
            Logits, shape (P, 1).
        """
        if self.metric:
            compared_PE = (first_PE * second_PE).sum(dim=1, keepdim=True)
        else:
            compared_PE = torch.abs(first_PE - second_PE)
        logits_P1: Tensor = self.fc_end(compared_PE)
        return logits_P1

    def compare_all(self, queries_QE: Tensor, gallery_GE: Tensor) -> Tensor:
        """Logit of every query with every image of a gallery, shape (Q, G); arguments as in `compare`."""
        if self.metric:
            return self.fc_end.weight * (queries_QE @ gallery_GE.T) + self.fc_end.bias
        differences_QGE = torch.abs(queries_QE[:, None] - gallery_GE[None])
        logits_QG1: Tensor = self.fc_end(differences_QGE)
        return logits_QG1.squeeze(2)

    def forward(self, first_PCHW: Tensor, second_PCHW: Tensor | None = None) -> Tensor:
        """Logit for each pair that both images show the same patient; its sigmoid is the probability.

        Args:
            first_PCHW: values in [0, 1], shape (P, 1 or 3, H, W).
            second_PCHW: the other image of each pair, same shape; without it the images are embedded only, which a
                network wrapped for several workers does by its forward pass alone.

        Returns:
            Logits, shape (P, 1); or embeddings, shape (P, 128).
        """
        if second_PCHW is None:
            return self.embed(first_PCHW)
        if self.metric and first_PCHW.shape == second_PCHW.shape:
            # One pass: both sides are normalized alike, and a batch of one pair has two images.
            first_PE, second_PE = self.embed(torch.cat((first_PCHW, second_PCHW))).chunk(2)
        else:
            # Two passes, as published, so that in training mode each side has batch statistics of its own.
            first_PE, second_PE = self.embed(first_PCHW), self.embed(second_PCHW)
        return self.compare(first_PE, second_PE)
