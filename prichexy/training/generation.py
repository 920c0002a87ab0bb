"""A generator's output turned into the obfuscated image, with gradients.

Shape suffixes: N batch, 1 the grey channel, 2 the axes (x, y), F finding, H height, W width.
"""

from typing import cast

import torch
from torch import Tensor, nn

from prichexy.networks.coarse_appearance import CoarseAppearance
from prichexy.networks.deformation import sampling_grid, warp
from prichexy.obfuscation.multi_scale_field import Fields, changed, decided, drawn_fields
from prichexy.obfuscation.settings import ObfuscationSettings
from prichexy.training.compute import Compute, bare


def obfuscated(generator: nn.Module, images_N1HW: Tensor, settings: ObfuscationSettings, compute: Compute) -> Tensor:
    """Images deformed by their predicted fields (flow-field), or drawn anew (privacy-net).

    Args:
        generator: of the settings' kind.
        images_N1HW: float32 in [0, 1], shape (N, 1, H, W), on the generator's device.
        settings: of kind ``flow-field`` or ``privacy-net``; mu and operator are theirs, precision is `compute`'s.
        compute: precision of the generator; images are deformed in float32 in any case.

    Returns:
        float32 in [0, 1], shape (N, 1, H, W).

    Raises:
        ValueError: if obfuscators of this kind have no network.
    """
    with compute.autocast(images_N1HW.device):
        output = generator(images_N1HW)
    if settings.kind == "privacy-net":
        drawn_N1HW: Tensor = output.float()
        return drawn_N1HW
    if settings.mu is None or settings.operator is None:
        raise ValueError(f"an obfuscator of kind '{settings.kind}' has no network to train")
    flow_N2HW = output.float().contiguous()  # deformation sums along rows: channels-last would be strided
    return warp(images_N1HW, sampling_grid(flow_N2HW, settings.mu, settings.operator))


def obfuscated_by_key(
    generator: nn.Module, images_N1HW: Tensor, seeds_N: Tensor, settings: ObfuscationSettings, compute: Compute
) -> tuple[Tensor, Tensor]:
    """Images as multi-scale-field publishes them, by the same functions, with gradients to what the generator learns.

    Args:
        generator: a `CoarseAppearance`, perhaps wrapped for several workers.
        images_N1HW: float32 in [0, 1], shape (N, 1, H, W), on the generator's device.
        seeds_N: of each image's fields, int64.
        settings: of kind ``multi-scale-field``.
        compute: precision of the classifier; all else is float32.

    Returns:
        float32 in [0, 1], shape (N, 1, H, W); and the classifier's logits of the images as they were, (N, F), without
        gradient.
    """
    appearance = cast(CoarseAppearance, bare(generator))
    with torch.no_grad(), compute.autocast(images_N1HW.device):
        logits_NF = appearance.classifier(images_N1HW)
    logits_NF = logits_NF.float()
    fields = Fields(*(part.to(images_N1HW.device) for part in drawn_fields(settings, seeds_N)))
    how = decided(generator, images_N1HW, logits_NF, fields, settings.code_noise or 0.0)
    return changed(images_N1HW, how), logits_NF
