"""Pictures of the gallery, as PNG data URIs: original, field, anonymized, difference.

Shape suffixes: 2 the axes (x, y), H height, W width.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

LARGEST_SIDE = 512
"""Pixels; larger images are shrunk to it, since a page with a dozen native radiographs would not open anywhere."""

ENLARGED = 5
"""By how much grey differences are enlarged in the picture of the difference, as in the README."""

ARROWS = 16
"""Arrows of the field along each side of a picture."""

_INK = LinearSegmentedColormap.from_list("ink", ["#ffffff", "#7a93b8"])  # dark arrows stay readable on its dark end


@dataclass(frozen=True, eq=False)
class GalleryImage:
    """One radiograph that may be shown, before and after.

    Attributes:
        original_HW: uint8, shape (H, W).
        anonymized_HW: uint8, the same shape.
        field_2HW: where each published pixel was taken from, relative to itself, in pixels (x to the right, y down);
            float32, shape (2, H, W); None for a model without a field.
        caption: shown with it; no identifier belongs in it.
    """

    original_HW: NDArray[np.uint8]  # noqa: N815 - images carry their shape
    anonymized_HW: NDArray[np.uint8]  # noqa: N815
    field_2HW: NDArray[np.float32] | None  # noqa: N815
    caption: str

    def __post_init__(self) -> None:
        """Refuse pictures that do not lie on each other.

        Raises:
            ValueError: images of unlike shapes or other types than uint8, or a field of another shape.
        """
        if self.original_HW.dtype != np.uint8 or self.anonymized_HW.dtype != np.uint8:
            raise ValueError("gallery images must be uint8")
        if self.original_HW.ndim != 2 or self.original_HW.shape != self.anonymized_HW.shape:
            raise ValueError("original and anonymized image must have the same shape (H, W)")
        if self.field_2HW is not None and self.field_2HW.shape != (2, *self.original_HW.shape):
            raise ValueError("the field must have the shape (2, H, W) of its image")


@dataclass(frozen=True)
class Pictures:
    """What the page shows of a gallery image.

    Attributes:
        caption: of the gallery image.
        width: of the pictures, in pixels.
        height: likewise.
        shrunk: whether the image itself is larger.
        original: data URI, and so are the others; `field` is None without a field.
        changed: share of pixels whose grey value changed.
        displaced_px: (mean, largest) displacement in pixels of the image itself; None without a field.
    """

    caption: str
    width: int
    height: int
    shrunk: bool
    original: str
    anonymized: str
    difference: str
    changed: float
    field: str | None
    displaced_px: tuple[float, float] | None


def pictures(image: GalleryImage) -> Pictures:
    """The pictures of one gallery image, none larger than `LARGEST_SIDE`."""
    height, width = image.original_HW.shape
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    change_HW = image.anonymized_HW.astype(np.int16) - image.original_HW
    difference_HW = np.clip(128 + ENLARGED * change_HW, 0, 255).astype(np.uint8)
    field, displaced = None, None
    if image.field_2HW is not None:
        length_HW = np.hypot(image.field_2HW[0], image.field_2HW[1])
        displaced = float(length_HW.mean()), float(length_HW.max())
        field = _field(image.field_2HW, length_HW, size)
    return Pictures(
        caption=image.caption,
        width=size[0],
        height=size[1],
        shrunk=scale < 1,
        original=_grey(image.original_HW, size),
        anonymized=_grey(image.anonymized_HW, size),
        difference=_grey(difference_HW, size),
        changed=float(np.mean(change_HW != 0)),
        field=field,
        displaced_px=displaced,
    )


def _grey(image_HW: NDArray[np.uint8], size: tuple[int, int]) -> str:
    picture = Image.fromarray(image_HW)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return _data_uri(buffer)


def _field(field_2HW: NDArray[np.float32], length_HW: NDArray[np.float32], size: tuple[int, int]) -> str:
    """Darker where the image moved farther; arrows to where a pixel was taken from, the longest one gap long."""
    height, width = length_HW.shape
    side = max(256, *size)  # of a picture with room for arrows, however small the image
    dpi = 100
    figure = Figure(figsize=(side * size[0] / max(size) / dpi, side * size[1] / max(size) / dpi))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    largest = float(length_HW.max())
    axes.imshow(length_HW, cmap=_INK, vmin=0, vmax=largest or 1, aspect="auto")
    rows, columns = (
        ((np.arange(ARROWS) + 0.5) * extent / ARROWS).astype(int)
        for extent in (height, width)  # the middle of each cell of a grid
    )
    x, y = (field_2HW[axis][np.ix_(rows, columns)] for axis in (0, 1))
    gap = max(height, width) / ARROWS
    if largest > 0:
        axes.quiver(
            *np.meshgrid(columns, rows),
            x,
            y,
            color="#111111",
            angles="xy",
            scale_units="xy",
            scale=largest / gap,
            width=0.0045,
            headwidth=4,
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return _data_uri(buffer)


def _data_uri(png: io.BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode("ascii")
