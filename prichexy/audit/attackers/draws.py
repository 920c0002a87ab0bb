"""What an attacker who holds a keyed model, but not the keys, makes for himself: keys, and images published with them.

A keyed model publishes an image differently with each key. The attacker has the training images' originals and the
model, so he isn't limited to the one version of each that was published.

Shape suffixes: N image, H height, W width.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from prichexy.audit.evidence import Evidence, Images, Seeds, Split
from prichexy.imaging import from_unit, to_unit
from prichexy.obfuscation.protocol import Obfuscator

DRAWS = 8
"""Versions of each training image that a trained attacker sees, an epoch each. By the eighth the network can't but
learn what all of them share; each takes memory, or the time to make it again."""

SEVERAL = 4
"""Versions that the linear metric sees, which takes all at once: what keys change is known from few; the rest of its
error falls with the number of patients only."""

HELD_BYTES = 2**30
"""Memory in which versions are kept, 1 GiB: eight of 32,000 images at 64 px, or of 2,000 at 256 px."""

_CHUNK = 64

_OWN_KEYS = 0x6B657973
"""Sets an attacker's keys apart: an audit's seed makes the custodian's keys as well, and nobody may guess those."""


def own_keys(seed: int, number: int, count: int) -> Seeds:
    """Keys of an attacker's own, 63 bits each, (count,); the `number`-th such draw of his seed."""
    rng = np.random.default_rng([seed, number, _OWN_KEYS])
    return rng.integers(0, 2**63, count, dtype=np.int64)


def anonymized(obfuscator: Obfuscator, images_NHW: Images, seeds_N: Seeds, device: str = "cpu") -> Images:
    """Images as a model publishes them with some keys, uint8, same shape."""
    published_NHW = np.empty_like(images_NHW)
    for start in range(0, len(images_NHW), _CHUNK):
        here = slice(start, start + _CHUNK)
        grey_N1HW = torch.from_numpy(to_unit(images_NHW[here], 8)).unsqueeze(1).to(device)
        outputs_N1HW = obfuscator(grey_N1HW, torch.from_numpy(np.array(seeds_N[here])))
        published_NHW[here] = from_unit(outputs_N1HW[:, 0].cpu().numpy(), 8)
    return published_NHW


def can_draw(evidence: Evidence) -> bool:
    """Whether the attacker can publish training images anew, and whether they come out otherwise if he does."""
    model, side = evidence.obfuscator, evidence.train.originals_NHW.shape[-1]
    return model is not None and model.keyed and not evidence.native and side == model.settings.image_size


@dataclass(eq=False)
class Draws:
    """Training images published with an attacker's own keys, made when they are asked for.

    All are kept where `count` of them take at most `held_bytes`; otherwise only the last, and one that is asked for
    again is made again, the same.

    Attributes:
        obfuscator: a keyed model.
        originals_NHW: uint8, at the model's size.
        seed: the attacker's.
        count: how many there are.
        device: where images are handed to the model.
        held_bytes: of memory.
    """

    obfuscator: Obfuscator
    originals_NHW: Images  # noqa: N815 - arrays carry their shape
    seed: int
    count: int = DRAWS
    device: str = "cpu"
    held_bytes: int = HELD_BYTES
    _made: dict[int, Images] = field(default_factory=dict, repr=False)

    def of_epoch(self, epoch: int) -> Images:
        """The images that an epoch learns from, uint8, (N, H, W): draw ``epoch`` modulo `count`."""
        number = epoch % self.count
        if number not in self._made:
            if self.count * self.originals_NHW.nbytes > self.held_bytes:
                self._made.clear()
            keys_N = own_keys(self.seed, number, len(self.originals_NHW))
            self._made[number] = anonymized(self.obfuscator, self.originals_NHW, keys_N, self.device)
        return self._made[number]


def fresh_draws(evidence: Evidence, seed: int, device: str = "cpu") -> Draws | None:
    """The training images, published anew as often as an attacker likes; None where he can't, or gains nothing."""
    if evidence.obfuscator is None or not can_draw(evidence):
        return None
    return Draws(evidence.obfuscator, evidence.train.originals_NHW, seed, device=device)


def with_draws(evidence: Evidence, seed: int, held_bytes: int = HELD_BYTES) -> Split:
    """The training split, followed by itself as an attacker published it, `SEVERAL` versions in all.

    Where he can't, or where two versions would take more than `held_bytes`, it is the split as it was. Its pairs are
    those of the first version.
    """
    train, model = evidence.train, evidence.obfuscator
    versions = min(SEVERAL, held_bytes // max(1, 2 * train.originals_NHW.nbytes))
    if model is None or not can_draw(evidence) or versions < 2:
        return train
    keys = [own_keys(seed, number, len(train)) for number in range(versions - 1)]
    drawn = [anonymized(model, train.originals_NHW, keys_N) for keys_N in keys]
    return replace(
        train,
        originals_NHW=np.tile(train.originals_NHW, (versions, 1, 1)),
        anonymized_NHW=np.concatenate([train.anonymized_NHW, *drawn]),
        patients_N=np.tile(train.patients_N, versions),
        seeds_N=None,
    )
