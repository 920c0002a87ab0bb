"""MONAI's networks for verifier and classifier, with random weights.

MONAI is imported where it is used: it takes seconds, which every worker with a small network, and every command that
only deforms, would wait.
"""

from typing import Any, Literal

from torch import nn

ResNet = Literal["resnet18", "resnet50"]


def resnet(depth: ResNet, outputs: int) -> nn.Module:
    """ResNet for three channels whose state dict has torchvision's keys.

    Args:
        depth: ``resnet18`` or ``resnet50``.
        outputs: size of its last layer.
    """
    from monai.networks.nets import resnet18, resnet50

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


def densenet121(outputs: int) -> nn.Module:
    """DenseNet-121 for three channels, with MONAI's own key names.

    Args:
        outputs: size of its last layer.
    """
    from monai.networks.nets import DenseNet121

    network: nn.Module = DenseNet121(spatial_dims=2, in_channels=3, out_channels=outputs, pretrained=False)
    return network
