"""Obfuscators behind one protocol: images (N, 1, H, W) in [0, 1] to images whose anatomy identifies less."""

from prichexy.obfuscation.creation import convert_checkpoint, create_untrained
from prichexy.obfuscation.grey_levels import obfuscate_levels
from prichexy.obfuscation.model_files import build, fingerprint_of, from_bytes, load, read, save, to_bytes
from prichexy.obfuscation.protocol import Obfuscator
from prichexy.obfuscation.settings import ObfuscationSettings, parse_settings

__all__ = [
    "ObfuscationSettings",
    "Obfuscator",
    "build",
    "convert_checkpoint",
    "create_untrained",
    "fingerprint_of",
    "from_bytes",
    "load",
    "obfuscate_levels",
    "parse_settings",
    "read",
    "save",
    "to_bytes",
]
