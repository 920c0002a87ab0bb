"""Keyed obfuscators whose effect is known: what an audit's attackers do about keys can be told from their scores."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from prichexy.audit.attackers.draws import anonymized
from prichexy.audit.evidence import Evidence, Seeds, Split
from prichexy.obfuscation.protocol import Obfuscator
from prichexy.obfuscation.settings import ObfuscationSettings


class Keyed:
    """Changes each image by its key alone.

    Attributes:
        calls: images that were obfuscated.
    """

    native = True
    keyed = True

    def __init__(self, change: Callable[[Tensor, int], Tensor], size: int = 64) -> None:
        self.settings = ObfuscationSettings(kind="identity", image_size=size)
        self.calls = 0
        self._change = change

    def __call__(self, images_N1HW: Tensor, seeds_N: Tensor) -> Tensor:
        self.calls += len(images_N1HW)
        changed = [self._change(image, key) for image, key in zip(images_N1HW, seeds_N.tolist(), strict=True)]
        return torch.stack(changed).clamp(0, 1)

    def at_native(self, thumbnails_N1HW: Tensor, natives: Iterable[Tensor], seeds_N: Tensor) -> Iterator[Tensor]:
        for native, key in zip(natives, seeds_N.tolist(), strict=True):
            yield self._change(native, key)


class Rolled(Keyed):
    """Rolls rows and columns by the key; whoever has it rolls them back, exactly."""

    def __init__(self) -> None:
        super().__init__(lambda image, key: torch.roll(image, _steps(key), dims=(-2, -1)))

    def undone(self, images_N1HW: Tensor, seeds_N: Tensor) -> Tensor:
        steps = [_steps(key) for key in seeds_N.tolist()]
        back = [
            torch.roll(image, (-rows, -columns), (-2, -1))
            for image, (rows, columns) in zip(images_N1HW, steps, strict=True)
        ]
        return torch.stack(back)


def _steps(key: int) -> tuple[int, int]:
    return key % 64, key // 64 % 64


def patterned(strength: float, patterns: int = 24) -> Keyed:
    """Adds a mixture of fixed coarse patterns, by shares that the key decides."""
    fixed = torch.from_numpy(np.kron(np.random.default_rng(5).normal(0, 1, (patterns, 8, 8)), np.ones((8, 8)))).float()

    def change(image: Tensor, key: int) -> Tensor:
        shares = torch.from_numpy(np.random.default_rng(key).normal(0, strength, patterns)).float()
        return image + (shares[:, None, None] * fixed).sum(0)

    return Keyed(change)


def published_with(model: Obfuscator, plain: Evidence, knows_keys: bool = True, seed: int = 0) -> Evidence:
    """The evidence as published by a keyed model with the keys that an audit of that seed draws."""

    def anew(split: Split, number: int) -> Split:
        keys: Seeds = np.random.default_rng((seed, number)).integers(0, 2**63, len(split), dtype=np.int64)
        images = anonymized(model, split.originals_NHW, keys)
        return Split(split.originals_NHW, images, split.patients_N, split.pairs, keys if knows_keys else None)

    splits = [anew(split, number) for number, split in enumerate((plain.train, plain.validation, plain.test))]
    return Evidence(*splits, verifier=plain.verifier, obfuscator=model)
