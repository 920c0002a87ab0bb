"""The training table of a small phantom lake, and of the real radiographs, on a local Ray."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prichexy.cohort.catalog import build_catalog, open_catalog
from prichexy.cohort.pairs import draw_pairs
from prichexy.cohort.phantom import PhantomCohort, write_mixed
from prichexy.cohort.plan import TablePlan, plan_table
from prichexy.cohort.splits import SPLITS, by_seed
from prichexy.cohort.table import open_table
from prichexy.config import CatalogConfig, PrepareConfig, SplitConfig, StorageConfig, load
from prichexy.deid import Pseudonyms
from prichexy.errors import PrichexyError, StorageFault, UsageError
from prichexy.findings import FINDINGS
from prichexy.imaging import DecodeLimits, decode, from_unit, resize, to_unit
from prichexy.training import prepare as module
from prichexy.training.prepare import TableWork, make_part, prepare

pytestmark = pytest.mark.usefixtures("local_ray")

STORAGE = StorageConfig()
HALVES = {"train": 0.5, "validation": 0.25, "test": 0.25}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "lake"
    write_mixed(PhantomCohort(12, 7, size=96), folder, planted=folder.parent / "planted.csv")
    damaged = sorted(folder.glob("*.png"))[3]
    damaged.write_bytes(damaged.read_bytes()[:500])
    (folder / "unlabelled.png").write_bytes(next(folder.glob("*.dcm")).read_bytes())
    return folder


@pytest.fixture(scope="module")
def damaged(lake: Path) -> str:
    return sorted(lake.glob("0*.png"))[3].name


@pytest.fixture(scope="module")
def catalog(lake: Path) -> Path:
    place = lake.parent / "catalog"
    build_catalog(CatalogConfig(source=str(lake), out=str(place), exclude=("*.csv",)))
    return place


def configured(catalog: Path, out: Path, **more: Any) -> PrepareConfig:
    values = {"size": 64, "rows_per_part": 5, "splits": HALVES, "labels": str(catalog.parent / "lake" / "labels.csv")}
    return PrepareConfig.model_validate({"catalog": str(catalog), "out": str(out), **values, **more})


def planned(config: PrepareConfig) -> TablePlan:
    catalog = open_catalog(config.catalog, STORAGE)
    assert catalog is not None
    return plan_table(config, catalog)


def labels_of(lake: Path) -> dict[str, dict[str, str]]:
    return {line["Image Index"]: line for line in csv.DictReader((lake / "labels.csv").open())}


def test_the_table_holds_each_labelled_image_once_as_decoded(
    lake: Path, catalog: Path, damaged: str, tmp_path: Path
) -> None:
    summary = prepare(configured(catalog, tmp_path / "table"))
    labels = labels_of(lake)
    assert (summary.rows, summary.quarantined, summary.unlabelled) == (len(labels) - 1, 1, 1)
    assert sum(summary.counts.values()) == summary.rows
    assert sum(summary.patients.values()) == 12
    table = open_table(str(tmp_path / "table"), STORAGE)
    assert [image["image_name"] for image in table.facts.quarantined] == [damaged]
    seen = set()
    for split in SPLITS:
        rows = table.split(split)
        assert rows.names.tolist() == sorted(rows.names)
        for row, name in enumerate(rows.names):
            seen.add(name)
            label, radiograph = labels[name], decode((lake / name).read_bytes())
            expected = resize(radiograph.pixels, 64, 64)
            if radiograph.bit_depth > 8:
                expected = from_unit(to_unit(expected, radiograph.bit_depth), 8)
            assert np.array_equal(rows.image(row), expected)
            assert rows.patients[row] == label["Patient ID"]
            assert rows.follow_ups[row] == int(label["Follow-up #"])
            named = {FINDINGS[at] for at in np.flatnonzero(rows.findings[row])}
            assert named == set(label["Finding Labels"].split("|")) - {"No Finding"}
            assert SPLITS[by_seed([label["Patient ID"]], 42, (0.5, 0.25, 0.25))[0]] == split
    assert seen == set(labels) - {damaged}


def test_another_catalog_of_the_same_lake_gives_the_same_table(lake: Path, catalog: Path, tmp_path: Path) -> None:
    first = prepare(configured(catalog, tmp_path / "a"))
    build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "catalog"), exclude=("*.csv",)))
    labels = str(lake / "labels.csv")
    second = prepare(configured(tmp_path / "catalog", tmp_path / "b", labels=labels))
    assert second.fingerprint == first.fingerprint
    for part in open_table(str(tmp_path / "a"), STORAGE).facts.parts:
        assert (tmp_path / "a" / part.path).read_bytes() == (tmp_path / "b" / part.path).read_bytes()


def test_a_killed_job_goes_on_behind_its_records(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(catalog, tmp_path / "table")
    whole = prepare(config)
    files = {path: path.read_bytes() for path in (tmp_path / "table").rglob("*") if path.is_file()}
    written = {path: path.stat().st_mtime_ns for path in files}  # inodes would not do: a freed one is used again
    # Killed: the facts and two records were never written, and one part's file neither.
    for lost in ("_table.json", "_parts/00001.json", "_parts/00003.json"):
        (tmp_path / "table" / lost).unlink()
    next((tmp_path / "table" / "data").glob("*-00003.parquet")).unlink()
    again = prepare(config)
    assert (again.resumed, again.fingerprint) == (whole.parts - 2, whole.fingerprint)
    assert {path: path.read_bytes() for path in (tmp_path / "table").rglob("*") if path.is_file()} == files
    kept = {path for path in files if path.stat().st_mtime_ns == written[path]}
    assert {path.name for path in set(files) - kept} == {
        "_table.json",
        "00001.json",
        "00003.json",
        *(path.name for path in files if path.name.endswith(("-00001.parquet", "-00003.parquet"))),
    }
    monkeypatch.setattr(module, "_stream", lambda *_: pytest.fail("nothing is left to stream"))
    assert prepare(config).resumed == whole.parts


def test_a_place_of_another_table_is_refused(catalog: Path, tmp_path: Path) -> None:
    prepare(configured(catalog, tmp_path / "table"))
    with pytest.raises(UsageError, match=r"another table's parts \(differing: size\)"):
        prepare(configured(catalog, tmp_path / "table", size=96))
    with pytest.raises(UsageError, match=r"differing: content, seed"):
        prepare(configured(catalog, tmp_path / "table", splits={**HALVES, "seed": 43}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="holds files that `prepare` did not write"):
        prepare(configured(catalog, tmp_path / "full"))


def test_labels_of_the_catalog_serve_as_well(lake: Path, catalog: Path, tmp_path: Path) -> None:
    labels = str(lake / "labels.csv")
    build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "c"), exclude=("*.csv",), labels=labels))
    own = prepare(configured(tmp_path / "c", tmp_path / "own", labels=None))
    assert own.fingerprint == prepare(configured(catalog, tmp_path / "given")).fingerprint


def test_with_a_secret_names_and_patients_are_pseudonyms_and_splits_stay(
    lake: Path, catalog: Path, tmp_path: Path, secret_file: Path
) -> None:
    plain, keyed = prepare(configured(catalog, tmp_path / "a")), None
    keyed = prepare(configured(catalog, tmp_path / "b", secret_file=secret_file))
    assert keyed.counts == plain.counts
    ours = Pseudonyms.from_file(secret_file)
    a, b = (open_table(str(tmp_path / name), STORAGE) for name in "ab")
    assert (a.facts.pseudonyms, b.facts.pseudonyms) == (None, ours.key_id)
    for split in SPLITS:
        rows, hidden = a.split(split), b.split(split)
        expected = {
            ours.image_id(name): ours.patient_id("", who) for name, who in zip(rows.names, rows.patients, strict=True)
        }
        assert dict(zip(hidden.names, hidden.patients, strict=True)) == expected
    for file in (tmp_path / "b" / "data").iterdir():
        assert b"00000001_" not in file.read_bytes()


def test_official_lists_decide_the_splits(lake: Path, catalog: Path, tmp_path: Path) -> None:
    labels = labels_of(lake)
    in_test = {name for name, line in labels.items() if int(line["Patient ID"]) > 9}
    (tmp_path / "train_val_list.txt").write_text("\n".join([*(set(labels) - in_test), "elsewhere.png"]))
    (tmp_path / "test_list.txt").write_text("\n".join(in_test))
    lists = {name: str(tmp_path / f"{name}.txt") for name in ("train_val_list", "test_list")}
    config = configured(catalog, tmp_path / "t", splits={**HALVES, **lists})
    plan = planned(config)
    held = {
        name
        for part in plan.parts
        if part.split == "test"
        for name in plan.rows["image_name"].to_pylist()[part.start : part.stop]
    }
    assert held == in_test
    assert plan.facts["splits"]["lists"] is True
    (tmp_path / "test_list.txt").write_text("\n".join(sorted(in_test)[1:]))
    with pytest.raises(UsageError, match=r"neither list names 1 image \("):
        planned(config)
    (tmp_path / "train_val_list.txt").write_text("\n".join([*(set(labels) - in_test), min(in_test)]))
    with pytest.raises(UsageError, match="1 patient has images in two splits"):
        planned(config)


def mistaken(lake: Path, mistake: str) -> str:
    """The labels file with a mistake in it."""
    lines = list(labels_of(lake).values())
    if mistake == "absent":
        lines += [{**lines[0], "Image Index": f"gone{number}.png"} for number in range(6)]
    elif mistake == "patients":
        lines = [{**line, "Patient ID": ""} for line in lines]
    elif mistake == "patient":
        lines[3]["Patient ID"] = ""
    elif mistake == "findings":
        lines[3]["Finding Labels"] = ""
    elif mistake == "strange":
        lines[3]["Finding Labels"] = "Rabies"
    elif mistake == "alone":
        lines = [{**line, "Patient ID": str(number)} for number, line in enumerate(lines)]
    elif mistake == "elsewhere":
        lines = [{**line, "Image Index": "x" + line["Image Index"]} for line in lines]
    return "\n".join([",".join(lines[0]), *(",".join(line.values()) for line in lines)])


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ("absent", "the labels name 6 images (gone0.png, gone1.png, gone2.png, gone3.png, gone4.png, ...) that the"),
        ("patients", "no row has a patient"),
        ("patient", "1 labelled images have no patient"),
        ("findings", "1 labelled images have no findings ('No Finding' where there is none)"),
        ("strange", "line 5 has a finding that is none of the 14"),
        ("alone", "no same-patient pair"),
        ("elsewhere", "the labels name none of the lake's images"),
    ],
)
def test_mistakes_in_the_labels_are_told_before_anything_starts(
    lake: Path, catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str, sentence: str
) -> None:
    (tmp_path / "labels.csv").write_text(mistaken(lake, mistake))
    monkeypatch.setattr(module, "_stream", lambda *_: pytest.fail("a worker was started"))
    with pytest.raises(UsageError) as caught:
        prepare(configured(catalog, tmp_path / "table", labels=str(tmp_path / "labels.csv")))
    assert sentence in str(caught.value)
    assert "Rabies" not in str(caught.value)
    assert not (tmp_path / "table").exists()


def test_absent_images_may_be_allowed(lake: Path, catalog: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(mistaken(lake, "absent"))
    config = configured(catalog, tmp_path / "t", labels=str(tmp_path / "labels.csv"), allow_absent=True)
    plan = planned(config)
    assert (plan.absent, len(plan.rows)) == (6, len(labels_of(lake)))


def test_other_mistakes_are_told_in_one_sentence(lake: Path, catalog: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no catalog at"):
        prepare(configured(tmp_path / "none", tmp_path / "t"))
    with pytest.raises(UsageError, match="the catalog names no patient"):
        prepare(configured(catalog, tmp_path / "t", labels=None))
    with pytest.raises(UsageError, match="setting labels: there is no such file"):
        prepare(configured(catalog, tmp_path / "t", labels=str(tmp_path / "no.csv")))
    with pytest.raises(UsageError, match="no image is in the validation split"):
        prepare(configured(catalog, tmp_path / "t", splits={"train": 0.99, "validation": 0.0001, "test": 0.0099}))
    with pytest.raises(UsageError, match="must add up to 1"):
        load(SplitConfig, train=0.5, validation=0.5, test=0.5)
    with pytest.raises(UsageError, match="given together"):
        load(SplitConfig, test_list="x")
    with pytest.raises(UsageError, match="must not lie within each other"):
        load(PrepareConfig, catalog="a/b", out="a")
    with pytest.raises(UsageError, match="rows_per_part must be below 2048 at size 1024"):
        load(PrepareConfig, catalog="a", out="b", size=1024, rows_per_part=4096)


def test_a_lake_that_changes_quarantines_and_one_that_vanishes_stops_the_job(
    lake: Path, catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works: list[TableWork] = []
    monkeypatch.setattr(module, "_stream", lambda work, *_: works.append(work) or 0.0)
    with pytest.raises(StorageFault, match="lost or gained part records"):
        prepare(configured(catalog, tmp_path / "table", rows_per_part=1000))
    shutil.copytree(lake, tmp_path / "lake")
    work = replace(works[0], source=str(tmp_path / "lake"))
    names = sorted(path.name for path in (tmp_path / "lake").glob("0*.dcm"))
    (tmp_path / "lake" / names[0]).unlink()
    (tmp_path / "lake" / names[1]).write_bytes(b"short")
    for part in work.parts:
        make_part(part, work)
    records = [json.loads(path.read_text()) for path in (tmp_path / "table" / "_parts").iterdir()]
    reasons = {image["image_name"]: image["reason"] for record in records for image in record["quarantined"]}
    assert (reasons[names[0]], reasons[names[1]], len(reasons)) == ("SourceGone", "SourceChanged", 3)
    shutil.rmtree(tmp_path / "lake")
    with pytest.raises(StorageFault, match="nothing found at"):
        make_part(work.parts[0], work)


def test_a_fault_within_a_task_is_told_in_its_own_sentence(catalog: Path, tmp_path: Path) -> None:
    prepare(configured(catalog, tmp_path / "table"))
    for lost in ("_table.json", "_parts/00000.json", "_plan.parquet"):
        (tmp_path / "table" / lost).unlink()
    with pytest.raises(StorageFault, match=r"^the plan of the training table at \S+ can't be read$"):
        prepare(configured(catalog, tmp_path / "table"))


def test_a_lake_of_which_nothing_can_be_decoded_makes_no_table(lake: Path, tmp_path: Path) -> None:
    shutil.copytree(lake, tmp_path / "lake")
    for file in (tmp_path / "lake").iterdir():
        if file.suffix in (".png", ".dcm"):
            file.write_bytes(b"JANE ROE")
    build_catalog(CatalogConfig(source=str(tmp_path / "lake"), out=str(tmp_path / "catalog"), exclude=("*.csv",)))
    with pytest.raises(PrichexyError, match=r"none of the \d+ images could be decoded"):
        prepare(configured(tmp_path / "catalog", tmp_path / "table"))
    assert not (tmp_path / "table" / "_table.json").exists()


def test_images_of_the_tables_size_are_not_touched(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(module.table_image((tmp_path / "a.png").read_bytes(), 64, DecodeLimits()), pixels)
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(deep).save(tmp_path / "b.png")
    image = module.table_image((tmp_path / "b.png").read_bytes(), 64, DecodeLimits())
    assert (image.dtype, int(image.min()), int(image.max())) == (np.uint8, 0, 255)
    assert np.array_equal(image, np.rint(deep / 257).astype(np.uint8))


@pytest.mark.real
def test_the_real_radiographs_at_64_pixels(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "chestxray14"
    build_catalog(CatalogConfig(source=str(folder / "images_64"), out=str(tmp_path / "catalog")))
    labels = str(folder / "labels_64.csv")
    config = PrepareConfig(catalog=str(tmp_path / "catalog"), out=str(tmp_path / "table"), labels=labels, size=64)
    summary = prepare(config)
    assert (summary.rows, sum(summary.patients.values()), summary.quarantined) == (1727, 776, 0)
    table = open_table(str(tmp_path / "table"), STORAGE)
    table.check(2, SPLITS, pairs=True)
    same = 0
    for split in SPLITS:
        rows = table.split(split)
        same += int(draw_pairs(rows.patients, None, 42).same.sum())
        for row in (0, len(rows) - 1):
            expected = np.asarray(Image.open(folder / "images_64" / str(rows.names[row])).convert("L"))
            assert np.array_equal(rows.image(row), expected)
    assert same == 812
