"""`prichexy deid` at the prompt: what it tells of a file, and what it never does."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue
from typer.testing import CliRunner

from prichexy.cli import app
from prichexy.cli.console import exit_codes
from prichexy.cohort.phantom.cohort import PhantomStudy
from prichexy.cohort.phantom.dicom import Variant, dicom_file
from prichexy.deid import explain, read_header
from prichexy.deid.profile import ProfileOptions
from tests.deid.headers import EXPLICIT, as_file, phantom_file

WORDS = ("MUELLER, Anna", "MRN 4711086")


def run(*arguments: str) -> tuple[int, str]:
    try:
        with exit_codes():
            result = CliRunner().invoke(app, ["deid", *arguments], catch_exceptions=False)
            return result.exit_code, result.stdout
    except SystemExit as stop:
        return int(str(stop.code)), ""


def explained(file: Path, *options: str) -> dict[str, Any]:
    code, text = run(str(file), "--json", *options)
    assert code == 0
    told: dict[str, Any] = json.loads(text)
    return told


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lake") / "radiograph.dcm"
    path.write_bytes(phantom_file())
    return path


def actions(told: dict[str, Any]) -> dict[str, str]:
    return {line["name"]: line["action"] for line in told["attributes"] if line["name"]}


def texts(data_set: Dataset) -> set[str]:
    """Every value of at least five characters, nested ones too."""
    found = set()
    for element in data_set.iterall():
        values = element.value if isinstance(element.value, MultiValue) else [element.value]
        found |= {str(value) for value in values if element.VR != "SQ" and not isinstance(value, bytes)}
    return {text for text in found if len(text) >= 5}


def test_every_attribute_is_told_with_kind_action_and_rule(file: Path) -> None:
    lines = explained(file, "--no-text")["attributes"]
    assert len(lines) == len(explain(read_header(file.read_bytes()), ProfileOptions()))
    told = {line["name"]: line for line in lines}
    assert told["PatientName"] == {
        "place": "(0010,0010)",
        "name": "PatientName",
        "kind": f"PN, {len(read_header(file.read_bytes()).get_item('PatientName').value)} bytes",
        "action": "Z",
        "rule": "PS3.15 E.1-1, Patient's Name: Z",
        "becomes": "emptied",
    }
    assert told["PatientAddress"]["becomes"] == "removed"


def test_options_change_what_is_told(file: Path) -> None:
    plain = actions(explained(file, "--no-text"))
    names = ("Manufacturer", "StudyDate", "PatientAge")
    assert [plain[name] for name in names] == ["Z", "C", "K"]
    flags = ("--device-identity", "--no-modified-dates", "--no-patient-characteristics")
    changed = [actions(explained(file, "--no-text", flag))[name] for flag, name in zip(flags, names, strict=True)]
    assert changed == ["K", "Z", "X"]


def test_no_value_is_shown(file: Path) -> None:
    values = texts(dcmread(file, stop_before_pixels=True)) - {"CHEST"}  # a word of the profile's rules, too
    assert len(values) > 40
    shown = run(str(file), "--explain", "--no-text")[1] + run(str(file), "--json", "--no-text")[1]
    assert "PatientName" in shown
    assert {value for value in values if value in shown} == set()


def test_burned_in_text_is_told_by_its_boxes_and_never_read(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr", reason="finding burned-in text needs rapidocr's weights")
    drawn = PhantomStudy(5, 0, 0, (512, 512), "P00000", (), "PA", "F", 61)
    data_set, _ = dicom_file(drawn, Variant(EXPLICIT, 8, False, "none", False))
    pixels = np.frombuffer(data_set.PixelData, np.uint8)[: 512 * 512].reshape(512, 512).copy()
    for row, word in enumerate(WORDS):
        cv2.putText(pixels, word, (150, 440 + 40 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2)
    data_set.PixelData = pixels.tobytes()
    file = tmp_path / "written.dcm"
    file.write_bytes(as_file(data_set))
    found = explained(file)["burned_in_text"]
    inside = [box for box in found if box["kind"] == "text" and box["x"] < 200 < box["x"] + box["width"]]
    assert {row for row in (432, 472) for box in inside if box["y"] < row < box["y"] + box["height"]} == {432, 472}
    assert set(found[0]) == {"kind", "x", "y", "width", "height"}
    shown = run(str(file), "--explain")[1]
    assert f"Burned-in text, boxes in pixels: {len(found)}" in shown
    assert not any(part in shown for word in WORDS for part in word.split())
    assert explained(file, "--no-text")["burned_in_text"] is None
    assert "Burned-in text: not looked for" in run(str(file), "--explain", "--no-text")[1]


def test_nothing_is_written(file: Path) -> None:
    before = file.read_bytes()
    assert run(str(file), "--explain", "--no-text")[0] == 0
    assert [path.name for path in file.parent.iterdir()] == ["radiograph.dcm"]
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "arguments", "code", "sentence"),
    [
        (phantom_file(), [], 2, "say --explain: `prichexy deid` only shows what would happen to a file"),
        (b"Roe^Jane 19610312", ["--explain"], 2, "the file is text, not DICOM: it has no header to explain"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), ["--explain"], 2, "the file is PNG, not DICOM"),
        (bytes(range(256)) * 4, ["--json"], 2, "the file is of an unknown format, not DICOM"),
        (b"", ["--explain"], 2, "the file is empty, not DICOM"),
        (phantom_file()[:3000], ["--explain"], 1, "the job would set the file aside: Truncated"),
        (None, ["--explain"], 2, "the file can't be read: No such file or directory"),
    ],
    ids=["without --explain", "text", "PNG", "unknown", "empty", "truncated", "missing"],
)
def test_bad_input_is_one_sentence_without_path_or_value(
    content: bytes | None,
    arguments: list[str],
    code: int,
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "Roe_Jane.dcm"
    if content is not None:
        file.write_bytes(content)
    assert run(str(file), *arguments)[0] == code
    told = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(told) == 1
    assert sentence in told[0]
    assert "Jane" not in told[0]
