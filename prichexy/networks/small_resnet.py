"""A residual network small enough to be trained from scratch on a CPU at 64 px.

Shape suffixes: N batch, C channel, H height, W width, K outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (24, 48, 96, 128)
"""Channels of the four stages; at 64 px they see 32, 16, 8 and 4 pixels a side."""

POOLED_SIDE = 4
"""The last map is pooled to this side, not to one value a channel.

Radiographs are taken in a standard position, so *where* a structure lies tells patients and findings apart; the mean
over the whole image, made for photographs, throws that away.
"""

GREY_MEAN, GREY_STD = 0.5, 0.25  # about those of a chest radiograph's pixels in [0, 1]


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm beside a shortcut (He et al., arXiv 1512.03385, figure 2)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Features of the next block: (N, C', H / stride, W / stride), none below 0."""
        residual_NCHW = F.relu(self.bn1(self.conv1(x_NCHW)), inplace=True)
        residual_NCHW = self.bn2(self.conv2(residual_NCHW))
        return F.relu(residual_NCHW + self.shortcut(x_NCHW), inplace=True)


class SmallResNet(nn.Module):
    """Outputs for each grey image: a stem of stride 2, four residual blocks, a map of 4 x 4, a linear layer.

    Args:
        outputs: K, the number of outputs.
        width: how many times `WIDTHS` channels each stage has.
    """

    def __init__(self, outputs: int, width: float = 1.0) -> None:
        super().__init__()
        widths = tuple(max(1, round(width * channels)) for channels in WIDTHS)
        self.conv1 = nn.Conv2d(1, widths[0], kernel_size=5, stride=2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages = zip((widths[0], *widths[:-1]), widths, (1, 2, 2, 2), strict=True)
        self.layers = nn.Sequential(*(ResidualBlock(before, channels, stride) for before, channels, stride in stages))
        self.pool = nn.AdaptiveAvgPool2d(POOLED_SIDE)
        self.fc = nn.Linear(widths[-1] * POOLED_SIDE**2, outputs)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Outputs of the last layer, without activation.

        Args:
            images_NCHW: values in [0, 1], shape (N, 1 or 3, H, W); three channels count as grey by their mean.

        Returns:
            Shape (N, K).
        """
        grey_N1HW = images_NCHW if images_NCHW.shape[1] == 1 else images_NCHW.mean(dim=1, keepdim=True)
        x_NCHW = F.relu(self.bn1(self.conv1((grey_N1HW - GREY_MEAN) / GREY_STD)), inplace=True)
        outputs_NK: Tensor = self.fc(torch.flatten(self.pool(self.layers(x_NCHW)), start_dim=1))
        return outputs_NK
