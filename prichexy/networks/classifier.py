"""The auxiliary classifier of 14 findings (CheXNet: Rajpurkar et al., arXiv 1711.05225).

Shape suffixes: N batch, C channel, H height, W width, F finding.
"""

import re
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from prichexy.findings import FINDINGS
from prichexy.networks.backbones import densenet121, resnet
from prichexy.networks.grey_input import ImageNetInput, check_size
from prichexy.networks.small_resnet import SmallResNet

INPUT_SIDE = 224
"""The side at which the published DenseNet-121 sees every image."""

ClassifierBackbone = Literal["densenet121", "resnet18", "tiny"]
"""``densenet121`` is the published one; ``resnet18`` has torchvision's key names; ``tiny`` is `SmallResNet`."""

_PUBLISHED_LAYER = re.compile(r"(denselayer\d+)\.(norm|conv)")
_MONAI_LAYER = re.compile(r"(denselayer\d+)\.layers\.")


def monai_key(published: str) -> str:
    """MONAI's name of a parameter that torchvision's DenseNet-121, and the published classifier, call `published`."""
    if published.startswith("classifier.0."):
        return "class_layers.out." + published.removeprefix("classifier.0.")
    return _PUBLISHED_LAYER.sub(r"\1.layers.\2", published)


def published_key(monai: str) -> str:
    """Inverse of `monai_key`."""
    if monai.startswith("class_layers.out."):
        return "classifier.0." + monai.removeprefix("class_layers.out.")
    return _MONAI_LAYER.sub(r"\1.", monai)


def _publish_keys(_module: nn.Module, state: dict[str, Any], prefix: str, _metadata: dict[str, Any]) -> None:
    for key in [key for key in state if key.startswith(prefix + "model.")]:
        state[prefix + published_key(key.removeprefix(prefix + "model."))] = state.pop(key)


def _accept_published_keys(_module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith((prefix + "features.", prefix + "classifier."))]:
        state[prefix + "model." + monai_key(key.removeprefix(prefix))] = state.pop(key)


class Classifier(nn.Module):
    """One logit a finding; it starts from random weights, none are ever downloaded.

    With ``densenet121``, ``state_dict()`` has, and ``load_state_dict`` takes, the published checkpoints' key names
    (torchvision's, the last layer as ``classifier.0``); MONAI's own names stay inside. With the other backbones the
    keys are the backbone's under ``model.``.

    Args:
        backbone: the network; ``densenet121`` is the published one.
        findings: number of outputs.
        input_size: side to which images are resized first; None is 224 for ``densenet121``, as published, and the
            images' own size for the others.

    Raises:
        ValueError: if there is no such backbone.
    """

    def __init__(
        self,
        backbone: ClassifierBackbone = "densenet121",
        findings: int = len(FINDINGS),
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        if backbone not in get_args(ClassifierBackbone):
            raise ValueError(f"the classifier's backbone must be one of {', '.join(get_args(ClassifierBackbone))}")
        self.backbone: ClassifierBackbone = backbone
        self.input_size = INPUT_SIDE if input_size is None and backbone == "densenet121" else input_size
        self.normalise: nn.Module = nn.Identity() if backbone == "tiny" else ImageNetInput()
        if backbone == "densenet121":
            self.model: nn.Module = densenet121(findings)
            self.register_state_dict_post_hook(_publish_keys)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(_accept_published_keys)  # type: ignore[no-untyped-call]
        else:
            self.model = SmallResNet(findings) if backbone == "tiny" else resnet(backbone, findings)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logit of each finding; its sigmoid is the probability.

        Args:
            images_NCHW: values in [0, 1], shape (N, 1 or 3, H, W), H and W at least 64; resized here to
                `input_size` (bilinear, antialiased).

        Returns:
            Logits, shape (N, F), in the order of `FINDINGS`.

        Raises:
            ValueError: if the images are smaller, or have neither one nor three channels.
        """
        check_size(images_NCHW)
        if self.input_size is not None and images_NCHW.shape[-2:] != (self.input_size, self.input_size):
            size = (self.input_size, self.input_size)
            images_NCHW = F.interpolate(images_NCHW, size=size, mode="bilinear", align_corners=False, antialias=True)
        logits_NF: Tensor = self.model(self.normalise(images_NCHW))
        return logits_NF
