"""PNG and JPEG of every kind that holds a radiograph."""

import struct
import zlib
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from prichexy.errors import Quarantined
from prichexy.imaging import DecodeLimits, decode
from tests.imaging.dx import picture


def chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png(samples: np.ndarray, depth: int, colour: int, extra: bytes = b"") -> bytes:
    """A PNG without filters of (H, W) or (H, W, C) samples, packed to `depth` bits."""
    height, width = samples.shape[:2]
    if depth == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    elif depth == 8:
        rows = samples.astype(np.uint8).reshape(height, -1)
    else:
        bits = np.unpackbits(samples.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def jpeg(image: np.ndarray, **settings) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", **settings)
    return file.getvalue()


def reason(data: bytes, limits: DecodeLimits | None = None) -> str:
    with pytest.raises(Quarantined) as caught:
        decode(data, limits or DecodeLimits())
    assert caught.value.stage == "decode"
    return caught.value.reason


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_png(depth):
    image = picture(depth)
    radiograph = decode(png(image, depth, 0))
    assert (radiograph.bit_depth, radiograph.source_format) == (max(8, depth), "png")
    np.testing.assert_array_equal(radiograph.pixels, image * (1 if depth >= 8 else 255 // (2**depth - 1)))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_png_with_equal_channels_or_opaque_alpha_is_grey(depth, colour, channels):
    image = picture(depth)
    full = np.full_like(image, 2**depth - 1)
    planes = {2: [image, full], 3: [image] * 3, 4: [image, image, image, full]}[channels]
    np.testing.assert_array_equal(decode(png(np.dstack(planes), depth, colour)).pixels, image)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("colour", [4, 6])
def test_alpha_is_composited_over_black(depth, colour):
    image, alpha = picture(depth), picture(depth, seed=5)
    planes = [image] * (colour // 2 if colour == 6 else 1) + [alpha]
    shown = decode(png(np.dstack(planes), depth, colour)).pixels
    expected = image.astype(float) * alpha / (2**depth - 1)
    assert np.abs(shown - expected).max() <= 0.5


def test_transparent_grey_level_is_black():
    image = picture(8)
    image[:30] = 200
    shown = decode(png(image, 8, 0, chunk(b"tRNS", b"\0\xc8"))).pixels
    np.testing.assert_array_equal(shown, np.where(image == 200, 0, image))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_palette_png(depth):
    image = picture(depth)
    levels = np.linspace(250, 5, 2**depth).astype(np.uint8)
    file = png(image, depth, 3, chunk(b"PLTE", np.repeat(levels, 3).tobytes()))
    np.testing.assert_array_equal(decode(file).pixels, levels[image])


def test_transparent_palette_entries_are_black():
    image, levels = picture(4), np.linspace(10, 250, 16).astype(np.uint8)
    extra = chunk(b"PLTE", np.repeat(levels, 3).tobytes()) + chunk(b"tRNS", b"\xff" * 7 + b"\0")
    levels[7] = 0
    np.testing.assert_array_equal(decode(png(image, 4, 3, extra)).pixels, levels[image])


def test_interlaced_png(tmp_path):
    image = picture(8)
    height, width = image.shape
    raw = b""
    for y0, x0, dy, dx in (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):
        raw += b"".join(b"\0" + row.tobytes() for row in image[y0::dy, x0::dx])
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1))
    file = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(file).pixels, image)


@pytest.mark.parametrize(("significant", "depth"), [(8, 16), (9, 9), (12, 12), (15, 15), (16, 16)])
def test_significant_bits_of_a_16_bit_png_are_its_depth(significant, depth):
    image = picture(16)
    radiograph = decode(png(image, 16, 0, chunk(b"sBIT", bytes([significant]))))
    assert radiograph.bit_depth == depth
    np.testing.assert_array_equal(radiograph.pixels, image >> (16 - depth))


def test_colour_png_is_refused():
    image = picture(8)
    assert reason(png(np.dstack([image, image // 2, 255 - image]), 8, 2)) == "ColourPhotograph"
    assert reason(png(image, 8, 3, chunk(b"PLTE", np.arange(768).astype(np.uint8).tobytes()))) == "ColourPhotograph"


def test_slight_chroma_noise_passes_and_a_tint_does_not():
    image = np.dstack([picture(8)] * 3).astype(float)
    noisy = image + np.random.default_rng(0).normal(0, 2, image.shape)
    shown = decode(png(noisy.round().clip(0, 255), 8, 2)).pixels
    assert np.abs(shown - image[..., 0]).max() < 10
    assert reason(png(image * [1.0, 0.9, 0.75], 8, 2)) == "ColourPhotograph"


def test_real_colour_photographs_are_refused():
    images = pytest.importorskip("sklearn.datasets").load_sample_images().images
    assert [reason(jpeg(image)) for image in images] == ["ColourPhotograph"] * 2


def test_animated_png_is_refused():
    assert reason(png(picture(8), 8, 0, chunk(b"acTL", struct.pack(">II", 2, 0)))) == "MultiFrame"


def test_text_chunks_and_profiles_are_not_inflated():
    bomb = zlib.compress(bytes(50_000_000))
    extra = chunk(b"zTXt", b"note\0\0" + bomb) + chunk(b"iCCP", b"icc\0\0" + bomb)
    np.testing.assert_array_equal(decode(png(picture(8), 8, 0, extra)).pixels, picture(8))


def test_png_bomb_is_refused_by_its_header():
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    assert reason(data) == "DecompressionBomb"
    assert reason(data[:40]) == "DecompressionBomb"


def test_limits_are_inclusive():
    file = png(picture(8, height=64, width=70), 8, 0)
    assert decode(file, DecodeLimits(min_side=64, max_pixels=64 * 70)).pixels.shape == (64, 70)
    assert reason(file, DecodeLimits(min_side=65)) == "TooSmall"
    assert reason(file, DecodeLimits(max_pixels=64 * 70 - 1)) == "DecompressionBomb"
    assert reason(file, DecodeLimits(max_bytes=len(file) - 1)) == "TooLarge"


@pytest.mark.parametrize("progressive", [False, True])
def test_grey_jpeg_is_near_the_original(progressive):
    image = picture(8)
    radiograph = decode(jpeg(image, quality=97, progressive=progressive))
    assert (radiograph.bit_depth, radiograph.source_format) == (8, "jpeg")
    assert np.abs(radiograph.pixels.astype(int) - image).max() <= 4


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_grey_picture_in_a_colour_jpeg_equals_its_grey_jpeg(quality):
    image = picture(8)
    colour = decode(jpeg(np.dstack([image] * 3), quality=quality)).pixels
    np.testing.assert_array_equal(colour, decode(jpeg(image, quality=quality)).pixels)


@pytest.mark.parametrize("bits", [9, 12, 16])
def test_lossless_jpeg_keeps_its_precision(bits):
    image = picture(bits)
    radiograph = decode(imagecodecs.jpeg8_encode(image, lossless=True, bitspersample=bits))
    assert radiograph.bit_depth == bits
    np.testing.assert_array_equal(radiograph.pixels, image)


def test_twelve_bit_jpeg():
    image = picture(12)
    radiograph = decode(imagecodecs.jpeg8_encode(image, level=98, bitspersample=12))
    assert radiograph.bit_depth == 12
    assert np.abs(radiograph.pixels.astype(int) - image).max() <= 16


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    image = picture(8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = [lambda a: a, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, np.transpose]
    turns += [lambda a: np.rot90(a, -1), lambda a: np.rot90(a, 2).T, np.rot90]
    shown = decode(jpeg(image, quality=95, exif=exif)).pixels
    np.testing.assert_array_equal(shown, turns[orientation - 1](decode(jpeg(image, quality=95)).pixels))
    assert shown.flags.c_contiguous


def test_cmyk_jpeg_is_refused():
    file = BytesIO()
    Image.fromarray(np.dstack([picture(8)] * 4), "CMYK").save(file, "JPEG")
    assert reason(file.getvalue()) == "ColourPhotograph"


def test_jpeg_bomb_is_refused_by_its_header():
    file = jpeg(picture(8, height=96, width=80))
    huge = file.replace(struct.pack(">BHH", 8, 96, 80), struct.pack(">BHH", 8, 60_000, 60_000))
    assert huge != file
    assert reason(huge) == "DecompressionBomb"


@pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 0.97])
def test_jpeg_cut_off_and_closed_with_an_end_marker_is_refused(share):
    file = jpeg(picture(8, height=200, width=200), quality=90)
    assert reason(file[: int(share * len(file))] + b"\xff\xd9") == "Truncated"


def test_png_with_a_damaged_checksum_is_refused():
    file = bytearray(png(picture(8), 8, 0))
    file[len(file) // 2] ^= 1
    assert reason(bytes(file)) == "Corrupt"


def test_png_with_too_few_rows_is_refused():
    whole = png(picture(8, height=96), 8, 0)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 80, 120, 8, 0, 0, 0, 0))
    assert reason(whole[:8] + head + whole[33:]) == "Corrupt"
