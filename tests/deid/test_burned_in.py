"""Burned-in text: found in phantoms and real radiographs, covered so that nothing of it stays, marks kept."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from prichexy.cohort.phantom.cohort import PhantomStudy, render
from prichexy.deid import burned_in
from prichexy.deid.burned_in import Region, clean, detect, networks, redact
from prichexy.errors import Quarantined, UsageError
from tests.deid.drawn_text import glyphs, marked


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    cv2.setNumThreads(1)


def phantom(number: int, size: int = 512, bit_depth: int = 8) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """A phantom without any mark."""
    study = PhantomStudy(11, number, 0, (size, size), f"P{number:05d}", (), "PA", "F", 50)
    return render(study, bit_depth)


def covered(regions: list[Region], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    for region in regions:
        if region.kind == "text":
            mask[region.y : region.y + region.height, region.x : region.x + region.width] = True
    return mask


def test_text_drawn_on_phantoms_is_found() -> None:
    hit, inked, own = 0, 0, 0.0
    for number in range(6):
        image = phantom(number)
        drawn = marked(image, seed=100 + number, texts=3, sizes=(10, 32))
        found = covered(detect(drawn.pixels, 8), image.shape)
        hit += sum(int(found[text.ink].sum()) for text in drawn.texts)
        inked += sum(int(text.ink.sum()) for text in drawn.texts)
        own += covered(detect(image, 8), image.shape).mean() / 6
    assert inked > 10_000
    assert hit / inked >= 0.98
    assert own <= 0.005


def test_text_drawn_on_real_radiographs_is_found_and_laterality_marks_stay(real_data: Path) -> None:
    files = sorted((real_data / "chestxray14" / "images_1024").glob("*.png"))[5::10]
    hit, inked, kept = 0, 0, 0
    for number, file in enumerate(files):
        image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        drawn = marked(image, seed=200 + number)
        found = covered(detect(drawn.pixels, 8), image.shape)
        hit += sum(int(found[text.ink].sum()) for text in drawn.texts)
        inked += sum(int(text.ink.sum()) for text in drawn.texts)
        kept += found[drawn.mark].mean() < 0.05
    assert len(files) == 20
    assert hit / inked >= 0.98
    assert kept >= 17  # 20 draws scatter around the 0.9 that the benchmark measures on 101


def with_word(image: NDArray[np.uint16], word: str, level: int, size: int = 24) -> NDArray[np.bool_]:
    """Draw a word in place, upper left; where its ink is."""
    letters, _ = glyphs(word, size, "DejaVuSans", 1)
    ink = np.zeros(image.shape, bool)
    ink[20 : 20 + letters.shape[0], 20 : 20 + letters.shape[1]] = letters > 127
    image[ink] = level
    return ink


@pytest.mark.parametrize("bit_depth", [10, 12, 16])
def test_deep_images_are_searched_and_cleaned_at_their_depth(bit_depth: int) -> None:
    image = phantom(0, bit_depth=bit_depth).astype(np.uint16)
    ink = with_word(image, "MUELLER, Anna", 2**bit_depth - 1 if image[:60, :200].mean() < 2 ** (bit_depth - 1) else 0)
    cleaned = clean(image, bit_depth, "redact")
    assert covered(list(cleaned.regions), image.shape)[ink].mean() >= 0.98
    assert cleaned.pixels.dtype == np.uint16
    assert cleaned.pixels.max() < 2**bit_depth


def test_text_in_a_narrow_part_of_the_range_is_found() -> None:
    """Grey levels 20,000 to 22,000 of 65,535: eight of 255 levels in the whole range."""
    image = (20_000 + phantom(1).astype(np.uint16) * 7).astype(np.uint16)
    ink = with_word(image, "KOWALSKI 1957", 21_900 if image[20:50, 20:220].mean() < 20_900 else 20_000)
    assert covered(detect(image, 16), image.shape)[ink].mean() >= 0.98


def test_text_across_the_detectors_tiles_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from prichexy.deid.burned_in import detection

    monkeypatch.setattr(detection, "TILE", 256)
    image = phantom(2, size=640).astype(np.uint16)
    ink = np.zeros(image.shape, bool)
    letters, _ = glyphs("OKAFOR^Maria 123456", 40, "DejaVuSans-Bold", 1)
    ink[230 : 230 + letters.shape[0], 60 : 60 + letters.shape[1]] = letters > 127
    image = np.where(ink, 255 if np.median(image[230:270]) < 128 else 0, image).astype(np.uint8)
    assert covered(detect(image, 8), image.shape)[ink].mean() >= 0.98


def test_nothing_of_a_covered_text_reaches_the_result() -> None:
    regions = [Region(16, 16, 300, 40, "text", 0.9), Region(200, 300, 80, 60, "text", 0.9)]
    first, second = (phantom(3).astype(np.uint16) for _ in range(2))
    with_word(first, "SMITH, John", 255)
    with_word(second, "TANAKA 1940", 0)
    first, second = first.astype(np.uint8), second.astype(np.uint8)
    assert (first != second).any()
    np.testing.assert_array_equal(redact(first, 8, regions), redact(second, 8, regions))


def test_only_the_regions_change_and_they_look_like_their_surroundings() -> None:
    image = phantom(4)
    region = Region(200, 220, 120, 40, "text", 0.9)
    mask = covered([region], image.shape)
    inside = image.copy()
    inside[mask] = 255
    result = redact(inside, 8, [region])
    np.testing.assert_array_equal(result[~mask], image[~mask])
    assert (inside[mask] == 255).all()  # the input is left alone
    assert abs(result[mask].astype(float).mean() - image[mask].astype(float).mean()) < 12
    ring = covered([Region(190, 210, 140, 60, "text", 0.9)], image.shape) & ~mask
    assert image[ring].min() - 8 <= result[mask].min() <= result[mask].max() <= image[ring].max() + 8


def test_the_fill_has_the_noise_of_its_surroundings() -> None:
    image = np.clip(np.random.default_rng(1).normal(2000, 40, (256, 256)), 0, 4095).astype(np.uint16)
    result = redact(image, 12, [Region(60, 100, 120, 40, "text", 0.9)])[105:135, 65:175]
    assert 30 <= result.std() <= 55


def test_an_image_that_is_all_text_becomes_black() -> None:
    image = np.full((64, 64), 200, np.uint8)
    assert redact(image, 8, [Region(0, 0, 64, 64, "text", 1.0)]).max() == 0


@pytest.mark.parametrize("letter", ["L", "R"])
def test_a_laterality_mark_stays_and_is_reported(letter: str) -> None:
    image = np.full((512, 512), 60, np.uint8)
    letters, _ = glyphs(letter, 48, "DejaVuSans-Bold", 1)
    image[40 : 40 + letters.shape[0], 420 : 420 + letters.shape[1]][letters > 127] = 230
    cleaned = clean(image, 8, "redact")
    assert cleaned.laterality == letter
    np.testing.assert_array_equal(cleaned.pixels, image)
    quarantined_not = clean(image, 8, "detect-and-quarantine")
    assert [region.kind for region in quarantined_not.regions] == ["laterality"]


def test_a_letter_with_initials_beside_it_is_covered() -> None:
    image = np.full((512, 512), 60, np.uint8)
    big, _ = glyphs("R", 48, "DejaVuSans-Bold", 1)
    small, _ = glyphs("J", 16, "DejaVuSans-Bold", 1)
    image[40 : 40 + big.shape[0], 420 : 420 + big.shape[1]][big > 127] = 230
    for row in (40, 57, 74):
        image[row : row + small.shape[0], 460 : 460 + small.shape[1]][small > 127] = 230
    cleaned = clean(image, 8, "redact")
    assert (cleaned.pixels[36:95, 458:480] < 150).all()


def test_text_is_quarantined_where_that_is_asked_and_never_quoted() -> None:
    image = phantom(5).astype(np.uint16)
    with_word(image, "GARCIA 19400101", 255 if image[20:50, 20:220].mean() < 128 else 0)
    with pytest.raises(Quarantined) as caught:
        clean(image.astype(np.uint8), 8, "detect-and-quarantine")
    assert (caught.value.stage, caught.value.reason) == ("deidentify", "BurnedInText")
    assert "GARCIA" not in str(caught.value)
    assert "1940" not in str(caught.value)


def test_off_looks_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burned_in, "detect", lambda *_: pytest.fail("looked"))
    image = phantom(6)
    cleaned = clean(image, 8, "off")
    assert cleaned.pixels is image
    assert (cleaned.regions, cleaned.laterality) == ((), None)


def test_the_same_image_gives_the_same_result() -> None:
    drawn = marked(phantom(7), seed=5, texts=3, sizes=(10, 32)).pixels
    first, second = clean(drawn, 8, "redact"), clean(drawn, 8, "redact")
    assert first.regions == second.regions
    np.testing.assert_array_equal(first.pixels, second.pixels)


@pytest.mark.parametrize("shape", [(64, 64), (64, 900), (1500, 70)])
def test_odd_shapes_pass(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)
    assert clean(image, 8, "redact").pixels.shape == shape


def test_without_the_weights_the_job_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="rapidocr"):
        networks.require_networks()


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(networks._SHA256, "PP-OCRv6_det_small.onnx", "0" * 64)
    with pytest.raises(UsageError, match="other text networks"):
        networks.require_networks()


def test_threads_do_not_mix_up_their_images() -> None:
    images = [marked(phantom(number, size), seed=number).pixels for number, size in enumerate([256, 320, 256, 512] * 3)]
    one_by_one = [detect(image, 8) for image in images]
    assert len({len(found) for found in one_by_one}) > 1
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda image: detect(image, 8), images * 3)) == one_by_one * 3


@pytest.mark.parametrize("message", ["Exception from plugin.cpp:54: std::bad_alloc", "can't alloc"])
def test_memory_that_is_not_there_is_told_as_such(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(networks, "_request", lambda _: SimpleNamespace(infer=infer))
    with pytest.raises(MemoryError):
        detect(phantom(0), 8)
    message = "something else"
    with pytest.raises(RuntimeError, match="something else"):
        detect(phantom(0), 8)


CALLS = """
import sys

