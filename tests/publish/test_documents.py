"""Card, metadata, page and checksums: what they say, and that others take them."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlcroissant
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from prichexy.config import PublishConfig, load
from prichexy.deid import Pseudonyms
from prichexy.errors import UsageError
from prichexy.lake.commit import commit_shard
from prichexy.lake.job import claim
from prichexy.lake.layout import CARD_FILES
from prichexy.lake.snapshots import finish
from prichexy.lake.storage import Store
from prichexy.lake.withdrawal import Named, withdraw
from prichexy.publish import publish
from prichexy.publish.croissant import validate
from prichexy.registry import ModelVersion, Registry, store_audit
from prichexy.verdict import audit_id
from tests.publish.publications import audited, image_id, job, png, published, rows
from tests.publish.publications import name as pseudonym
from tests.registry.registered import SECRET, registered
from tests.verdict.records import record

STATED: dict[str, Any] = {
    "title": "Radiographs: of | nobody",
    "description": "Drawn for a test.",
    "license": "cc-by-4.0",
    "creators": ["Example Hospital"],
    "contact": "data@example.org",
    "origin": "Drawn in 2026.",
    "approval": "None is needed.",
}


def described(store: Store, **more: Any) -> PublishConfig:
    return load(PublishConfig, destination=store.uri, **{**STATED, **more})


def read(store: Store, path: str) -> str:
    return store.read(path).decode()


def matter(store: Store) -> dict[str, Any]:
    values = yaml.safe_load(read(store, "README.md").split("---\n")[1])
    assert isinstance(values, dict)
    return values


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db")


@pytest.fixture(scope="module")
def secret_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "project.key"
    path.write_bytes(SECRET)
    return path


def made_with(model: ModelVersion, identifier: str, root: Path) -> Store:
    settings = model.settings.recorded()
    the_job = audited(job(), identifier, model.fingerprint, model.name, model.version, settings)
    return published(root, replace(the_job, resolution="256"))


def test_the_front_matter_is_hugging_faces(store: Store) -> None:
    done = publish(described(store, splits=True, tags=["phantom"]))
    values = matter(store)
    assert (values["license"], values["pretty_name"], values["version"]) == (
        "cc-by-4.0",
        "Radiographs: of | nobody",
        "1.0.0",
    )
    assert values["task_categories"] == ["image-classification"]
    assert values["size_categories"] == ["n<1K"]
    assert {"medical", "unaudited", "phantom"} <= set(values["tags"])
    assert values["configs"] == [
        {"config_name": "default", "data_files": [{"split": "unsplit", "path": "data/*.parquet"}]},
        {"config_name": "splits", "data_files": [{"split": "unsplit", "path": "splits.parquet"}]},
    ]
    columns = pq.read_schema(next(Path(store.root).glob("data/*.parquet"))).names
    assert [feature["name"] for feature in values["dataset_info"][0]["features"]] == columns
    assert done.files == ("README.md", "croissant.json", "splits.parquet", "index.html", "SHA256SUMS")


def test_what_the_publisher_leaves_out_is_said(store: Store) -> None:
    publish(PublishConfig(destination=store.uri))
    text = read(store, "README.md")
    assert "license" not in matter(store)
    assert text.count("_Not stated by the publisher._") == 6  # licence, maker, contact, origin, approval, citation
    assert "## What is not promised" in text


def test_the_summary_claims_no_more_than_was_done(tmp_path: Path) -> None:
    flow = {**job().model, "settings": {"kind": "flow-field"}}
    unlooked = replace(job(), deid={**job().deid, "burned_in_text": "off"})
    for number, (the_job, sentence) in enumerate(
        [
            (job(), "40 chest radiographs, the anatomy as it was, without header data that identify patients; text in"),
            (unlooked, "text in the pixels was not looked for in all of them."),
            (replace(job(), model=flow), "changed so that the anatomy tells less of whose they are"),
            (replace(job(), model=flow), "text in the pixels was looked for."),
        ]
    ):
        store = published(tmp_path / str(number), the_job)
        publish(described(store, description=None))
        for name in ("README.md", "index.html", "croissant.json"):
            assert sentence in read(store, name)


def test_every_document_names_licence_version_and_citation(store: Store) -> None:
    publish(described(store, version="2.1.0", citation="Example Hospital: Radiographs of nobody. 2026."))
    for name in ("README.md", "index.html", "croissant.json"):
        text = read(store, name)
        for stated in ("CC-BY-4.0", "2.1.0", "Example Hospital: Radiographs of nobody. 2026."):
            assert stated in text, (name, stated)


def test_an_unaudited_data_set_says_so_loudly_everywhere(store: Store) -> None:
    done = publish(described(store))
    assert not done.audited
    assert done.audits == {"net/3": "The images were made without an audit."}
    assert read(store, "README.md").index("**UNAUDITED.**") < read(store, "README.md").index("## ")
    assert "<p>Unaudited</p>" in read(store, "index.html")
    assert "UNAUDITED" in json.loads(store.read("croissant.json"))["rai:personalSensitiveInformation"]


def test_a_passed_audit_is_shown_with_its_table_and_limits(
    tmp_path: Path, registry: Registry, secret_file: Path
) -> None:
    model = registered(registry, "passed", mu=0.03)
    verdict = record(model.under_audit(), auc=0.55)
    store = made_with(model, store_audit(registry, verdict, SECRET), tmp_path / "out")
    done = publish(described(store, secret_file=secret_file, tracking_uri=registry.uri))
    assert done.audited
    text = read(store, "README.md")
    assert "UNAUDITED" not in text
    assert "unaudited" not in matter(store)["tags"]
    assert "| linear-metric (strongest) | 0.550 | 0.530 to 0.570 | 0.550 | - |" in text
    assert "| AUC of the strongest attacker, linear-metric | 0.550 | 0.600 | yes |" in text
    assert f"passed its audit {audit_id(verdict)}" in text
    assert f"Model version `passed/{model.version}`" in text
    assert "mu 0.03" in text
    page = read(store, "index.html")
    assert "Verdict: passed." in page
    assert 'id="audit-0-title"' in page


def test_a_failed_audit_is_shown_as_failed(tmp_path: Path, registry: Registry, secret_file: Path) -> None:
    model = registered(registry, "failed")
    store_audit(registry, record(model.under_audit(), auc=0.9), SECRET)
    store = made_with(model, "unaudited", tmp_path / "out")
    done = publish(described(store, secret_file=secret_file, tracking_uri=registry.uri))
    assert not done.audited
    text = read(store, "README.md")
    assert "Verdict: **FAILED**" in text
    assert "| AUC of the strongest attacker, linear-metric | 0.900 | 0.600 | no |" in text
    assert "**UNAUDITED.**" in text


def test_an_audit_that_is_not_proven_shows_no_figures(tmp_path: Path, registry: Registry, secret_file: Path) -> None:
    model = registered(registry, "unproven")
    identifier = store_audit(registry, record(model.under_audit()), SECRET)
    store = made_with(model, identifier, tmp_path / "out")
    other = tmp_path / "other.key"
    other.write_bytes(bytes(32))
    for given, sentence in (
        ({}, "for want of the secret"),
        ({"secret_file": other, "tracking_uri": registry.uri}, "can't be proven (key)"),
    ):
        done = publish(described(store, **given))
        assert not done.audited
        assert sentence in done.audits[f"unproven/{model.version}"]
        assert "linear-metric" not in read(store, "README.md")


def test_an_audit_of_other_weights_does_not_count(tmp_path: Path, registry: Registry, secret_file: Path) -> None:
    model = registered(registry, "exchanged")
    identifier = store_audit(registry, record(model.under_audit()), SECRET)
    store = made_with(replace(model, fingerprint="cd" * 32), identifier, tmp_path / "out")
    done = publish(described(store, secret_file=secret_file, tracking_uri=registry.uri))
    assert done.audits == {
        f"exchanged/{model.version}": "The registry holds other weights under this name and version."
    }


def test_the_same_snapshot_gives_the_same_bytes(store: Store) -> None:
    config = described(store, splits=True, show=[image_id(0)])
    files = publish(config).files
    first = {path: store.read(path) for path in files}
    assert publish(config).files == files
    assert {path: store.read(path) for path in files} == first


def test_what_a_run_does_not_make_is_removed(store: Store, tmp_path: Path) -> None:
    text = tmp_path / "terms.txt"
    text.write_text("Do good.\n")
    publish(described(store, license=None, license_file=text, splits=True))
    assert read(store, "LICENSE") == "Do good.\n"
    assert matter(store)["license"] == "other"
    assert matter(store)["license_link"] == "LICENSE"
    publish(described(store))
    left = {item.path for item in store.list()}
    assert not {"LICENSE", "splits.parquet"} & left
    assert "LICENSE" not in read(store, "SHA256SUMS")


def test_small_counts_are_in_no_document(store: Store) -> None:
    publish(described(store, splits=True))
    text = read(store, "README.md")
    assert re.search(r"\| Nodule, Pneumonia, Hernia, no finding \| withheld \| withheld \|", text)
    assert "Source files set aside instead of published: withheld." in text
    assert "counts of files, not of patients: fewer than 5 files are withheld here" in text
    exact = json.loads(store.read(re.findall(r"exactly in the manifest,\s+`([^`]+)`", text)[0]))
    assert (exact["quarantined"], exact["counts"]["text_covered"]) == ({"Truncated": 2}, 13)
    for document in (text, read(store, "index.html"), read(store, "croissant.json")):
        told = " ".join(document.split())
        assert "Counts of fewer than 5 patients are withheld" in told
        assert "manifest" in told
    assert ">1</text>" not in read(store, "index.html")
    publish(described(store, small_cell=1))
    assert "| Hernia | 1 | 1 |" in read(store, "README.md")
    assert "| Truncated | 2 |" in read(store, "README.md")


def test_sha256sum_agrees(store: Store) -> None:
    publish(described(store, splits=True))
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=store.root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    paths = {line.split()[1] for line in read(store, "SHA256SUMS").splitlines()}
    assert {"README.md", "croissant.json", "index.html", "splits.parquet", "_SUCCESS"} <= paths
    assert sum(path.startswith("data/") for path in paths) == 3
    assert sum(path.startswith("_quarantine/") for path in paths) == 1
    (Path(store.root) / "index.html").write_text("other")
    done = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=store.root, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (1, "index.html: FAILED")


def test_croissant_is_valid_and_leads_to_the_images(store: Store) -> None:
    publish(described(store, splits=True))
    assert validate(store.read("croissant.json")) == []
    command = [Path(sys.executable).parent / "mlcroissant", "validate", "--jsonld", f"{store.root}/croissant.json"]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    described_set = mlcroissant.Dataset(f"{store.root}/croissant.json")
    first = next(iter(described_set.records("images")))
    number = next(row for row in range(40) if image_id(row) == first["images/image_id"].decode())
    expected = Image.open(io.BytesIO(png(number, 64, 12 if number % 9 == 8 else 8)))
    assert np.array_equal(np.asarray(first["images/image"]), np.asarray(expected))
    splits = {row["splits/split"] for row in described_set.records("splits")}
    assert b"train" in splits
    metadata = json.loads(store.read("croissant.json"))
    assert metadata["license"] == "https://spdx.org/licenses/CC-BY-4.0.html"
    assert metadata["conformsTo"] == "http://mlcommons.org/croissant/1.1"


def test_documents_say_that_images_are_jpeg_xl_and_show_them_all_the_same(tmp_path: Path) -> None:
    pictures, store = {}, Store("")
    for encoding in ("png", "jpeg-xl"):
        store = published(tmp_path / encoding, job(encoding=encoding))
        publish(described(store, show=[image_id(8), image_id(0)]))
        pictures[encoding] = re.findall(r'src="(data:image/png;base64,[^"]+)"', read(store, "index.html"))
        is_png = encoding == "png"
        card = read(store, "README.md")
        assert (
            "PNG" in card,
            "JPEG XL" in card,
            "pillow-jxl-plugin" in card,
            "import pillow_jxl" in card,
            "imagecodecs" in card,
        ) == (is_png, *[not is_png] * 4)
        metadata = json.loads(store.read("croissant.json"))
        held = metadata["distribution"][0]["encodingFormat"]
        assert held == ("application/x-parquet" if is_png else ["application/x-parquet", "image/jxl"])
        fields = {field["name"]: field["description"] for field in metadata["recordSet"][0]["field"]}
        assert f"lossless {'PNG' if is_png else 'JPEG XL'}" in fields["image"]
        assert ("PNG" in fields["bit_depth"]) == is_png
    assert len(pictures["png"]) == 2
    assert pictures["jpeg-xl"] == pictures["png"]
    assert validate(store.read("croissant.json")) == []


def test_croissant_leads_to_jpeg_xl_images(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl", reason="pillow-jxl-plugin is not installed: pip install pillow-jxl-plugin")
    store = published(tmp_path / "out", job(encoding="jpeg-xl"))
    publish(described(store))
    for row in mlcroissant.Dataset(f"{store.root}/croissant.json").records("images"):
        number = next(number for number in range(40) if image_id(number) == row["images/image_id"].decode())
        if number in (0, 8):
            expected = np.asarray(Image.open(io.BytesIO(png(number, 64, 12 if number == 8 else 8))))
            seen = np.asarray(row["images/image"])
            assert np.array_equal(seen >> 4, expected >> 4) if number == 8 else np.array_equal(seen, expected)


def test_the_page_loads_nothing_and_shows_only_named_images(store: Store) -> None:
    publish(described(store))
    assert "<img" not in read(store, "index.html")
    publish(described(store, show=[image_id(8), image_id(0)]))
    page = read(store, "index.html")
    assert re.findall(r"<code>([0-9a-f]{32})</code>", page) == [image_id(8), image_id(0)]
    assert re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', page) == ["README.md", "croissant.json"]
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert '<title id="findings-title">Findings</title>' in page
    assert "Radiographs: of | nobody" in page


def test_the_page_is_remade_without_the_patient_who_withdrew(tmp_path: Path) -> None:
    keys = Pseudonyms.from_secret(SECRET)
    store = published(tmp_path / "out", replace(job(), key_id=keys.key_id))
    both = [image_id(0), image_id(2)]
    publish(described(store, splits=True, show=both))
    assert image_id(0) in read(store, "index.html")
    withdraw(store, keys, Named(patients=frozenset([pseudonym("patient", 0)])))
    assert not {item.path for item in store.list()} & set(CARD_FILES)
    with pytest.raises(UsageError, match="1 of the images are not published"):
        publish(described(store, splits=True, show=both))
    publish(described(store, splits=True, show=both[1:]))
    assert image_id(2) in read(store, "index.html")
    gone = [text.encode() for text in (image_id(0), image_id(1), pseudonym("patient", 0))]
    assert [path for path in CARD_FILES if path != "LICENSE" for word in gone if word in store.read(path)] == []
    assert not {image_id(0), image_id(1)} & set(pq.read_table(f"{store.root}/splits.parquet")["image_id"].to_pylist())


def test_an_image_that_is_not_published_can_not_be_shown(store: Store) -> None:
    with pytest.raises(UsageError, match="setting show"):
        publish(described(store, show=["0" * 32]))
    assert "README.md" not in {item.path for item in store.list()}


def test_a_grown_publication_names_its_live_shards_only(tmp_path: Path) -> None:
    store = published(tmp_path / "out")
    increment = job(20, 10, snapshot=2, model={**job().model, "version": "4"})
    claim(store, increment)
    # Rows 0 to 19 anew, from sources that changed: the shards that held them are written again without them.
    for shard in range(increment.shards):
        commit_shard(store, increment, shard, rows(increment, *increment.span(shard)))
    finish(store, increment, replaced=[image_id(row) for row in range(20)])
    publish(described(store, splits=True))
    paths = matter(store)["configs"][0]["data_files"][0]["path"]
    live = sorted(paths)
    assert live == [
        "data/part-0001-000002-of-000003.parquet",
        "data/part-0002-000000-of-000002.parquet",
        "data/part-0002-000001-of-000002.parquet",
        "data/part-0002-from-0001-000001.parquet",
    ]
    ids = [name for path in live for name in pq.read_table(f"{store.root}/{path}")["image_id"].to_pylist()]
    assert sorted(ids) == sorted(image_id(row) for row in range(40))
    assert matter(store)["version"] == "2.0.0"
    listed = [line.split()[1] for line in read(store, "SHA256SUMS").splitlines()]
    assert sorted(path for path in listed if path.startswith("data/")) == live
    assert json.loads(store.read("croissant.json"))["distribution"][0]["includes"] == paths
    text = read(store, "README.md")
    assert "| images | 40 |" in text
    assert "| net/3 | 20 | 12 |" in text
    assert "| net/4 | 20 | 12 |" in text
    assert text.count("### Rows of model version net/") == 2


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"license": "my own"}, "setting license: not an SPDX identifier"),
        ({"version": "first"}, "setting version: a version is MAJOR.MINOR.PATCH"),
        ({"show": ["abc"]}, "setting show: images are named by their image_id"),
        ({"shares": {"train": 0.5}}, "train, validation and test must add up to 1"),
    ],
)
def test_mistakes_in_settings_are_named(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        load(PublishConfig, destination="out", **given)
