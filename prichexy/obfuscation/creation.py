"""New models: converted from a published checkpoint, or made without one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from prichexy.errors import UsageError
from prichexy.networks.checkpoints import identify, load_published
from prichexy.obfuscation.model_files import new_network, save
from prichexy.obfuscation.settings import ObfuscationSettings, parse_settings


def convert_checkpoint(file: Path, folder: Path, given: Mapping[str, Any]) -> ObfuscationSettings:
    """Save a generator's published checkpoint as a model.

    Args:
        file: state dict, pickled model (read without executing it) or safetensors.
        folder: for the model.
        given: obfuscation settings beside kind and features, which the weights tell; the operator of a flow-field
            generator is ``reference`` unless given, since published checkpoints were trained with it.

    Raises:
        UsageError: the file is no checkpoint of a generator, or the settings don't fit it.
    """
    state = load_published(file)
    architecture = identify(state)
    if architecture.kind not in ("flow-field", "privacy-net"):
        raise UsageError(
            f"the file holds a {architecture.kind}, which obfuscates nothing: give a generator's checkpoint"
        )
    published = {"operator": "reference"} if architecture.kind == "flow-field" else {}
    settings = parse_settings({**published, **given, "kind": architecture.kind, "features": architecture.features})
    save(folder, settings, state)
    return settings


def create_untrained(kind: str, folder: Path, seed: int, given: Mapping[str, Any]) -> ObfuscationSettings:
    """Save a model that needs no checkpoint: DP-Pix, the identity, or a network with random weights.

    Args:
        kind: as in `ObfuscationSettings`.
        folder: for the model.
        seed: of a network's weights.
        given: other obfuscation settings.

    Raises:
        UsageError: the settings don't fit the kind.
    """
    settings = parse_settings({**given, "kind": kind})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = new_network(settings)
    save(folder, settings, network.state_dict() if network else None)
    return settings
