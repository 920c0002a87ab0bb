"""Planted identifiers are found in bytes in every form that they may take."""

import random
from base64 import b64encode
from pathlib import Path

import pytest

from prichexy.deid.scan import Canaries
from prichexy.errors import UsageError

NAMES = ("Mueller^Anna", "Jürgen Weiß", "山田太郎", "김철수", "4711086", "Roe9")
ENCODINGS = {
    "Mueller^Anna": ["utf-8", "utf-16-le", "utf-16-be"],
    "Jürgen Weiß": ["utf-8", "utf-16-le", "utf-16-be", "latin-1"],
    "山田太郎": ["utf-8", "utf-16-le", "utf-16-be", "shift_jis", "iso2022_jp"],
    "김철수": ["utf-8", "utf-16-le", "utf-16-be", "euc_kr"],
    "4711086": ["utf-8", "utf-16-le", "utf-16-be"],
    "Roe9": ["utf-8", "utf-16-le", "utf-16-be"],
}


@pytest.fixture(scope="module")
def noise() -> bytes:
    return random.Random(7).randbytes(5000)


@pytest.mark.parametrize(
    ("name", "encoding"), [(name, encoding) for name, encodings in ENCODINGS.items() for encoding in encodings]
)
def test_an_identifier_is_found_in_every_form(name: str, encoding: str, noise: bytes) -> None:
    canaries = Canaries([*NAMES, "Nobody Else"])
    encoded = name.encode(encoding)
    forms = [encoded, encoded.hex().encode(), encoded.hex().upper().encode()]
    for before in (b"", b"x", b"xy", b"xyz"):
        forms.append(b64encode(before + encoded + b"??>"))
        forms.append(b64encode(before + encoded))
    assert canaries.found_in(noise) == 0
    for form in forms:
        for at in (0, 2500, len(noise)):
            assert canaries.found_in(noise[:at] + form + noise[at:]) == 1
    assert canaries.found_in(noise[:77] + name[1:].encode(encoding) + noise[77:]) == 0


def test_capitals_and_small_letters_are_one() -> None:
    canaries = Canaries(["Mueller"])
    assert [canaries.found_in(text) for text in (b"xMUELLERx", b"mueller", b"MUELLEr")] == [1, 1, 0]


def test_each_identifier_counts_once() -> None:
    canaries = Canaries(["Roe^Jane", "4711086", "4711086", "4711", "absent"])
    assert len(canaries) == 4
    assert canaries.found_in(b"") == canaries.found_in(b"Roe") == 0
    assert canaries.found_in(b"4711") == 1
    assert canaries.found_in(b"..4711086..Roe^Jane..4711086..") == 3


def test_identifiers_across_and_at_the_end_of_the_pieces_are_found() -> None:
    canaries = Canaries(["4711086-Roe"])
    for before in range((1 << 20) - 12, (1 << 20) + 1):
        assert canaries.found_in(bytes(before) + b"4711086-Roe") == 1


def test_short_forms_are_left_out_where_they_occur_by_chance() -> None:
    canaries = Canaries(["Roe9"])
    assert [canaries.found_in(b"-Roe9-", least) for least in (4, 5)] == [1, 0]
    assert canaries.found_in("Roe9".encode("utf-16-le"), 6) == 1


def test_a_file_lists_one_identifier_a_line(tmp_path: Path) -> None:
    file = tmp_path / "canaries.txt"
    file.write_text("\ufeffRoe^Jane\r\n\n  4711086 \n山田太郎\n", "utf-8")
    canaries = Canaries.from_file(file)
    assert len(canaries) == 3
    assert canaries.found_in("Roe^Jane 4711086 山田太郎".encode()) == 3


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"Roe^Jane\nRoe\n", "line 2 of the canaries .* has fewer than 4 characters"),
        (b"\n \n", "lists none"),
        (b"M\xfcller\n", "is not in UTF-8"),
        (None, "can't be read: No such file"),
    ],
)
def test_a_list_that_can_not_serve_is_refused(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "canaries.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=sentence) as refusal:
        Canaries.from_file(file)
    assert "Roe" not in str(refusal.value)
