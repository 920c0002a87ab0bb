"""JPEG XL loses nothing, is what other readers take it for, and holds nothing but pixels."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from prichexy.errors import Quarantined
from prichexy.imaging import DecodeLimits, decode, decode_published, encode_jpegxl, encode_png
from prichexy.imaging.jpegxl import plain_jpegxl
from tests.imaging.dx import picture

ANY_SIZE = DecodeLimits(min_side=1)


def noise(bits, height, width):
    levels = np.random.default_rng(bits).integers(0, 1 << bits, (height, width))
    return levels.astype(np.uint8 if bits == 8 else np.uint16)


def box(kind, body):
    return struct.pack(">I4s", 8 + len(body), kind) + body


def in_container(codestream, *others):
    signature = b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl \0\0\0\0jxl ")
    return signature + b"".join(others) + box(b"jxlc", codestream)


def refusal(file, limits=ANY_SIZE):
    with pytest.raises(Quarantined) as caught:
        decode_published(file, limits)
    return caught.value.reason


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize("size", [(75, 97), (64, 64), (256, 256), (300, 270)])
def test_pixels_are_those_of_the_png_at_every_depth(bits, size):
    for image in (picture(bits, *size), noise(bits, *size), np.full_like(picture(bits, *size), 2**bits - 1)):
        file = encode_jpegxl(image, bits)
        radiograph, expected = decode_published(file), decode_published(encode_png(image, bits))
        assert radiograph.bit_depth == expected.bit_depth == bits
        assert radiograph.pixels.dtype == expected.pixels.dtype == image.dtype
        np.testing.assert_array_equal(radiograph.pixels, image)
        np.testing.assert_array_equal(radiograph.pixels, expected.pixels)
        assert file == encode_jpegxl(np.asfortranarray(image), bits)


@pytest.mark.parametrize(("bits", "size"), [(12, (2500, 300)), (16, (2500, 300)), (16, (64, 2100)), (8, (1, 1))])
def test_large_and_small_images_are_plain_too(bits, size):
    image = picture(bits, *size)
    file = encode_jpegxl(image, bits)
    assert plain_jpegxl(file, ANY_SIZE) == (*size, bits)
    np.testing.assert_array_equal(decode_published(file).pixels, image)


def test_noise_of_many_bits_does_not_take_the_process_down():
    # libjxl's effort 1 writes behind its buffer for most of these.
    for bits in (14, 15, 16):
        for size in ((256, 256), (255, 255), (100, 250)):
            image = noise(bits, *size)
            for _ in range(10):
                np.testing.assert_array_equal(decode_published(encode_jpegxl(image, bits)).pixels, image)


def test_real_radiographs_survive_encoding(real_data):
    for path in sorted((real_data / "chestxray14" / "images_1024").glob("*.png"))[:2]:
        radiograph = decode(path.read_bytes())
        np.testing.assert_array_equal(decode_published(encode_jpegxl(radiograph.pixels, 8)).pixels, radiograph.pixels)


@pytest.mark.parametrize("bits", range(8, 17))
def test_pillow_sees_the_full_range_and_a_shift_gives_the_levels_back(bits):
    pytest.importorskip("pillow_jxl", reason="pillow-jxl-plugin is not installed: pip install pillow-jxl-plugin")
    image = picture(bits)
    image[0, :2] = 0, 2**bits - 1
    opened = Image.open(io.BytesIO(encode_jpegxl(image, bits)))
    seen = np.asarray(opened)
    assert (seen.min(), seen.max()) == (0, 255 if bits == 8 else 65535)
    np.testing.assert_array_equal(seen if bits == 8 else seen >> (16 - bits), image)
    # Levels of any depth are declared as those of 8 bits are, by the same curve.
    assert opened.info["icc_profile"] == Image.open(io.BytesIO(encode_jpegxl(picture(8), 8))).info["icc_profile"]
    assert not {"exif", "xmp", "jumb"} & set(opened.info)


@pytest.mark.parametrize(
    ("pixels", "depth"),
    [(picture(8), 12), (picture(12), 8), (picture(12), 10), (picture(12), 7), (picture(12)[0], 12)],
)
def test_pixels_that_do_not_fit_the_depth_are_an_error(pixels, depth):
    with pytest.raises(ValueError, match=r"depth|above"):
        encode_jpegxl(pixels, depth)


def test_bytes_behind_the_image_are_refused_though_decoders_pass_over_them():
    for bits, size in ((8, (75, 97)), (12, (300, 270))):
        file = encode_jpegxl(picture(bits, *size), bits)
        hiding = file + b"Roe^Jane"
        np.testing.assert_array_equal(imagecodecs.jpegxl_decode(hiding), picture(bits, *size))
        assert refusal(hiding) == "Corrupt"
    for size in ((75, 97), (64, 2100)):  # in a container; the latter has its sections in another order
        image = picture(16, *size)
        codestream = encode_jpegxl(image, 16).partition(b"jxlc")[2]
        level = box(b"jxll", b"\x0a")
        assert in_container(codestream, level) == encode_jpegxl(image, 16)
        hiding = in_container(codestream + b"Roe^Jane", level)
        np.testing.assert_array_equal(imagecodecs.jpegxl_decode(hiding), image)
        assert refusal(hiding) == "Corrupt"


def test_other_boxes_are_refused():
    image = picture(12)
    file = encode_jpegxl(image, 12)
    for hiding in (
        in_container(file),
        in_container(file, box(b"Exif", b"\0\0\0\0II*\0Roe^Jane")),
        in_container(file, box(b"xml ", b"<x>Roe^Jane</x>")),
        in_container(file, box(b"jxll", b"\x0a"), box(b"Exif", b"\0\0\0\0II*\0Roe^Jane")),
        in_container(file, box(b"jxll", b"\x0a")) + box(b"xml ", b"<x>Roe^Jane</x>"),
    ):
        np.testing.assert_array_equal(imagecodecs.jpegxl_decode(hiding), image)
        assert refusal(hiding) == "Corrupt"


def test_streams_of_another_kind_are_refused():
    grey, deep = picture(8), picture(12)
    for other in (
        imagecodecs.jpegxl_encode(np.stack([grey] * 3, -1), lossless=True, effort=1),
        imagecodecs.jpegxl_encode(np.stack([grey] * 2, -1), lossless=True, effort=1),  # with alpha
        imagecodecs.jpegxl_encode(grey, level=90),  # not lossless
        imagecodecs.jpegxl_encode(deep, lossless=True, effort=1, bitspersample=12, usecontainer=False),  # linear light
        imagecodecs.jpegxl_encode(np.float32(grey) / 255, lossless=True, effort=3),
        encode_jpegxl(grey, 8)[2:],
        b"",
    ):
        assert refusal(other) in ("Corrupt", "UnsupportedFormat")


def test_every_cut_is_noticed():
    for bits in (8, 16):
        file = encode_jpegxl(picture(bits), bits)
        for length in (*range(1, 80), len(file) // 2, len(file) - 1):
            assert refusal(file[:length]) in ("Truncated", "Corrupt", "UnsupportedFormat")


def test_a_flipped_bit_never_gives_more_than_a_refusal_or_other_pixels():
    file = encode_jpegxl(picture(12), 12)
    for position in range(8 * 60):
        damaged = bytearray(file)
        damaged[position // 8] ^= 1 << position % 8
        try:
            pixels = decode_published(bytes(damaged), DecodeLimits(min_side=1, max_pixels=1_000_000)).pixels
        except Quarantined:
            continue
        assert pixels.ndim == 2


def test_an_announced_size_is_checked_before_anything_is_decoded():
    file = encode_jpegxl(picture(8, 256, 256), 8)
    assert refusal(file, DecodeLimits(max_pixels=256 * 255)) == "DecompressionBomb"
    assert refusal(file, DecodeLimits(min_side=300)) == "TooSmall"


def test_jpeg_xl_is_no_source():
    with pytest.raises(Quarantined, match="the file is JPEG XL; PNG, JPEG and DICOM are read"):
        decode(encode_jpegxl(picture(8), 8))
