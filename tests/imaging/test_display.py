"""Stored values become what a radiologist sees; pydicom's own pipeline in float64 is the judge."""

import numpy as np
import pytest
from pydicom import Dataset, Sequence
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from prichexy.errors import Quarantined
from prichexy.imaging import decode
from prichexy.imaging.display import as_displayed
from tests.imaging.dx import dx_file, header, picture


def lut(first: int, entries: np.ndarray, bits: int, signed: bool = False) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [entries.size % 65536, first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return Sequence([item])


def by_pydicom(data_set: Dataset, image: np.ndarray, bits: int, low: float, high: float) -> np.ndarray:
    """pydicom's result, its output range [low, high] stretched to 0 .. 2**bits - 1."""
    data_set.set_original_encoding(False, True)
    shown = apply_voi_lut(apply_modality_lut(image, data_set), data_set).astype(np.float64)
    return (shown - low) / (high - low) * (2**bits - 1)


def codes_of(image: np.ndarray, bits: int) -> np.ndarray:
    return (image.astype(np.int64) & (2**bits - 1)).astype(np.uint16)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (1800.5, 900), (700, 1.5), (2000, 1), (-300, 5000)])
@pytest.mark.parametrize("signed", [False, True])
def test_window_is_pydicoms_within_half_a_level(function, center, width, signed):
    image = picture(12).astype(np.int32) - 2048 * signed
    data_set = header(
        WindowCenter=center,
        WindowWidth=width,
        VOILUTFunction=function,
        RescaleSlope=2,
        RescaleIntercept=-100,
        BitsStored=12,
        BitsAllocated=16,
        PixelRepresentation=int(signed),
    )
    low = -2048 * signed * 2 - 100
    expected = by_pydicom(data_set, image, 12, low, low + 4095 * 2)
    shown = as_displayed(data_set, codes_of(image, 12), 12, signed)
    assert shown.dtype == np.uint16
    assert np.abs(shown - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("packed", [False, True])
def test_lut_of_eight_bits_may_be_packed_or_in_words(packed):
    image, entries = picture(12), (np.arange(4096) // 16).astype(np.uint8)
    sequence = lut(0, entries, 8)
    sequence[0].LUTData = entries.astype("u1" if packed else "<u2").tobytes()
    shown = as_displayed(header(VOILUTSequence=sequence), image, 12, False)
    np.testing.assert_array_equal(shown, np.rint(image // 16 * (4095 / 255)))


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_voi_lut_is_pydicoms_within_half_a_level(bits):
    image = picture(12)
    entries = (np.sqrt(np.linspace(0, 1, 3000)) * (2**bits - 1)).astype(np.uint16)
    data_set = header(VOILUTSequence=lut(500, entries, bits), WindowCenter=1, WindowWidth=2)
    expected = by_pydicom(data_set, image, 12, 0, 2**bits - 1)
    assert np.abs(as_displayed(data_set, image, 12, False) - expected).max() <= 0.5 + 1e-6
    assert np.ptp(expected) > 1000


def test_modality_lut_is_pydicoms_within_half_a_level():
    image = picture(12)
    entries = np.linspace(60000, 1000, 4096).astype(np.uint16)
    data_set = header(ModalityLUTSequence=lut(0, entries, 16), WindowCenter=30000, WindowWidth=40000)
    data_set.BitsStored = 12
    shown = as_displayed(data_set, image, 12, False)
    data_set.set_original_encoding(False, True)
    values = apply_modality_lut(image, data_set).astype(np.float64)
    expected = np.clip((values - 29999.5) / 39999 + 0.5, 0, 1) * 4095
    assert np.abs(shown - expected).max() <= 0.5 + 1e-6


def test_signed_lut_start_holds_whatever_vr_it_was_written_with():
    image = picture(12).astype(np.int32) - 2048
    entries = np.arange(4096, dtype=np.uint16)
    for signed, first in ((True, -2048), (False, 65536 - 2048)):
        data_set = header(VOILUTSequence=lut(first, entries, 12, signed))
        np.testing.assert_array_equal(as_displayed(data_set, codes_of(image, 12), 12, True), image + 2048)


def test_lut_of_65536_entries_is_described_by_zero():
    image = picture(16)
    data_set = header(VOILUTSequence=lut(0, np.arange(65536)[::-1], 16))
    np.testing.assert_array_equal(as_displayed(data_set, image, 16, False), 65535 - image.astype(int))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_lut_survives_a_file_of_each_encoding(syntax):
    image, entries = picture(12), np.arange(4096, dtype=np.uint16)[::-1]
    sequence = lut(0, entries, 12)
    if syntax.endswith(".2.2"):
        sequence[0].LUTData = entries.astype(">u2").tobytes()
    np.testing.assert_array_equal(decode(dx_file(image, 12, syntax, VOILUTSequence=sequence)).pixels, 4095 - image)


def test_without_window_the_range_is_stretched_to_the_full_depth():
    image = picture(10)
    shown = as_displayed(header(), image, 10, False)
    assert (shown.min(), shown.max()) == (0, 1023)
    expected = (image.astype(float) - image.min()) / np.ptp(image) * 1023
    assert np.abs(shown - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    "elements", [{"WindowWidth": 0}, {"WindowWidth": -5}, {"WindowWidth": 0.5}, {"WindowCenter": None}]
)
def test_malformed_window_gives_way_to_the_range(elements):
    image = picture(10)
    data_set = header(
        **({"WindowCenter": 300, "WindowWidth": 200} | {k: v for k, v in elements.items() if v is not None})
    )
    if None in elements.values():
        del data_set.WindowCenter
    np.testing.assert_array_equal(as_displayed(data_set, image, 10, False), as_displayed(header(), image, 10, False))


@pytest.mark.parametrize("text", [b"NaN ", b"wide", b"inf "])
def test_window_width_that_is_no_number_gives_way_to_the_range(text):
    image = picture(12)
    file = dx_file(image, 12, WindowCenter=2048, WindowWidth="4096")
    assert file.count(b"DS\4\x004096") == 1
    shown = decode(file.replace(b"DS\4\x004096", b"DS\4\0" + text)).pixels
    np.testing.assert_array_equal(shown, as_displayed(header(), image, 12, False))


def test_first_of_several_windows_counts():
    image = picture(12)
    several = header(WindowCenter=[1500, 3000], WindowWidth=[800, 50])
    one = header(WindowCenter=1500, WindowWidth=800)
    np.testing.assert_array_equal(as_displayed(several, image, 12, False), as_displayed(one, image, 12, False))


@pytest.mark.parametrize(
    "elements",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ],
)
def test_inverted_once(elements):
    image = picture(12)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    np.testing.assert_array_equal(decode(dx_file(image, 12, **window, **elements)).pixels, 4095 - image)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_stretch_the_range(photometric):
    inner = picture(12)[10:-10, 10:-10]
    image = np.pad(inner, 10, constant_values=4095)
    image[:10, :5] = 4090
    elements = {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4090, "PhotometricInterpretation": photometric}
    shown = decode(dx_file(image, 12, **elements)).pixels
    assert shown[:10].max() == 0
    alone = as_displayed(header(PhotometricInterpretation=photometric), inner, 12, False)
    np.testing.assert_array_equal(shown[10:-10, 10:-10], alone)
    assert np.ptp(alone) == 4095


def test_signed_padding_written_as_unsigned_is_recognized():
    image = picture(12).astype(np.int32) - 2048
    image[:20] = -2000
    data_set = header()
    data_set.add_new("PixelPaddingValue", "US", 65536 - 2000)
    shown = as_displayed(data_set, codes_of(image, 12), 12, True)
    assert shown[:20].max() == 0
    np.testing.assert_array_equal(shown[20:], as_displayed(header(), codes_of(image[20:], 12), 12, True))


def test_constant_image_is_black():
    assert as_displayed(header(), np.full((64, 64), 77, np.uint16), 12, False).max() == 0


def test_fewer_than_eight_stored_bits_are_expanded():
    image = picture(6)
    radiograph = decode(dx_file(image, 6, WindowCenter=32, WindowWidth=64))
    assert radiograph.bit_depth == 8
    np.testing.assert_array_equal(radiograph.pixels, np.rint(image * (255 / 63)).astype(np.uint8))


@pytest.mark.parametrize("bits", range(8, 17))
def test_depth_is_the_stored_bits(bits):
    image = picture(bits).astype(np.uint8 if bits == 8 else np.uint16)
    radiograph = decode(dx_file(image, bits))
    assert radiograph.bit_depth == bits
    assert radiograph.pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert (radiograph.pixels.min(), radiograph.pixels.max()) == (0, 2**bits - 1)


@pytest.mark.parametrize(
    "elements",
    [
        {"VOILUTSequence": lut(0, np.arange(10), 40)},
        {"VOILUTSequence": Sequence([Dataset()])},
        {"ModalityLUTSequence": Sequence([Dataset()])},
        {"RescaleSlope": 0},
    ],
)
def test_malformed_lookup_table_is_refused(elements):
    with pytest.raises(Quarantined) as caught:
        decode(dx_file(picture(12), 12, **elements))
    assert caught.value.reason == "Corrupt"


def test_lookup_table_shorter_than_announced_is_refused():
    sequence = lut(0, np.arange(4096), 12)
    sequence[0].LUTData = sequence[0].LUTData[:5000]
    with pytest.raises(Quarantined, match="lookup table") as caught:
        decode(dx_file(picture(12), 12, VOILUTSequence=sequence))
    assert caught.value.reason == "Corrupt"
