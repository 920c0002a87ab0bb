"""A sample of 2,000 phantom images, published by the job to an S3 server: all consumers read it there.

The model is untrained, and the audit that allows it never ran: both are beside the point here.
"""

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from prichexy.cohort.phantom import PhantomCohort, write_mixed
from prichexy.config import PublishConfig
from prichexy.findings import FINDINGS
from prichexy.publish.writing import documents
from prichexy.registry import Registry, promote, store_audit
from tests.e2e.conftest import S3Server, prichexy
from tests.publish.consumers import FOOTER, Place, card_block, decoded, losses, printed
from tests.registry.registered import SECRET, registered
from tests.verdict.records import record

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1500)]

PATIENTS, STUDIES, SIDE = 500, 4, 96
IMAGES = PATIENTS * STUDIES
SHARD = 256
STATED = {
    "title": "Two thousand phantoms",
    "creators": ["Example Hospital"],
    "origin": "Drawn in 2026.",
    "approval": "None is needed: nobody is depicted.",
}
PRIVATE = ("hospital-lake", "private-side", "phantom-secret", "registry.db", "127.0.0.1")
"""Names of what is not public: lake, bucket of the catalog, secret, registry, the server's address."""


@dataclass(frozen=True)
class Sample:
    """What was published, and a copy of it as a reader has it who took it home."""

    place: Place
    copy: Path
    check: list[str]
    environment: dict[str, str]

    @property
    def sizes(self) -> list[int]:
        return [path.stat().st_size for path in sorted((self.copy / "data").iterdir())]

    def stored(self, *columns: str) -> int:
        """Bytes of these columns in all shards."""
        files = [pq.read_metadata(path) for path in sorted((self.copy / "data").iterdir())]
        groups = [file.row_group(number) for file in files for number in range(file.num_row_groups)]
        chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
        return sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema in columns)


@dataclass(frozen=True)
class Shown:
    """A table of the card: images and patients of what it shows, by label, and labels of what it withholds."""

    shown: dict[str, tuple[int, int]]
    withheld: tuple[str, ...]


