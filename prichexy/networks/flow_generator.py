"""The U-Net that predicts a flow field from a radiograph (arXiv 2209.11531, section 2.1).

Shape suffixes: N batch, C channel, H height, W width.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

POOLINGS = 4
SIDE_MULTIPLE = 2**POOLINGS
"""Height and width of an input must be multiples of this: four poolings halve them four times."""


def _block(in_channels: int, features: int, name: str) -> nn.Sequential:
    """Two 3 x 3 convolutions without bias, each with batch norm and ReLU; layers named as in the published files."""
    return nn.Sequential(
        OrderedDict(
            [
                (f"{name}conv1", nn.Conv2d(in_channels, features, kernel_size=3, padding=1, bias=False)),
                (f"{name}norm1", nn.BatchNorm2d(features)),
                (f"{name}relu1", nn.ReLU(inplace=True)),
                (f"{name}conv2", nn.Conv2d(features, features, kernel_size=3, padding=1, bias=False)),
                (f"{name}norm2", nn.BatchNorm2d(features)),
                (f"{name}relu2", nn.ReLU(inplace=True)),
            ]
        )
    )


class FlowFieldGenerator(nn.Module):
    """Flow field F in [-1, 1] for each image: a U-Net with four poolings and a final tanh.

    With the default arguments it has 7,762,498 parameters and the published checkpoints' key names and shapes, so
    that their state dicts load with ``strict=True``.

    Args:
        in_channels: channels of the input image.
        out_channels: channels of the field; 2 are (x, y).
        features: filters of the first block, doubled at each pooling; the published model has 32.
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 2, features: int = 32) -> None:
        super().__init__()
        self.encoder1 = _block(in_channels, features, "enc1")
        self.encoder2 = _block(features, features * 2, "enc2")
        self.encoder3 = _block(features * 2, features * 4, "enc3")
        self.encoder4 = _block(features * 4, features * 8, "enc4")
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.bottleneck = _block(features * 8, features * 16, "bottleneck")
        self.upconv4 = nn.ConvTranspose2d(features * 16, features * 8, kernel_size=2, stride=2)
        self.decoder4 = _block(features * 16, features * 8, "dec4")
        self.upconv3 = nn.ConvTranspose2d(features * 8, features * 4, kernel_size=2, stride=2)
        self.decoder3 = _block(features * 8, features * 4, "dec3")
        self.upconv2 = nn.ConvTranspose2d(features * 4, features * 2, kernel_size=2, stride=2)
        self.decoder2 = _block(features * 4, features * 2, "dec2")
        self.upconv1 = nn.ConvTranspose2d(features * 2, features, kernel_size=2, stride=2)
        self.decoder1 = _block(features * 2, features, "dec1")
        self.conv = nn.Conv2d(features, out_channels, kernel_size=1)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Flow field of each image.

        Args:
            images_NCHW: grey values in [0, 1], shape (N, 1, H, W); H and W multiples of 16.

        Returns:
            Field in [-1, 1], shape (N, 2, H, W), channels (x, y).

        Raises:
            ValueError: if H or W is no multiple of 16.
        """
        height, width = images_NCHW.shape[-2:]
        if height % SIDE_MULTIPLE or width % SIDE_MULTIPLE:
            raise ValueError(
                f"the flow-field generator needs sides that are multiples of {SIDE_MULTIPLE}, not {height} x {width}"
            )
        skip1 = self.encoder1(images_NCHW)
        skip2 = self.encoder2(self.pool(skip1))
        skip3 = self.encoder3(self.pool(skip2))
        skip4 = self.encoder4(self.pool(skip3))
        x = self.bottleneck(self.pool(skip4))
        x = self.decoder4(torch.cat((self.upconv4(x), skip4), dim=1))
        x = self.decoder3(torch.cat((self.upconv3(x), skip3), dim=1))
        x = self.decoder2(torch.cat((self.upconv2(x), skip2), dim=1))
        x = self.decoder1(torch.cat((self.upconv1(x), skip1), dim=1))
        return torch.tanh(self.conv(x))
