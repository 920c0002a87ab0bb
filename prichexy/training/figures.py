"""What a generator does to some radiographs, as a picture: original, field, deformed image, difference.

Shape suffixes: N batch, 1 the grey channel, 2 the axes (x, y), H height, W width.
"""

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prichexy.networks.deformation import displacement
from prichexy.networks.smooth_fields import integrated
from prichexy.obfuscation.multi_scale_field import drawn_fields
from prichexy.obfuscation.settings import ObfuscationSettings
from prichexy.training.batches import grey
from prichexy.training.compute import Compute, device_of, evaluating
from prichexy.training.generation import obfuscated, obfuscated_by_key

ARROWS = 16
"""Arrows of the field along each side of an image."""


def obfuscation_figure(
    generator: nn.Module, images_N1HW: Tensor, settings: ObfuscationSettings, compute: Compute
) -> bytes:
    """PNG with a row an image; Privacy-Net has no field, and its column is left out.

    Fields that come from keys are those of the keys 0, 1, ...: the same in every epoch's picture.

    Args:
        generator: of the settings' kind; it is left in the mode that it was in.
        images_N1HW: a few images, float32 in [0, 1] or uint8, shape (N, 1, H, W).
        settings: of the generator.
        compute: precision.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    originals_N1HW = grey(images_N1HW, device_of(generator))
    with evaluating(generator):
        field_N2HW = None
        if settings.kind == "multi-scale-field":
            seeds_N = torch.arange(len(originals_N1HW))
            made_N1HW, _ = obfuscated_by_key(generator, originals_N1HW, seeds_N, settings, compute)
            field_N2HW = integrated(drawn_fields(settings, seeds_N).velocity_N2SS).numpy()
        else:
            made_N1HW = obfuscated(generator, originals_N1HW, settings, compute)
        if settings.mu is not None and settings.operator is not None:
            with compute.autocast(originals_N1HW.device):
                flow_N2HW = generator(originals_N1HW)
            field_N2HW = displacement(flow_N2HW.float(), settings.mu, settings.operator).cpu().numpy()
    before, after = originals_N1HW[:, 0].cpu().numpy(), made_N1HW[:, 0].float().cpu().numpy()
    titles = ["original", *(["field [px]"] if field_N2HW is not None else []), "obfuscated", "difference"]
    figure = Figure(figsize=(2.4 * len(titles), 2.4 * len(before)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(before), len(titles), squeeze=False)
    for row in range(len(before)):
        panels = iter(axes[row])
        next(panels).imshow(before[row], cmap="gray", vmin=0, vmax=1)
        if field_N2HW is not None:
            _draw_field(figure, next(panels), field_N2HW[row])
        next(panels).imshow(after[row], cmap="gray", vmin=0, vmax=1)
        next(panels).imshow(after[row] - before[row], cmap="RdBu", vmin=-0.5, vmax=0.5)
    for number, panel in enumerate(axes.flat):
        panel.set_xticks([])
        panel.set_yticks([])
        if number < len(titles):
            panel.set_title(titles[number], fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _draw_field(figure: Any, panel: Any, field_2HW: NDArray[np.float32]) -> None:
    """Length of the displacement in pixels, and arrows of its direction."""
    height, width = field_2HW.shape[-2:]
    x_HW, y_HW = field_2HW[0] * (width - 1) / 2, field_2HW[1] * (height - 1) / 2  # from half image sides
    drawn = panel.imshow(np.hypot(x_HW, y_HW), cmap="viridis", vmin=0)
    figure.colorbar(drawn, ax=panel, fraction=0.046)
    rows, columns = np.mgrid[
        height // ARROWS // 2 : height : height // ARROWS, width // ARROWS // 2 : width : width // ARROWS
    ]
    panel.quiver(columns, rows, x_HW[rows, columns], y_HW[rows, columns], color="white", angles="xy")
