"""Every transfer syntax gives the stored pixels back, and the decoders that share one agree."""

from io import BytesIO

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from prichexy.errors import Quarantined
from prichexy.imaging import decode
from prichexy.imaging.codestreams import jpeg2000_frame, jpeg_frame
from prichexy.imaging.jpegxl import jpegxl_size
from tests.imaging.dx import CODECS, compressed, dx_file, picture

IDENTITY = {"WindowCenter": 2048, "WindowWidth": 4096}
NATIVE = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"]
LOSSLESS = [f"1.2.840.10008.1.2.4.{last}" for last in (57, 70, 80, 90, 201, 110)]
LOSSY = {"1.2.840.10008.1.2.4.51": 16, "1.2.840.10008.1.2.4.81": 2}


@pytest.mark.parametrize("syntax", NATIVE + LOSSLESS)
def test_lossless_syntax_gives_the_stored_pixels(syntax):
    image = picture(12, height=97, width=75)
    radiograph = decode(dx_file(image, 12, syntax, **IDENTITY))
    assert radiograph.bit_depth == 12
    np.testing.assert_array_equal(radiograph.pixels, image)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"])
def test_file_compressed_by_pydicom_gives_the_stored_pixels(syntax):
    image = picture(12, height=97, width=75)
    file = compressed(dx_file(image, 12, **IDENTITY), syntax)
    assert pydicom.dcmread(BytesIO(file)).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(decode(file).pixels, image)


@pytest.mark.parametrize("syntax", LOSSY)
def test_lossy_syntax_stays_near_the_stored_pixels(syntax):
    image = picture(12)
    difference = np.abs(decode(dx_file(image, 12, syntax, **IDENTITY)).pixels.astype(int) - image)
    assert 0 < difference.max() <= LOSSY[syntax]


@pytest.mark.parametrize("syntax", [*NATIVE, "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70"])
def test_eight_bits_with_an_odd_number_of_pixels(syntax):
    image = picture(8, height=97, width=75)
    pixels = decode(dx_file(image, 8, syntax, WindowCenter=128, WindowWidth=256)).pixels
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - image).max() <= (4 if syntax.endswith(".50") else 0)


@pytest.mark.parametrize("syntax", [*NATIVE, "1.2.840.10008.1.2.5"])
def test_signed_pixels(syntax):
    image = picture(12).astype(np.int16) - 2048
    file = dx_file(image, 12, WindowCenter=0, WindowWidth=4096)
    file = (
        compressed(file, syntax)
        if syntax.endswith(".5")
        else dx_file(image, 12, syntax, **{"WindowCenter": 0, "WindowWidth": 4096})
    )
    np.testing.assert_array_equal(decode(file).pixels, image + 2048)


def test_big_endian_eight_bits_in_words_are_unswapped():
    image = picture(8)
    swapped = image.reshape(-1, 2)[:, ::-1].tobytes()
    file = dx_file(image, 8, "1.2.840.10008.1.2.2", WindowCenter=128, WindowWidth=256)
    # the element's VR comes right before 2 reserved bytes, its length and the pixels, which end the file
    head = file[: -image.size]
    assert head[-8:-6] == b"OB"
    np.testing.assert_array_equal(decode(head[:-8] + b"OW" + head[-6:] + swapped).pixels, image)
    np.testing.assert_array_equal(decode(file).pixels, image)


@pytest.mark.parametrize("high_bit", [13, 15])
def test_bits_beside_the_stored_ones_are_masked(high_bit):
    image = picture(12)
    shift = high_bit - 11
    noise = np.random.default_rng(1).integers(0, 65536, image.shape, dtype=np.uint16)
    kept = np.uint16(0xFFF << shift)
    stored = (image << shift) | (noise & ~kept)
    np.testing.assert_array_equal(decode(dx_file(stored, 12, HighBit=high_bit, **IDENTITY)).pixels, image)


