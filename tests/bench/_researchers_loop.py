"""The loop as a researcher writes it with the published method at hand: the baseline of the benchmarks.

Pillow or pydicom decodes, torch computes eagerly in float32 one image at a time, `grid_sample` warps, Pillow writes a
PNG at its usual level 6, and every 200 images go into a Parquet file. It does not look for burned-in text, keeps no
header, checks nothing and can't be resumed.
"""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import torch
from PIL import Image
from pydicom.pixels import apply_voi_lut
from torch.nn import functional as F

from prichexy.networks.flow_generator import FlowFieldGenerator

IMAGES_PER_FILE = 200
MU = 0.01


def read(data: bytes) -> np.ndarray:
    """Grey values in [0, 1], (H, W) float32."""
    if data[128:132] == b"DICM":
        ds = pydicom.dcmread(BytesIO(data))
        values = apply_voi_lut(ds.pixel_array, ds).astype(np.float32)
        values = (values - values.min()) / (values.max() - values.min())
        return 1 - values if ds.PhotometricInterpretation == "MONOCHROME1" else values
    return np.array(Image.open(BytesIO(data)).convert("L")).astype(np.float32) / 255


def small(image: np.ndarray) -> torch.Tensor:
    """(1, 1, 256, 256)."""
    resized = Image.fromarray(image).resize((256, 256), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized))[None, None]


def gaussian() -> torch.Tensor:
    x = torch.arange(9) - 4.0
    taps = torch.exp(-(x**2) / (2 * 2.0**2))
    kernel = torch.outer(taps, taps)
    return (kernel / kernel.sum()).expand(2, 1, 9, 9)


def identity(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.stack([x, y], dim=-1)[None]


def anonymized(network: FlowFieldGenerator, image: np.ndarray, native: bool) -> np.ndarray:
    """Grey values in [0, 1] of the deformed image, 256 x 256 or of its own size."""
    with torch.no_grad():
        thumbnail = small(image)
        flow = network(thumbnail)
        field = -MU * F.conv2d(F.pad(flow, (4, 4, 4, 4), mode="replicate"), gaussian(), groups=2)
        picture = torch.from_numpy(image)[None, None] if native else thumbnail
        if native:
            field = F.interpolate(field, size=image.shape, mode="bilinear", align_corners=True)
        grid = identity(*picture.shape[2:]) + field.permute(0, 2, 3, 1)
        return F.grid_sample(picture, grid, padding_mode="border", align_corners=True)[0, 0].clamp(0, 1).numpy()


def png(image: np.ndarray, deep: bool) -> bytes:
    levels = (image * 65535).round().astype(np.uint16) if deep else (image * 255).round().astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


def anonymize(files: Iterable[bytes], network: FlowFieldGenerator, folder: Path, native: bool) -> None:
    """Write the anonymized files into `folder`, 8 bits of a PNG, 16 of a DICOM file."""
    rows: list[dict[str, object]] = []
    written = 0
    for number, data in enumerate(files):
        image = anonymized(network, read(data), native)
        rows.append({"name": f"{number}.png", "image": png(image, deep=data[128:132] == b"DICM")})
        if len(rows) == IMAGES_PER_FILE:
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{written}.parquet")
            rows, written = [], written + 1
    if rows:
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{written}.parquet")
