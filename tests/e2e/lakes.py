"""A lake as hospitals have it: PNG and DICOM of many kinds, other people's files, and broken ones."""

import io
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.data import get_testdata_files

from prichexy.cohort.phantom import PhantomCohort, render
from tests.imaging.dx import compressed, dx_file

RLE = "1.2.840.10008.1.2.5"
SYNTAXES = (
    "1.2.840.10008.1.2",  # implicit VR little endian
    "1.2.840.10008.1.2.1",  # explicit VR little endian
    "1.2.840.10008.1.2.2",  # explicit VR big endian
    "1.2.840.10008.1.2.1.99",  # deflated
    RLE,
    "1.2.840.10008.1.2.4.50",  # JPEG baseline
    "1.2.840.10008.1.2.4.70",  # JPEG lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS
    "1.2.840.10008.1.2.4.90",  # JPEG 2000
    "1.2.840.10008.1.2.4.201",  # HTJ2K
)


def radiographs(count: int, real_data: Path | None, size: int = 256) -> list[np.ndarray]:
    """Real 1024-px radiographs where they are at hand, else phantoms; (H, W) uint8."""
    if real_data is not None:
        files = sorted((real_data / "chestxray14" / "images_1024").glob("*.png"))[:count]
        images = [np.asarray(Image.open(file).convert("L")) for file in files]
    else:
        images = [render(study) for study in PhantomCohort(count // 2 + 1, 11, size=size).studies[:count]]
    return [images[number % len(images)] for number in range(count)]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def broken(good: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """60 files that can't be published, of every kind that an issue or an operator has named."""
    small, rng = np.ascontiguousarray(good[:512, :512]), np.random.default_rng(5)
    whole_png, whole_jpeg, whole_dicom = png(small), jpeg(small), dx_file(small, 8)
    photograph = rng.integers(0, 255, (96, 96, 3), np.uint8)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    for number in range(5):
        yield f"empty{number}.dcm", b""
        yield f"cut{number}.png", whole_png[: len(whole_png) * (number + 1) // 7]
        yield f"cut{number}.jpg", whole_jpeg[: len(whole_jpeg) * (number + 1) // 7]
        yield f"cut{number}.dcm", whole_dicom[: len(whole_dicom) * (number + 1) // 7]
        yield f"text{number}.png", f"Name: Roe^Jane, MRN 4711-{number}".encode()
        yield f"video{number}.dcm", whole_dicom.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")
        yield f"frames{number}.dcm", dx_file(small, 8, NumberOfFrames=number + 2)
        yield f"holiday{number}.{'png' if number % 2 else 'jpg'}", (png if number % 2 else jpeg)(photograph)
        yield (
            f"other{number}.dcm",
            dx_file(small, 8, Modality=("CT", "MR", "US", "MG", "XA")[number], SOPClassUID="1.2.3"),
        )
        yield f"thumb{number}.png", png(small[: 20 + 10 * number, :300])
        yield f"bomb{number}.png", bomb + whole_png[33 : 33 + 100 * number]
        yield (
            f"flipped{number}.png",
            whole_png[: 200 + number] + bytes([whole_png[200 + number] ^ 255]) + whole_png[201 + number :],
        )


def mixed_lake(folder: Path, real_data: Path | None) -> dict[str, int]:
    """400 files: 130 PNG, 140 DX in ten transfer syntaxes, 70 of pydicom's own, 60 broken; how many of each."""
    folder.mkdir(parents=True)
    images = radiographs(140, real_data)
    for number, pixels in enumerate(images[:130]):
        # Content decides: every tenth has a wrong extension, every seventh is a JPEG.
        data = jpeg(pixels) if number % 7 == 0 else png(pixels)
        (folder / f"radiograph{number:03d}.{'dcm' if number % 10 == 0 else 'png'}").write_bytes(data)
    (folder / "dicom").mkdir()
    for number, pixels in enumerate(images):
        syntax, patient = SYNTAXES[number % len(SYNTAXES)], f"MRN{number // 3:05d}"
        plain = dx_file(pixels, 8, PatientID=patient) if syntax == RLE else b""
        data = compressed(plain, RLE) if syntax == RLE else dx_file(pixels, 8, syntax, PatientID=patient)
        (folder / "dicom" / f"{number:03d}").write_bytes(data)
    (folder / "pydicom").mkdir()
    own = sorted({Path(name) for name in get_testdata_files() if Path(name).is_file()}, key=lambda path: path.name)
    for number, path in enumerate(own[:: len(own) // 70][:70]):
        shutil.copyfile(path, folder / "pydicom" / f"{number:02d}.dcm")
    (folder / "broken").mkdir()
    for name, data in broken(images[0]):
        (folder / "broken" / name).write_bytes(data)
    return {"png": 130, "dicom": 140, "pydicom": 70, "broken": 60}
