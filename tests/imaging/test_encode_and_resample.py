"""Encoding loses nothing; resizing is Pillow's."""

import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from prichexy.imaging import decode, encode_png, from_unit, resize, to_unit
from tests.imaging.dx import picture


@pytest.mark.parametrize("bits", range(8, 17))
def test_encoded_pixels_come_back_at_every_depth(bits):
    image = picture(bits, height=75, width=97)
    image[0, :2] = 0, 2**bits - 1
    file = encode_png(image, bits)
    radiograph = decode(file)
    assert radiograph.bit_depth == bits
    assert radiograph.pixels.dtype == image.dtype
    np.testing.assert_array_equal(radiograph.pixels, image)
    assert file == encode_png(image.copy(), bits)


@pytest.mark.parametrize("bits", range(9, 16))
def test_any_viewer_sees_the_full_range(bits):
    image = np.tile(np.linspace(0, 2**bits - 1, 64).astype(np.uint16), (64, 1))
    seen = cv2.imdecode(np.frombuffer(encode_png(image, bits), np.uint8), cv2.IMREAD_UNCHANGED)
    assert (seen.min(), seen.max()) == (0, 65535)
    assert np.abs(seen / 65535 - image / (2**bits - 1)).max() < 2**-bits


def test_png_holds_pixels_and_significant_bits_only():
    file, kinds, position = encode_png(picture(12), 12), [], 8
    while position < len(file):
        length, kind = struct.unpack_from(">I4s", file, position)
        kinds.append(kind)
        position += 12 + length
    assert kinds[:2] == [b"IHDR", b"sBIT"]
    assert kinds[-1] == b"IEND"
    assert set(kinds[2:-1]) == {b"IDAT"}


@pytest.mark.parametrize(
    ("pixels", "depth"),
    [(picture(8), 12), (picture(12), 8), (picture(12), 10), (picture(12), 7), (picture(12)[0], 12)],
)
def test_pixels_that_do_not_fit_the_depth_are_an_error(pixels, depth):
    with pytest.raises(ValueError, match=r"depth|above"):
        encode_png(pixels, depth)


def test_real_radiographs_survive_encoding(real_data):
    for file in sorted((real_data / "chestxray14" / "images_1024").glob("*.png"))[:2]:
        radiograph = decode(file.read_bytes())
        assert radiograph.pixels.shape == (1024, 1024)
        np.testing.assert_array_equal(radiograph.pixels, np.asarray(Image.open(file).convert("L")))
        np.testing.assert_array_equal(decode(encode_png(radiograph.pixels, 8)).pixels, radiograph.pixels)


def test_eight_bits_are_resized_as_pillow_does():
    image = picture(8, height=200, width=150)
    expected = np.asarray(Image.fromarray(image).resize((70, 64), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize(image, 64, 70), expected)
    assert resize(image, 64, 70).flags.writeable


def test_sixteen_bits_are_resized_to_the_nearest_level():
    image = picture(16, height=200, width=200)
    halved = resize(image, 100, 100)
    assert halved.dtype == np.uint16
    weights = np.array([1, 3, 3, 1]) / 8
    rows = sum(weight * image[19 + k, :].astype(float) for k, weight in enumerate(weights))
    expected = sum(weight * rows[39 + k] for k, weight in enumerate(weights))
    assert abs(int(halved[10, 20]) - expected) <= 0.51


def test_same_size_is_left_alone():
    image = picture(12)
    np.testing.assert_array_equal(resize(image, *image.shape), image)


@pytest.mark.parametrize("bits", range(8, 17))
def test_unit_range_round_trip_is_exact(bits):
    levels = np.arange(2**bits).astype(np.uint8 if bits == 8 else np.uint16)
    unit = to_unit(levels, bits)
    assert (unit.dtype, unit[0], unit[-1]) == (np.float32, 0, 1)
    np.testing.assert_array_equal(from_unit(unit, bits), levels)


def test_values_outside_are_clipped_and_nan_is_an_error():
    x = np.array([-1, 0.5, 2, np.inf], np.float32)
    np.testing.assert_array_equal(from_unit(x, 8), [0, 128, 255, 255])
    with pytest.raises(ValueError, match="NaN"):
        from_unit(np.array([np.nan], np.float32), 8)