def tables_of(card: str) -> dict[str, Shown]:
    """The card's tables of images and patients, by title."""
    tables = {}
    for title, body in re.findall(
        r"^\| ([\w ]+) \| images \| patients \|\n\|[-:|]+\|\n((?:\|.*\n)*)", card, re.MULTILINE
    ):
        lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body.splitlines()]
        shown = {label: (number(images), number(people)) for label, images, people in lines if images != "withheld"}
        withheld = [label for labels, images, _ in lines if images == "withheld" for label in labels.split(", ")]
        tables[title] = Shown(shown, tuple(withheld))
    return tables


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.fixture(scope="module")
def sample(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Drawn, catalogued, anonymized, published: by the commands, as a user gives them."""
    folder = tmp_path_factory.mktemp("sample")
    lake, secret, tracking = folder / "hospital-lake", folder / "phantom-secret", f"sqlite:///{folder}/registry.db"
    for bucket in ("private-side", "public-sample"):
        s3.client().mkdir(bucket)
    began = time.monotonic()
    labels = write_mixed(PhantomCohort(PATIENTS, 11, studies=(STUDIES, STUDIES), size=SIDE), lake)
    print(f"{IMAGES} phantoms drawn: {time.monotonic() - began:.0f} s")
    secret.write_bytes(SECRET)
    registry = Registry(tracking)
    model = registered(registry, "sample-net")
    store_audit(registry, record(model.under_audit(), resolution="native"), SECRET)
    promote(registry, f"models:/{model.name}/{model.version}", SECRET, "a sample")

    environment = {**s3.environment(), "OMP_NUM_THREADS": "1"}
    proven = ["--secret-file", str(secret), "--tracking-uri", tracking]
    published, catalog = "s3://public-sample/release-1", "s3://private-side/catalog"
    (folder / "card.json").write_text(json.dumps(STATED))
    described = ["--license", "CC0-1.0", "--contact", "data@example.org", "--config", str(folder / "card.json")]
    check = ["publish", published, "--check", *proven, "--json"]
    small = [f"rows_per_shard={SHARD}", "deid.burned_in_text=off", "deid.patient_characteristics=true"]
    for words in (
        ["catalog", str(lake), "--out", catalog, "--labels", str(labels), "exclude=['*.csv']"],
        ["anonymize", catalog, published, "--model", "models:/sample-net@champion", *proven, *small],
        ["publish", published, "--splits", *described, *proven],
    ):
        began = time.monotonic()
        done = prichexy(*words, env=environment, timeout=900)
        print(f"{words[0]}: {time.monotonic() - began:.0f} s")
        assert done.returncode == 0, done.stderr
    s3.client().get("public-sample/release-1", str(folder / "copy"), recursive=True)
    return Sample(Place(published, s3), folder / "copy", check, environment)


@pytest.fixture(autouse=True)
def _reachable(credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The readers' credentials, and no other network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_nothing_is_missing_before_it_goes_public(sample: Sample) -> None:
    done = prichexy(*sample.check, env=sample.environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"destination": sample.place.uri, "ready": True, "missing": [], "advice": []}


def test_mlcroissant_finds_nothing_wrong(sample: Sample) -> None:
    command = [str(Path(sys.executable).parent / "mlcroissant"), "validate", "--jsonld", "croissant.json"]
    done = subprocess.run(command, cwd=sample.copy, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Done." in done.stderr + done.stdout
    damaged = (sample.copy / "croissant.json").read_text().replace('"@id": "shards"', '"@id": "none"', 1)
    (sample.copy.parent / "damaged.json").write_text(damaged)
    command[-1] = "../damaged.json"
    assert subprocess.run(command, cwd=sample.copy, capture_output=True, timeout=300).returncode != 0


def test_a_copy_is_whole_by_its_checksums(sample: Sample) -> None:
    done = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=sample.copy, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(sample.sizes) == -(-IMAGES // SHARD)


def test_datasets_streams_all_images_decoded(sample: Sample) -> None:
    table = sample.place.by_pyarrow().to_table(columns=["image_id", "image", "bit_depth"])
    pngs = {row["image_id"]: row["image"]["bytes"] for row in table.to_pylist()}
    assert len(pngs) == table.num_rows == IMAGES
    seen = 0
    for row in sample.place.by_datasets():
        assert np.array_equal(np.asarray(row["image"]), decoded(pngs.pop(row["image_id"])))
        seen += row["image"].mode.startswith("I")
    assert pngs == {}
    assert seen == np.count_nonzero(table["bit_depth"].to_numpy() > 8) > IMAGES / 5


def test_pyarrow_gets_only_the_bytes_of_the_columns_that_are_asked_for(sample: Sample) -> None:
    table, sent = sample.place.projected(["image_id", "findings"])
    assert len(set(table["image_id"].to_pylist())) == IMAGES
    wanted = sample.stored("image_id", "findings.list.element")
    # pyarrow reads two ranges as one where little lies between them: here, some of the other small columns.
    assert wanted < sent < (len(sample.sizes) + 1) * FOOTER + 3 * wanted < sum(sample.sizes) / 20
    assert sample.place.projected(["image"])[1] > sum(sample.sizes) * 0.9


def test_polars_joins_the_splits(sample: Sample) -> None:
    splits = sample.place.by_polars("splits.parquet")
    joined = sample.place.by_polars().select("image_id", "patient_id", "model_version").join(splits, on="image_id")
    patients = joined.group_by("patient_id").agg(pl.col("split").n_unique(), pl.len()).collect()
    assert patients["split"].to_list() == [1] * PATIENTS
    assert patients["len"].to_list() == [STUDIES] * PATIENTS
    shares = joined.group_by("split").agg(pl.len() / IMAGES).collect()
    assert dict(shares.iter_rows()) == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.05)


def test_torch_learns_from_the_bucket_by_the_cards_own_loop(sample: Sample, tmp_path: Path) -> None:
    loop = card_block(sample.copy, "torch")
    for file in ("data/*.parquet", "splits.parquet", "data"):
        assert loop.count(f'"{file}"') == 1
        loop = loop.replace(f'"{file}"', f'"{sample.place.uri}/{file}"')
    after = losses(printed(loop, tmp_path, tmp_path))
    assert len(after) == 2
    assert max(after) < 0.4  # 0.69 before; each is that of an epoch's last batch


@pytest.mark.parametrize("library", ["datasets", "pyarrow", "duckdb", "polars"])
def test_the_cards_other_lines_run_in_a_copy(sample: Sample, tmp_path: Path, library: str) -> None:
    assert re.search(rf"\b{SIDE}\b|\b{IMAGES}\b|PA", printed(card_block(sample.copy, library), sample.copy, tmp_path))


def counted_by_duckdb(place: Place) -> dict[str, dict[str, tuple[int, int]]]:
    """Images and patients of each line of the card's tables, counted anew from the bucket."""
    ask = place.by_duckdb
    both = "count(*), count(distinct patient_id)"
    age = "case when patient_age < 18 then '0 to 17' when patient_age < 40 then '18 to 39' when patient_age < 60 "
    age += "then '40 to 59' when patient_age < 80 then '60 to 79' when patient_age >= 80 then '80 and above' end"
    expressions = {
        "View": "view",
        "Laterality": "laterality",
        "Sex": "map {'F': 'female', 'M': 'male', 'O': 'other'}[patient_sex]",
        "Age in years": age,
        "Model version": "model_version",
        "Grey levels": "bit_depth || ' bits'",
        "Longer side of the image": "case when greatest(width, height) <= 512 then 'up to 512 px' end",
    }
    truth = {
        title: ask(f"select coalesce({value}, 'not stated'), {both} from SHARDS group by 1")
        for title, value in expressions.items()
    }
    finding = "replace(unnest(case when len(findings) > 0 then findings else ['no finding'] end), '_', ' ')"
    each = f"select {finding} as label, patient_id from SHARDS"
    truth["Findings"] = ask(f"select label, {both} from ({each}) group by 1")
    truth["Splits"] = ask(f"select split, {both} from SHARDS join SPLITS using (image_id) group by 1")
    return {title: {label: (images, people) for label, images, people in rows} for title, rows in truth.items()}


def test_the_cards_counts_are_those_of_the_shards(sample: Sample) -> None:
    card, truth = (sample.copy / "README.md").read_text(), counted_by_duckdb(sample.place)
    assert set(truth["Findings"]) == {name.replace("_", " ") for name in (*FINDINGS, "no finding")}
    assert {title: table.shown for title, table in tables_of(card).items()} == truth
    assert "withheld |" not in card
    for what, count in (("images", IMAGES), ("patients", PATIENTS)):
        assert f"\n| {what} | {count:,} |\n" in card


def test_counts_of_few_patients_are_withheld_and_not_had_by_subtraction(sample: Sample) -> None:
    few, truth = 40, counted_by_duckdb(sample.place)
    made = documents(PublishConfig(destination=sample.place.uri, splits=True, small_cell=few))
    tables = tables_of(made.files["README.md"].decode())
    hiding = 0
    for title, lines in truth.items():
        small = {label for label, (_, patients) in lines.items() if patients < few}
        if title not in tables:
            assert small, title  # too few to hide them among
            continue
        withheld = set(tables[title].withheld)
        assert small <= withheld
        assert tables[title].shown == {label: count for label, count in lines.items() if label not in withheld}
        if small:
            hiding += 1
            assert len(withheld) >= 2
            assert sum(lines.get(label, (0, 0))[1] for label in withheld) >= 2 * few - 1
        for count in (images for label in small for images in lines[label][:1]):
            assert f">{count}</text>" not in plot(made.files["index.html"].decode(), title)
    assert hiding >= 2


def plot(page: str, title: str) -> str:
    """The page's plot of a table."""
    found = re.search(rf"<figure>(?:(?!</figure>).)*<b>{re.escape(title)}</b>", page, re.DOTALL)
    assert found, title
    return found[0]


def test_what_is_public_names_nothing_of_the_private_side(sample: Sample) -> None:
    files = {str(path.relative_to(sample.copy)): path.read_bytes() for path in sample.copy.rglob("*") if path.is_file()}
    assert {"README.md", "index.html", "croissant.json", "SHA256SUMS", "_snapshots/0001/_job.json"} <= set(files)
    private = [*PRIVATE, str(sample.copy.parent), SECRET.hex()]
    assert {name: found for name, data in files.items() if (found := [p for p in private if p.encode() in data])} == {}
    for name in ("README.md", "index.html", "croissant.json"):
        assert not re.search(
            rb"(?<![\w./])/(?:tmp|home|root|work|usr|var|run)/|s3://(?!BUCKET/PREFIX/)|sqlite:", files[name]
        ), name
        for stated in (b"Two thousand phantoms", b"CC0-1.0", b"1.0.0", b"Example Hospital", b"data@example.org"):
            assert stated in files[name], (name, stated)
