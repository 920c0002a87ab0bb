"""Where the training of a verifier or classifier starts: weights from a file, never from the network."""

from pathlib import Path
from typing import Literal

from prichexy.errors import UsageError
from prichexy.networks.checkpoints import State, load_into, load_published
from prichexy.networks.classifier import Classifier
from prichexy.networks.verifier import Verifier

Origin = Literal["own", "imagenet"]

# The last layer of torchvision's ImageNet files, for classes that no radiograph has.
_IMAGENET_HEADS = ("fc.weight", "fc.bias", "classifier.weight", "classifier.bias")
_IMAGENET_CLASSES = 1000


def start_from(network: Verifier | Classifier, file: Path) -> Origin:
    """Fill a network from a file: all of it with own weights, or all but its last layers with ImageNet's.

    Args:
        network: what is filled; on any error it stays as it was.
        file: weights of this very network (published or saved here), or torchvision's ImageNet weights of its
            backbone (``resnet50``, ``resnet18``, ``densenet121``); any format that `load_published` takes.

    Returns:
        ``own``, or ``imagenet`` where the last layers have kept their random start.

    Raises:
        UsageError: if the file is no checkpoint, or of another network.
    """
    given = load_published(file)
    if not _is_imagenet(given):
        load_into(network, given)
        return "own"
    if network.backbone == "tiny":
        raise UsageError("the weights file is an ImageNet checkpoint, but the backbone 'tiny' has none: leave it out")
    load_into(network, {**_last_layers(network), **_backbone(network, given)})
    return "imagenet"


def _is_imagenet(given: State) -> bool:
    return any(key in given and given[key].shape[0] == _IMAGENET_CLASSES for key in _IMAGENET_HEADS)


def _backbone(network: Verifier | Classifier, imagenet: State) -> State:
    """ImageNet weights under the network's key names, without their last layer."""
    prefix = "" if network.backbone == "densenet121" else "model."
    return {prefix + key: value for key, value in imagenet.items() if key not in _IMAGENET_HEADS}


def _last_layers(network: Verifier | Classifier) -> State:
    heads = ("model.fc.", "fc_end.", "classifier.")
    return {key: value.clone() for key, value in network.state_dict().items() if key.startswith(heads)}
