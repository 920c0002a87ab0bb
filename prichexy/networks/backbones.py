"""The residual networks of verifier and classifier, with torchvision's key names and random weights."""

from typing import Any, Literal

from monai.networks.nets import resnet18, resnet50
from torch import nn

ResNet = Literal["resnet18", "resnet50"]


def resnet(depth: ResNet, outputs: int) -> nn.Module:
    """ResNet for three channels whose state dict has torchvision's keys.

    Args:
        depth: ``resnet18`` or ``resnet50``.
        outputs: size of its last layer.
    """
    # These arguments turn MONAI's ResNets into torchvision's: stem of stride 2, projections without bias.
    arguments: dict[str, Any] = {
        "spatial_dims": 2,
        "n_input_channels": 3,
        "num_classes": outputs,
        "conv1_t_stride": 2,
        "bias_downsample": False,
        "shortcut_type": "B",
        "pretrained": False,
    }
    network: nn.Module = resnet50(**arguments) if depth == "resnet50" else resnet18(**arguments)
    return network
