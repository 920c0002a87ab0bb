"""`prichexy link` at the prompt: what the custodian sees, and what is written for the MIDI-B validation script."""

import csv
import json
import stat
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prichexy.cli import app
from prichexy.cli.console import exit_codes
from prichexy.deid import LinkRecipient, LinkRow
from prichexy.lake.link import write_links
from prichexy.lake.storage import Store

ROWS = [
    LinkRow("b/Roe.dcm", "1" * 32, "H", "0042", "a" * 32, {"1.2.9": "2.25.9", "1.2.10": "2.25.10"}),
    LinkRow("a/Roe.dcm", "2" * 32, "H", "0042", "a" * 32, {"1.2.9": "2.25.9", "1.2.11": "2.25.11"}),
    LinkRow('c/\x1b[31mDoe, "J"\udcff.dcm', "3" * 32, "", '7,"x"', "b" * 32, {"1.2.1": "2.25.1"}),
    LinkRow("d.png", "4" * 32, None, None, None, {}),
]


def run(*arguments: str) -> tuple[int, str]:
    try:
        with exit_codes():
            result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
            return result.exit_code, result.stdout
    except SystemExit as stop:
        return int(str(stop.code)), ""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments that name a link table of two shards and its key."""
    monkeypatch.chdir(tmp_path)
    assert run("link", "keygen", "custodian.key")[0] == 0
    recipient = LinkRecipient.from_file(Path("custodian.key.pub"))
    for shard in range(2):
        write_links(Store("links"), 1, shard, [recipient.seal(row) for row in ROWS[2 * shard : 2 * shard + 2]])
    return ["link", "show", "links", "--key-file", "custodian.key"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def as_tuples(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_keygen_makes_both_files_and_tells_where_they_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["link", "keygen", "[k].key"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "wrote [k].key" in result.stderr
    assert "AGE-SECRET" not in result.output
    assert mode(tmp_path / "[k].key") == 0o600
    assert (tmp_path / "[k].key.pub").read_text().startswith("age1")
    assert run("link", "keygen", "[k].key")[0] == 2
    assert "[k].key exists; a key is never overwritten" in capsys.readouterr().err


def test_json_holds_whole_rows(table: list[str]) -> None:
    code, text = run(*table, "--json")
    assert code == 0
    assert sorted(json.loads(text), key=lambda row: row["image_id"]) == [asdict(row) for row in ROWS]


@pytest.mark.parametrize(
    ("filters", "images"),
    [
        (["--image-id", "2" * 32], {"2" * 32}),
        (["--patient-id", "a" * 32], {"1" * 32, "2" * 32}),
        (["--patient-id", "a" * 32, "--image-id", "1" * 32], {"1" * 32}),
        (["--patient-id", "b" * 32, "--image-id", "1" * 32], set()),
        (["--patient-id", "0042"], set()),
    ],
)
def test_rows_are_chosen_by_their_new_ids(table: list[str], filters: list[str], images: set[str]) -> None:
    code, text = run(*table, *filters, "--json", "storage.attempts=1")
    assert code == 0
    assert {row["image_id"] for row in json.loads(text)} == images


def test_people_see_sources_and_ids_and_no_terminal_codes(table: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, text = run(*table)
    assert code == 0
    assert "Links: 4" in text
    lines = {row.image_id: line for row in ROWS for line in text.splitlines() if row.image_id in line}
    assert all(part in lines["1" * 32] for part in ("b/Roe.dcm", "0042", "a" * 32))
    assert 'c/\\x1b[31mDoe, "J"\\udcff.dcm' in lines["3" * 32]
    assert "\x1b" not in text
    assert "1.2.9" not in text


def test_csvs_hold_each_pair_once_sorted_and_are_private(table: list[str]) -> None:
    code, text = run(*table, "--csv", "midi", "--json")
    assert (code, json.loads(text)) == (0, {"folder": "midi", "rows": 4, "patients": 2, "uids": 4})
    assert as_tuples(Path("midi/patid_mapping.csv")) == [["id_old", "id_new"], ["0042", "a" * 32], ['7,"x"', "b" * 32]]
    expected = [["1.2.1", "2.25.1"], ["1.2.10", "2.25.10"], ["1.2.11", "2.25.11"], ["1.2.9", "2.25.9"]]
    assert as_tuples(Path("midi/uid_mapping.csv")) == [["id_old", "id_new"], *expected]
    assert Path("midi/uid_mapping.csv").read_bytes().startswith(b"id_old,id_new\n1.2.1,2.25.1\n")
    assert [mode(path) for path in (Path("midi"), *Path("midi").iterdir())] == [0o700, 0o600, 0o600]


def test_csvs_hold_the_chosen_rows_only(table: list[str]) -> None:
    assert run(*table, "--csv", "one", "--image-id", "1" * 32)[0] == 0
    assert as_tuples(Path("one/uid_mapping.csv"))[1:] == [["1.2.10", "2.25.10"], ["1.2.9", "2.25.9"]]
    assert as_tuples(Path("one/patid_mapping.csv"))[1:] == [["0042", "a" * 32]]


def test_a_uid_with_two_new_ones_leaves_no_csv(table: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    recipient = LinkRecipient.from_file(Path("custodian.key.pub"))
    other = LinkRow("e", "5" * 32, "H", "0099", "c" * 32, {"1.2.9": "2.25.99"})
    write_links(Store("links"), 1, 2, [recipient.seal(other)])
    assert run(*table, "--csv", "midi")[0] == 1
    told = capsys.readouterr().err
    assert "a UID has two new ones" in told
    assert "1.2.9" not in told
    assert not Path("midi").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["links"], 2, "no custodian's key: name its file with --key-file"),
        (["links", "--key-file", "custodian.key.pub"], 2, "holds the public recipient"),
        (["links", "--key-file", "other.key"], 1, "sealed for another key, or altered"),
        (["absent", "--key-file", "custodian.key"], 1, "nothing found at absent"),
        ([".", "--key-file", "custodian.key"], 2, "holds no link table"),
        (["links", "--key-file", "custodian.key", "--csv", "links"], 2, "--csv links exists: choose a new folder"),
        (["links", "--key-file", "custodian.key", "--csv", "a/b"], 2, "--csv a/b can't be made: there is no folder a"),
        (["links", "storag.region=x", "--key-file", "custodian.key"], 2, "unknown setting storag"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_exit_code(
    table: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, sentence: str
) -> None:
    assert run("link", "keygen", "other.key")[0] == 0
    capsys.readouterr()
    assert run("link", "show", *arguments)[0] == code
    told = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(told) == 1
    assert told[0].startswith("error: ")
    assert sentence in told[0]