@pytest.mark.parametrize(
    ("syntax", "plugin", "other"),
    [
        ("1.2.840.10008.1.2.4.57", "gdcm", imagecodecs.jpeg8_decode),
        ("1.2.840.10008.1.2.4.70", "gdcm", imagecodecs.jpeg8_decode),
        ("1.2.840.10008.1.2.4.70", "gdcm", imagecodecs.ljpeg_decode),
        ("1.2.840.10008.1.2.4.80", "pyjpegls", imagecodecs.jpegls_decode),
        ("1.2.840.10008.1.2.4.81", "pyjpegls", imagecodecs.jpegls_decode),
        ("1.2.840.10008.1.2.4.90", "pylibjpeg", imagecodecs.jpeg2k_decode),
        ("1.2.840.10008.1.2.4.201", "pylibjpeg", imagecodecs.htj2k_decode),
    ],
)
def test_both_decoders_of_a_syntax_agree(syntax, plugin, other):
    data_set = pydicom.dcmread(BytesIO(dx_file(picture(12, seed=3), 12, syntax)))
    one, _ = get_decoder(UID(syntax)).as_array(data_set, raw=True, decoding_plugin=plugin)
    two = other(next(generate_frames(data_set.PixelData, number_of_frames=1)))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"])
def test_second_decoder_steps_in_when_the_first_fails(syntax, monkeypatch):
    def failing(*args, **kwargs):
        raise RuntimeError("not today")

    image = picture(12)
    file = dx_file(image, 12, syntax, **IDENTITY)
    by_the_first = decode(file).pixels
    monkeypatch.setattr(imagecodecs, "jpegls_decode", failing)
    np.testing.assert_array_equal(decode(file).pixels, by_the_first)
    assert np.abs(by_the_first.astype(int) - image).max() <= 2


def test_htj2k_is_never_given_to_the_decoder_that_hangs_on_damage(monkeypatch):
    monkeypatch.delattr(imagecodecs, "htj2k_decode")
    image = picture(12)
    np.testing.assert_array_equal(decode(dx_file(image, 12, "1.2.840.10008.1.2.4.201", **IDENTITY)).pixels, image)


def test_jpeg_with_an_impossible_huffman_table_is_refused():
    file = bytearray(dx_file(picture(12), 12, "1.2.840.10008.1.2.4.57"))
    counts = file.index(b"\xff\xc4") + 5  # of the Huffman codes of each length
    file[counts] = 200
    with pytest.raises(Quarantined) as caught:
        decode(bytes(file))
    assert caught.value.reason == "Corrupt"


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 75), (300, 400), (1000, 65), (2048, 1024)])
def test_jpeg_xl_size_is_read_from_the_header(height, width, container):
    stream = imagecodecs.jpegxl_encode(np.zeros((height, width), np.uint8), usecontainer=container, effort=1)
    assert jpegxl_size(stream) == (height, width)


def test_stream_headers_tell_size_and_precision():
    image = picture(12, height=97, width=75)
    jpeg = jpeg_frame(CODECS["1.2.840.10008.1.2.4.70"](image, 12))
    assert (jpeg.height, jpeg.width, jpeg.precision, jpeg.components, jpeg.process) == (97, 75, 12, 1, 0xC3)
    j2k = jpeg2000_frame(CODECS["1.2.840.10008.1.2.4.90"](image, 12))
    assert (j2k.height, j2k.width, j2k.precision, j2k.components) == (97, 75, 12, 1)


@pytest.mark.parametrize("syntax", CODECS)
def test_stream_of_another_size_than_the_header_is_refused_before_it_is_decoded(syntax):
    bits = 8 if syntax.endswith(".50") else 12
    file = dx_file(picture(bits, height=96, width=80), bits, syntax)
    taller = file.replace(b"\x28\0\x10\0US\2\0\x60\0", b"\x28\0\x10\0US\2\0\x70\0")
    assert taller != file
    with pytest.raises(Quarantined, match="size that the header announces") as caught:
        decode(taller)
    assert caught.value.reason == "Corrupt"


@pytest.mark.parametrize("syntax", CODECS)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_stream_cut_off_inside_its_frame_is_refused(syntax, share, monkeypatch):
    bits = 8 if syntax.endswith(".50") else 12
    whole = CODECS[syntax]
    monkeypatch.setitem(CODECS, syntax, lambda image, bits: whole(image, bits)[: int(share * len(whole(image, bits)))])
    with pytest.raises(Quarantined) as caught:
        decode(dx_file(picture(bits), bits, syntax))
    assert caught.value.reason in ("Truncated", "Corrupt")
