"""The patient verifier: are two radiographs of the same patient? (arXiv 2209.11531, section 2.2).

Shape suffixes: P pair, N batch, C channel, H height, W width, E embedding.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from prichexy.networks.backbones import resnet
from prichexy.networks.grey_input import ImageNetInput, check_size
from prichexy.networks.small_resnet import SmallResNet

EMBEDDING = 128

VerifierBackbone = Literal["resnet50", "resnet18", "tiny"]
"""``resnet50`` is the published one; ``resnet18`` has torchvision's key names too; ``tiny`` is `SmallResNet`."""


class Verifier(nn.Module):
    """Siamese network: both images to 128 values in (0, 1) each, and a linear layer on their absolute difference.

    Key names are those of the published checkpoints (torchvision's for the ResNets, under ``model.``). It starts from
    random weights; none are ever downloaded.

    Args:
        backbone: the network that embeds an image.

    Raises:
        ValueError: if there is no such backbone.
    """

    def __init__(self, backbone: VerifierBackbone = "resnet50") -> None:
        super().__init__()
        if backbone not in get_args(VerifierBackbone):
            raise ValueError(f"the verifier's backbone must be one of {', '.join(get_args(VerifierBackbone))}")
        self.backbone: VerifierBackbone = backbone
        # The tiny one takes grey values as they are.
        self.normalise: nn.Module = nn.Identity() if backbone == "tiny" else ImageNetInput()
        self.model: nn.Module = SmallResNet(EMBEDDING) if backbone == "tiny" else resnet(backbone, EMBEDDING)
        self.fc_end = nn.Linear(EMBEDDING, 1)

    def embed(self, images_NCHW: Tensor) -> Tensor:
        """Embedding of each image.

        Args:
            images_NCHW: values in [0, 1], shape (N, 1 or 3, H, W), H and W at least 64; 256 x 256 as published.

        Returns:
            Values in (0, 1), shape (N, 128).

        Raises:
            ValueError: if the images are smaller, or have neither one nor three channels.
        """
        check_size(images_NCHW)
        return torch.sigmoid(self.model(self.normalise(images_NCHW)))

    def forward(self, first_PCHW: Tensor, second_PCHW: Tensor) -> Tensor:
        """Logit for each pair that both images show the same patient; its sigmoid is the probability.

        Args:
            first_PCHW: values in [0, 1], shape (P, 1 or 3, H, W).
            second_PCHW: the other image of each pair, same shape.

        Returns:
            Logits, shape (P, 1).
        """
        # Two passes, as published, so that in training mode each side has batch statistics of its own.
        difference_PE = torch.abs(self.embed(first_PCHW) - self.embed(second_PCHW))
        logits_P1: Tensor = self.fc_end(difference_PE)
        return logits_P1
