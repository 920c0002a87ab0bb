"""One grey channel made into what networks that started from ImageNet expect."""

import torch
from torch import Tensor, nn

# Channel means and standard deviations of ImageNet's training images in [0, 1] (RGB), by which every published
# ImageNet checkpoint of ResNet-50 and DenseNet-121 was trained.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SMALLEST_SIDE = 64
"""Images of a smaller side are refused: the deepest maps of every backbone would have a pixel or none."""


def check_size(images_NCHW: Tensor) -> None:
    """Refuse what is no batch of grey or three-channel images of at least 64 x 64.

    Raises:
        ValueError: naming the shape.
    """
    if images_NCHW.ndim != 4 or images_NCHW.shape[1] not in (1, 3) or min(images_NCHW.shape[2:]) < SMALLEST_SIDE:
        raise ValueError(
            f"expected images of shape (N, 1 or 3, H, W) with sides of at least {SMALLEST_SIDE}, "
            f"not {tuple(images_NCHW.shape)}"
        )


class ImageNetInput(nn.Module):
    """Three equal, ImageNet-normalised channels of a grey image; three channels given are only normalised."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Not persistent: the published state dicts don't hold them.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Normalised channels.

        Args:
            images_NCHW: values in [0, 1], shape (N, 1, H, W) or (N, 3, H, W).

        Returns:
            Shape (N, 3, H, W).

        Raises:
            ValueError: if there are neither one nor three channels.
        """
        if images_NCHW.ndim != 4 or images_NCHW.shape[1] not in (1, 3):
            raise ValueError(f"expected images of shape (N, 1 or 3, H, W), not {tuple(images_NCHW.shape)}")
        return (images_NCHW.expand(-1, 3, -1, -1) - self.mean) / self.std
