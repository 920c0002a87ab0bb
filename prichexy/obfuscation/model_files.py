"""A model on disk: a folder with ``obfuscation.json`` (settings) and, if it has a network, ``weights.safetensors``."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prichexy.errors import UsageError
from prichexy.networks.checkpoints import (
    State,
    load_into,
    load_safetensors,
    load_safetensors_bytes,
    safetensors_bytes,
    save_safetensors,
)
from prichexy.networks.coarse_appearance import CoarseAppearance
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.networks.privacy_net import PrivacyNetGenerator
from prichexy.obfuscation.dp_pix import DPPix
from prichexy.obfuscation.flow_field import FlowField
from prichexy.obfuscation.identity import Identity
from prichexy.obfuscation.multi_scale_field import MultiScaleField
from prichexy.obfuscation.privacy_net import PrivacyNet
from prichexy.obfuscation.protocol import Obfuscator
from prichexy.obfuscation.settings import PIXELS, ObfuscationSettings, parse_settings

FORMAT_VERSION = 1
SETTINGS_FILE = "obfuscation.json"
WEIGHTS_FILE = "weights.safetensors"

_HEADER_KEY = "obfuscation"  # where `to_bytes` puts the settings in the safetensors header


def new_network(settings: ObfuscationSettings) -> nn.Module | None:
    """The network that the settings describe, with random weights; None for dp-pix and identity."""
    if settings.kind == "flow-field" and settings.features is not None:
        return FlowFieldGenerator(features=settings.features)
    if settings.kind == "privacy-net" and settings.features is not None:
        return PrivacyNetGenerator(features=settings.features)
    if settings.kind == "multi-scale-field" and settings.backbone is not None and settings.kept is not None:
        sigma = (settings.coarse_px or 0.0) / PIXELS * settings.image_size
        return CoarseAppearance(settings.backbone, settings.kept, settings.image_size, sigma, settings.detail or 0.0)
    return None


def build(
    settings: ObfuscationSettings, state: Mapping[str, Tensor] | None = None, device: torch.device | str = "cpu"
) -> Obfuscator:
    """Obfuscator out of its settings and weights, frozen and in eval mode.

    Args:
        settings: what it is made of.
        state: the network's weights under the published key names; None or empty for dp-pix and identity.
        device: where it runs.

    Raises:
        UsageError: if weights are missing, don't fit the network, or are given to a kind without a network.
    """
    network = new_network(settings)
    if network is None and state:
        raise UsageError(f"a '{settings.kind}' model has no network, but weights were given: leave them out")
    if network is not None:
        if not state:
            raise UsageError(f"a '{settings.kind}' model needs weights, but none were given")
        load_into(network, network.completed(state) if isinstance(network, CoarseAppearance) else state)
        if isinstance(network, CoarseAppearance):
            return MultiScaleField(settings, network, device)
        kind = FlowField if settings.kind == "flow-field" else PrivacyNet
        return kind(settings, network, device)
    return DPPix(settings) if settings.kind == "dp-pix" else Identity(settings)


def save(folder: Path, settings: ObfuscationSettings, state: Mapping[str, Tensor] | None = None) -> None:
    """Write a model, after proving that its weights fit; the settings come last, so a torn write has none.

    Args:
        folder: made if absent; what it holds of a model is overwritten.
        settings: what the obfuscator is made of.
        state: the network's weights; None for dp-pix and identity.

    Raises:
        UsageError: if settings and weights don't fit each other, or the folder can't be written.
    """
    build(settings, state)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SETTINGS_FILE).unlink(missing_ok=True)
        (folder / WEIGHTS_FILE).unlink(missing_ok=True)
        if state:
            save_safetensors(state, folder / WEIGHTS_FILE)
        (folder / SETTINGS_FILE).write_text(_settings_text(settings) + "\n", encoding="utf-8")
    except OSError:
        raise UsageError("the model's folder can't be written: check that it is writable and has space") from None


def load(folder: Path, device: torch.device | str = "cpu") -> Obfuscator:
    """Obfuscator out of a model's folder.

    Raises:
        UsageError: if the folder holds no whole model of this format version.
    """
    return build(*read(folder), device)


def read(folder: Path) -> tuple[ObfuscationSettings, State]:
    """Settings and weights of a model's folder; the weights are empty for dp-pix and identity.

    Raises:
        UsageError: if the folder holds no whole model of this format version.
    """
    try:
        text = (folder / SETTINGS_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"the model's folder has no readable {SETTINGS_FILE}: is it a saved model?") from None
    settings = _parse_text(text)
    has_weights = (folder / WEIGHTS_FILE).exists() or _needs_weights(settings)
    return settings, load_safetensors(folder / WEIGHTS_FILE) if has_weights else {}


def _needs_weights(settings: ObfuscationSettings) -> bool:
    return settings.kind in ("flow-field", "privacy-net", "multi-scale-field")


def _settings_text(settings: ObfuscationSettings) -> str:
    return json.dumps({"format": FORMAT_VERSION, **settings.recorded()}, sort_keys=True, indent=2)


def _parse_text(text: str) -> ObfuscationSettings:
    try:
        record: Any = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise UsageError(f"the model's {SETTINGS_FILE} is no JSON object: save or import the model again")
    version = record.pop("format", None)
    if version != FORMAT_VERSION:
        raise UsageError(f"the model's format must be {FORMAT_VERSION}: import it again with this version of prichexy")
    return parse_settings(record)


def fingerprint(folder: Path) -> str:
    """SHA-256 (hex) over a model's settings and weights: what an audit and a manifest say was used."""
    return fingerprint_of(*read(folder))


def fingerprint_of(settings: ObfuscationSettings, state: Mapping[str, Tensor] | None = None) -> str:
    """SHA-256 (hex) over settings and weights, the same for every way in which they can be stored."""
    digest = hashlib.sha256(_settings_text(settings).encode())
    for key, value in sorted((state or {}).items()):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        # Name, type, shape and length stand before each tensor, so that no two models share one stream.
        digest.update(f"\n{json.dumps([key, str(value.dtype), list(value.shape), len(content)])}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def to_bytes(folder: Path) -> bytes:
    """A model as one value for a driver to send to its workers: safetensors with the settings in its header."""
    settings, state = read(folder)
    return safetensors_bytes(state, {_HEADER_KEY: _settings_text(settings)})


def from_bytes(content: bytes, device: torch.device | str = "cpu") -> Obfuscator:
    """Obfuscator out of what `to_bytes` made.

    Raises:
        UsageError: if the content is no such value.
    """
    state = load_safetensors_bytes(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    settings = _parse_text(header.get("__metadata__", {}).get(_HEADER_KEY, ""))
    return build(settings, state, device)
