"""`prichexy withdraw` at the prompt: whom it takes, what it tells, and how it refuses."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prichexy.cli import app
from prichexy.cli.console import exit_codes
from prichexy.cli.withdraw import NOT_REACHED, withdraw
from prichexy.cohort.catalog import build_catalog
from prichexy.config import CatalogConfig
from prichexy.deid import CustodianKey, LinkRecipient, LinkRow, create_custodian_key
from prichexy.lake.link import read_links, write_links
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify
from tests.lake.test_withdrawal import KEYS, files, grown, image, patient


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and sentence."""
    with pytest.raises(SystemExit) as stop, exit_codes():
        CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return int(str(stop.value.code)), capsys.readouterr().err


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return grown(tmp_path / "out")


@pytest.fixture
def link(tmp_path: Path) -> list[str]:
    """A link table of sources 0 to 5, as options."""
    create_custodian_key(tmp_path / "link.key")
    recipient = LinkRecipient.from_file(tmp_path / "link.key.pub")
    rows = [LinkRow(f"{n}.dcm", image(n), "H", f"{n // 3}", patient(n), {}) for n in range(6)]
    for shard in range(2):
        write_links(Store(str(tmp_path / "link")), 1, shard, [recipient.seal(row) for row in rows[shard::2]])
    return ["--link-table", str(tmp_path / "link"), "--key-file", str(tmp_path / "link.key")]


def linked(tmp_path: Path) -> list[str]:
    key = CustodianKey.from_file(tmp_path / "link.key")
    return sorted(key.open(row).uri for row in read_links(Store(str(tmp_path / "link"))))


def test_a_patient_goes_by_pseudonym_and_people_are_told_what_is_left_to_do(store: Store, secret_file: Path) -> None:
    code, text, notes = run("withdraw", store.uri, "--patient-id", patient(0), "--secret-file", str(secret_file))
    assert code == 0
    assert "withdrawn" in text
    assert "README.md, SHA256SUMS, index.html, splits.parquet" in text
    assert "run `prichexy publish` again" in notes
    assert "--catalog lists them" in notes
    assert verify(store).problems == []


def test_where_else_a_patient_may_be_is_told_at_the_end_in_the_help_and_in_the_readme(
    store: Store, secret_file: Path, link: list[str]
) -> None:
    _, _, notes = run("withdraw", store.uri, "--patient-id", patient(0), "--secret-file", str(secret_file))
    lines = notes.splitlines()
    assert [line for line in lines if line.startswith("- ")] == [f"- {at}: {mend}" for at, mend in NOT_REACHED.items()]
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (paragraph,) = [part for part in readme.split("\n\n") if part.startswith("`prichexy withdraw` takes")]
    for text in (notes, withdraw.__doc__ or "", paragraph):
        told = " ".join(text.split())
        places = "catalogs, training tables, `cache`, `gallery`, `figures`, former versions, other destinations"
        assert [place for place in places.split(", ") if place not in told] == []
        assert "copies that readers have" in told
    # The custodian reaches nothing but the link table, and is told of nothing else.
    assert run("withdraw", *link, "--patient-id", patient(3))[2] == ""


def test_a_patient_goes_by_original_id_from_a_file(store: Store, secret_file: Path, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("0\n\n")
    options = ["--original", str(tmp_path / "id"), "--secret-file", str(secret_file), "--json"]
    code, text, _ = run("withdraw", store.uri, *options)
    facts = json.loads(text)
    assert (code, facts["outcome"], facts["images"]) == (0, "withdrawn", 3)
    assert facts["image_ids"] == sorted(image(source) for source in (0, 1, 2))
    again = json.loads(run("withdraw", store.uri, *options)[1])
    assert (again["outcome"], again["images"]) == ("nothing to do", 0)


def test_a_dry_run_writes_nothing(store: Store, secret_file: Path, link: list[str], tmp_path: Path) -> None:
    before = files(store)
    options = ["--patient-id", patient(0), "--secret-file", str(secret_file), "--dry-run", "--json"]
    facts = json.loads(run("withdraw", store.uri, *options, *link)[1])
    assert (facts["outcome"], facts["images"], facts["link_rows"]) == ("would be withdrawn", 3, 3)
    assert files(store) == before
    assert len(linked(tmp_path)) == 6


def test_the_custodian_removes_link_rows_alone_and_without_the_secret(link: list[str], tmp_path: Path) -> None:
    sealed = set(read_links(Store(str(tmp_path / "link"))))
    code, text, _ = run("withdraw", *link, "--patient-id", patient(0), "--image-id", image(5), "--json")
    assert (code, json.loads(text)["link_rows"]) == (0, 4)
    assert linked(tmp_path) == ["3.dcm", "4.dcm"]
    assert set(read_links(Store(str(tmp_path / "link")))) < sealed, "rows that stay are not sealed anew"
    assert json.loads(run("withdraw", *link, "--patient-id", patient(0), "--json")[1])["link_rows"] == 0


def test_the_catalog_tells_the_source_files(store: Store, secret_file: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    for name in ("a.png", "b\x1b[31m.png", "c.png"):
        (lake / name).write_bytes(b"x")
    labels = tmp_path / "labels.csv"
    labels.write_text("Image Index,Finding Labels,Patient ID\na.png,No Finding,0\nc.png,No Finding,1\n")
    build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "catalog"), labels=str(labels)))
    options = ["--patient-id", patient(0), "--secret-file", str(secret_file), "--catalog", str(tmp_path / "catalog")]
    code, text, notes = run("withdraw", store.uri, *options, "--dry-run")
    assert code == 0
    assert f"source: {lake}/a.png" in text.splitlines()
    assert text.count("source: ") == 1
    assert "--catalog" not in notes
    odd = ["--image-id", image(3), *options[2:]]
    assert run("withdraw", store.uri, *odd, "--dry-run", "--json")[0] == 0
    assert KEYS.image_id("a.png") not in text


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        ([], 2, "name whom: --patient-id, --image-id or --original"),
        (["--patient-id", "MRN-0042"], 2, "--patient-id takes a published pseudonym"),
        (["--image-id", "A" * 32], 2, "--image-id takes a published pseudonym"),
        (["--patient-id", "e" * 32], 1, "one of those that are named is not in"),
        (["--original", "absent"], 2, "--original absent can't be read"),
        (["--original", "empty"], 2, "must hold one Patient ID"),
        (["--original", "many"], 2, "must hold one Patient ID"),
        (["--patient-id", "e" * 32, "--link-table", "link"], 2, "--link-table and --key-file belong together"),
        (["--patient-id", "e" * 32, "--catalog", "absent"], 1, "one of those that are named is not in"),
        (["--patient-id", "e" * 32, "unknown=1"], 2, "unknown setting unknown"),
    ],
)
def test_a_mistake_is_one_sentence_that_quotes_no_identifier(
    store: Store,
    secret_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").write_text("\n")
    Path("many").write_text("MRN-0042\nH\nmore\n")
    before = files(store)
    settings = [each for each in options if "=" in each]
    rest = [each for each in options if "=" not in each]
    found, said = refused(capsys, "withdraw", store.uri, *settings, *rest, "--secret-file", str(secret_file))
    assert (found, said.count("\n")) == (code, 1)
    assert sentence in said
    assert "MRN-0042" not in said
    assert "e" * 32 not in said
    assert files(store) == before


def test_without_secret_or_place_it_says_what_is_missing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no project secret" in refused(capsys, "withdraw", store.uri, "--patient-id", patient(0))[1]
    assert "name where the shards are" in refused(capsys, "withdraw", "--patient-id", patient(0))[1]
