"""Privacy-Net's generator, the comparison that draws a new image (Kim et al., "Privacy-Net", IEEE TMI 2021).

Shape suffixes: N batch, C channel, H height, W width.
"""

import torch
from torch import Tensor, nn

SIDE_MULTIPLE = 8
"""Height and width of an input must be multiples of this: three poolings halve them three times."""

NEGATIVE_SLOPE = 0.2


def _convolution(in_channels: int, features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, features, kernel_size=3, padding=1),
        nn.BatchNorm2d(features),
        nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
    )


def _block(in_channels: int, features: int) -> nn.Sequential:
    """Two 3 x 3 convolutions; the second has batch norm and, as published, no activation."""
    return nn.Sequential(
        _convolution(in_channels, features),
        nn.Conv2d(features, features, kernel_size=3, padding=1),
        nn.BatchNorm2d(features),
    )


def _upsampling(features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(features, features, kernel_size=3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(features),
        nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
    )


class PrivacyNetGenerator(nn.Module):
    """Image in, image out: a U-Net with three poolings and a final sigmoid, key names as in the published files.

    Args:
        features: filters of the first block, doubled at each pooling; the published model has 16.
    """

    def __init__(self, features: int = 16) -> None:
        super().__init__()
        self.down_1 = _block(1, features)
        self.down_2 = _block(features, features * 2)
        self.down_3 = _block(features * 2, features * 4)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.bridge = _block(features * 4, features * 8)
        self.trans_1 = _upsampling(features * 8)
        self.up_1 = _block(features * 12, features * 4)
        self.trans_2 = _upsampling(features * 4)
        self.up_2 = _block(features * 6, features * 2)
        self.trans_3 = _upsampling(features * 2)
        self.up_3 = _block(features * 3, features)
        self.out = nn.Sequential(nn.Conv2d(features, 1, kernel_size=3, padding=1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """The drawn image for each image.

        Args:
            images_NCHW: grey values in [0, 1], shape (N, 1, H, W); H and W multiples of 8.

        Returns:
            Grey values in [0, 1], shape (N, 1, H, W).

        Raises:
            ValueError: if H or W is no multiple of 8.
        """
        height, width = images_NCHW.shape[-2:]
        if height % SIDE_MULTIPLE or width % SIDE_MULTIPLE:
            raise ValueError(
                f"the Privacy-Net generator needs sides that are multiples of {SIDE_MULTIPLE}, not {height} x {width}"
            )
        skip1 = self.down_1(images_NCHW)
        skip2 = self.down_2(self.pool(skip1))
        skip3 = self.down_3(self.pool(skip2))
        x = self.bridge(self.pool(skip3))
        x = self.up_1(torch.cat((self.trans_1(x), skip3), dim=1))
        x = self.up_2(torch.cat((self.trans_2(x), skip2), dim=1))
        x = self.up_3(torch.cat((self.trans_3(x), skip1), dim=1))
        drawn_NCHW: Tensor = self.out(x)
        return drawn_NCHW
