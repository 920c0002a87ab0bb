"""Precision by proof: what each engine and precision changes in the published grey levels, and how fast it is."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from prichexy.errors import UsageError
from prichexy.imaging.radiograph import Pixels
from prichexy.imaging.resample import resize
from prichexy.obfuscation.grey_levels import obfuscate_levels
from prichexy.obfuscation.model_files import build
from prichexy.obfuscation.protocol import Obfuscator
from prichexy.obfuscation.settings import Engine, ObfuscationSettings, Precision

LARGEST_AT_SIZE = 1.0
"""Grey levels of 255 by which a result at the network's resolution may differ from torch's in float32."""

LARGEST_NATIVE = 2.0
"""The same at native resolution, where the same error of the field moves a pixel further."""


@dataclass
class Differences:
    """How grey levels differ from those of torch in float32, gathered image by image.

    Attributes:
        largest: in grey levels of 255, whatever the image's bit depth.
        total: sum over all pixels, in the same levels.
        changed: pixels that differ at all.
        pixels: pixels compared.
    """

    largest: float = 0.0
    total: float = 0.0
    changed: int = 0
    pixels: int = 0

    def add(self, reference: Pixels, other: Pixels | None, bit_depth: int) -> None:
        """Compare one image; one that came out as no numbers differs everywhere by everything."""
        levels = np.abs(reference.astype(np.int64) - other) if other is not None else np.full(reference.shape, np.inf)
        levels = levels * (255 / (2**bit_depth - 1))
        self.largest = max(self.largest, float(levels.max()))
        self.total += float(levels.sum())
        self.changed += int((levels > 0).sum())
        self.pixels += levels.size

    @property
    def mean(self) -> float:
        """Mean difference in grey levels of 255."""
        return self.total / self.pixels

    @property
    def changed_share(self) -> float:
        """Share of pixels that differ at all."""
        return self.changed / self.pixels


@dataclass
class EngineCheck:
    """What was found about one engine in one precision.

    Attributes:
        engine: ``torch``, ``winograd``, ``openvino`` or ``cuda-graph``.
        precision: ``float32`` or ``bfloat16``.
        unusable: why it can't be used on this machine, or None.
        at_size: differences at the network's resolution.
        native: differences at native resolution; None where the model has no result there.
        seconds: CPU seconds spent on results at the network's resolution, the first image left out.
        images: how many images that was.
    """

    engine: Engine
    precision: Precision
    unusable: str | None = None
    at_size: Differences = field(default_factory=Differences)
    native: Differences | None = None
    seconds: float = 0.0
    images: int = 0

    @property
    def images_per_second(self) -> float | None:
        """Images a core obfuscates in a second of its time; None where it was not measured."""
        return self.images / self.seconds if self.seconds else None

    @property
    def allowed_at_size(self) -> bool:
        """Whether it may publish at the network's resolution."""
        return self.unusable is None and self.at_size.largest <= LARGEST_AT_SIZE

    @property
    def allowed_native(self) -> bool:
        """Whether it may publish at native resolution."""
        return self.unusable is None and self.native is not None and self.native.largest <= LARGEST_NATIVE


def check_engines(
    settings: ObfuscationSettings, state: Mapping[str, Tensor], images: Iterable[tuple[Pixels, int]]
) -> list[EngineCheck]:
    """Each engine and precision compared with torch in float32 on a CPU; ``cuda-graph`` on a GPU, where there is one.

    On a CPU it uses as many threads as torch is set to.

    Args:
        settings: of a model with a network; its own engine and precision don't matter.
        state: its weights.
        images: grey levels (H, W) and bit depth of each; read one at a time.

    Returns:
        A check for each combination, torch in float32 first: what is compared with itself shows no difference.

    Raises:
        UsageError: the model has no network, or there is no image.
    """
    if settings.precision is None:
        raise UsageError(f"a '{settings.kind}' model has no network, so every engine gives the same: nothing to check")
    checks = [EngineCheck(engine, precision) for engine in get_args(Engine) for precision in get_args(Precision)]
    obfuscators: list[Obfuscator | None] = []
    for check in checks:
        asked = settings.model_copy(update={"engine": check.engine, "precision": check.precision})
        try:
            on_gpu = check.engine == "cuda-graph" and torch.cuda.is_available()
            obfuscators.append(build(asked, state, "cuda" if on_gpu else "cpu"))
        except UsageError as error:
            obfuscators.append(None)
            check.unusable = str(error)
    seen = 0
    for seen, (pixels, bit_depth) in enumerate(images, start=1):
        _compare(pixels, bit_depth, checks, obfuscators, settings.image_size, first=seen == 1)
    if not seen:
        raise UsageError("there is no radiograph to check the engines on: name a folder that holds some")
    return checks


def _compare(
    pixels: Pixels,
    bit_depth: int,
    checks: list[EngineCheck],
    obfuscators: list[Obfuscator | None],
    size: int,
    first: bool,
) -> None:
    """Add one image to all checks; the first of `obfuscators` is the reference."""
    small = resize(pixels, size, size)
    at_size, native = None, None
    for check, obfuscator in zip(checks, obfuscators, strict=True):
        if obfuscator is None:
            continue
        began = time.process_time()
        (result,) = obfuscate_levels(obfuscator, [small], [bit_depth], torch.zeros(1, dtype=torch.int64))
        if not first:  # it also warms caches and allocators
            check.seconds += time.process_time() - began
            check.images += 1
        at_size = _refused_if_none(result) if at_size is None else at_size
        check.at_size.add(at_size, result, bit_depth)
        if obfuscator.native:
            seeds_N = torch.zeros(1, dtype=torch.int64)
            (result,) = obfuscate_levels(obfuscator, [pixels], [bit_depth], seeds_N, [small])
            native = _refused_if_none(result) if native is None else native
            check.native = check.native or Differences()
            check.native.add(native, result, bit_depth)


def _refused_if_none(result: Pixels | None) -> Pixels:
    if result is None:
        raise UsageError("the model's output holds values that are no numbers: its weights are broken")
    return result