import numpy as np
import torch

called = []
events = {"socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec"}
sys.addaudithook(lambda event, _: called.append(event) if event in events else None)
from prichexy.deid.burned_in import clean
from prichexy.networks.flow_generator import FlowFieldGenerator

if sys.argv[1] == "text":
    clean(np.zeros((100, 100), np.uint8), 8, "redact")
else:
    from prichexy.obfuscation.openvino_network import OpenVinoNetwork

    OpenVinoNetwork(FlowFieldGenerator(features=4).eval(), "float32", 64)(torch.rand(1, 1, 64, 64))
assert "openvino" in sys.modules
print(called, sys.modules["openvino_telemetry"])
"""


@pytest.mark.parametrize("what", ["text", "engine"])
def test_openvino_tells_its_makers_nothing(what: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", CALLS, what],
        capture_output=True,
        text=True,
        check=True,
        env=environment | {"HOME": str(tmp_path)},
    )
    assert done.stdout.strip() == "[] None"
    assert not (tmp_path / "intel").exists()  # where its client's number would be kept


def test_a_network_that_gives_no_numbers_passes_no_image_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [np.full((1, 1, *inputs[0].shape[2:]), np.nan, np.float32)]

    monkeypatch.setattr(networks, "_request", lambda _: SimpleNamespace(infer=infer))
    with pytest.raises(Quarantined, match="no numbers"):
        clean(phantom(0), 8, "redact")


def test_an_image_that_would_be_covered_to_a_large_part_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    half = Region(0, 0, 100, 60, "text", 0.8)
    monkeypatch.setattr("prichexy.deid.burned_in.detect", lambda *_: [half])
    with pytest.raises(Quarantined, match="more than a third of the image"):
        clean(np.full((120, 100), 90, np.uint8), 8, "redact")
    monkeypatch.setattr("prichexy.deid.burned_in.detect", lambda *_: [replace(half, height=30)])
    assert len(clean(np.full((120, 100), 90, np.uint8), 8, "redact").regions) == 1
