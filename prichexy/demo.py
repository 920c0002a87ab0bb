"""All of it on the phantom cohort, in minutes on two cores: what a stranger runs first."""

import io
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
from PIL import Image, ImageDraw
from rich.console import Console

from prichexy.anonymize import Summary, anonymize
from prichexy.audit.comparison import TABLE_WIDTH, compare, comparison_table
from prichexy.audit.job import Audited, audit
from prichexy.cluster import connected
from prichexy.cohort.catalog import build_catalog, open_catalog
from prichexy.cohort.phantom import PhantomCohort, write_mixed
from prichexy.config import (
    AnonymizeConfig,
    AuditConfig,
    BurnedInText,
    CatalogConfig,
    CompareConfig,
    DeidConfig,
    PrepareConfig,
    PublishConfig,
    RayConfig,
    SplitConfig,
    StorageConfig,
    TrainConfig,
)
from prichexy.deid import Pseudonyms, create_secret_file, read_secret_file
from prichexy.errors import PrichexyError, UsageError
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify
from prichexy.progress import Progress
from prichexy.publish import check, publish
from prichexy.registry import Registry, promote
from prichexy.training.loop import TrainedSummary, train
from prichexy.training.prepare import prepare
from prichexy.verdict import VerdictError

Kind = Literal["flow-field", "multi-scale-field"]
"""What the demo trains."""

MODEL = "phantom-net"

COMPARED = (
    *("correlation-16", "correlation-64", "correlation-16-less-mean", "correlation-64-less-mean"),
    *("pca-whitened", "high-pass", "high-pass-less-mean", "linear-metric", "verifier-as-trained"),
)
"""Attackers of the comparison: those that need no further network."""

SIZE = 64
"""Edge of the training table's images: small networks learn from them in a minute a stage."""


_NAMES: dict[Kind, str] = {"flow-field": "PriCheXy-Net", "multi-scale-field": "multi-scale field"}

_STAGES: dict[Kind, dict[str, Any]] = {
    "flow-field": {
        "generator": {"kind": "flow-field", "mu": 0.05, "operator": "corrected", "features": 8},
        "pretraining": {"epochs": 2, "batch": 16, "learning_rate": 1e-3},
        "adversarial": {"epochs": 6, "batch": 16, "learning_rate": 1e-3},
    },
    "multi-scale-field": {
        "generator": {"kind": "multi-scale-field", "kept": 2, "detail": 0.25, "fields_px": (6, 3, 1)},
        "multi_scale": {
            "epochs": 6,
            "batch": 16,
            "learning_rate": 4e-3,
            "basis_learning_rate": 4e-4,
            "critics": ("tiny-narrow",),
        },
    },
}


def run(
    folder: Path,
    patients: int,
    seed: int,
    size: int = 512,
    text: BurnedInText = "redact",
    kind: Kind = "flow-field",
) -> dict[str, Any]:
    """Draw a lake, train a model on it, audit and compare it, anonymize the lake, verify it, make it ready to publish.

    Args:
        folder: for everything that the demo makes; a demo that was killed goes on in it.
        patients: how many phantom patients; about a third of them judge the model.
        seed: of cohort, splits and networks.
        size: edge of the phantoms' images, in pixels.
        text: what is done about text in the pixels; of phantoms below 512 px the anatomy itself is taken for text.
        kind: of the model that is trained.

    Returns:
        The demo's figures, in the order in which a person reads them.

    Raises:
        UsageError: the folder holds a demo of another seed, size or kind, or the patients are too few to audit on.
        PrichexyError: what was published is not whole.
    """
    lake, catalog, published, key = (folder / name for name in ("lake", "catalog", "published", "project.key"))
    folder.mkdir(parents=True, exist_ok=True)
    _draw(lake, patients, seed, size, folder / "planted.csv", kind)
    if not key.exists():
        create_secret_file(key)
    listed = CatalogConfig(source=str(lake), out=str(catalog), labels=str(lake / "labels.csv"), exclude=("*.csv",))
    if open_catalog(str(catalog), StorageConfig()) is None:  # a new one has a new salt: another job
        build_catalog(listed)
    splits = SplitConfig(seed=seed, train=0.5, validation=0.2, test=0.3)
    with connected(RayConfig()):  # one Ray for all steps
        prepare(PrepareConfig(catalog=str(catalog), out=str(folder / "table"), size=SIZE, splits=splits))
        trained = train(training_config(folder, seed, kind))
        audited = audit(audit_config(folder, seed, trained.model or "", kind))
        rows, page = compare(compare_config(folder, seed, trained.model or "", kind))
        _console().print(comparison_table(rows))
        allowed = _promoted(audited, key, _tracking(folder))
        summary = anonymize(
            AnonymizeConfig(
                source=str(catalog),
                destination=str(published),
                model=f"models:/{MODEL}@champion" if allowed else trained.model or "",
                secret_file=key,
                allow_unaudited=not allowed,
                tracking_uri=_tracking(folder),
                deid=DeidConfig(burned_in_text=text),
            )
        )
    with Progress("verify", summary.rows) as progress:
        report = verify(Store(str(published)), progress.advance)
    if not report.whole:
        raise PrichexyError(f"the demo's publication is not whole: {report.problems[0]}")
    picture = _before_and_after(lake, published, Pseudonyms.from_file(key), folder / "before-after.png")
    released = _released(published, key, _tracking(folder))
    compared = {
        "compared": {row["label"]: f"{row['strongest_auc']:.2f} ({row['strongest']})" for row in rows},
        "comparison": page,
    }
    return _figures(trained, audited, compared, allowed, summary, picture, released, key, _tracking(folder))


def _console() -> Console:
    # What is no terminal has no width, and a table would be squeezed into 80 columns.
    return Console(stderr=True, soft_wrap=True, highlight=False, width=None if sys.stderr.isatty() else TABLE_WIDTH)


def _tracking(folder: Path) -> str:
    return f"sqlite:///{(folder / 'mlflow.db').absolute()}"


def _promoted(audited: Audited, key: Path, tracking_uri: str) -> bool:
    """The gate at work: champion if the verdict is yes; otherwise the refusal is shown, and the demo goes on."""
    say = _console().print
    try:
        promote(Registry(tracking_uri), audited.record.model.uri, read_secret_file(key), "the demo's audit")
    except VerdictError as refusal:
        say(f"promotion refused, as it should be: {refusal}", markup=False)
        say("the demo goes on with --allow-unaudited, and every shard says so", markup=False)
        return False
    say(f"{audited.record.model.uri} passed by limits that are for demonstration only, and is champion", markup=False)
    return True


def audit_config(folder: Path, seed: int, model: str, kind: Kind = "flow-field") -> AuditConfig:
    """How the demo audits: few runs, and limits that are for demonstration only."""
    trained = training_config(folder, seed, kind)
    return AuditConfig.model_validate(
        {
            "model": model,
            "table": str(folder / "table"),
            "out": str(folder / "audits"),
            "secret_file": folder / "project.key",
            "training_run": str(folder / "runs" / "demo"),
            "seeds": 2,
            "seed": seed,
            "pairs": {"train": 400, "validation": 100, "test": 200},
            "strength": (100,),
            "verifier": trained.verifier.model_dump(),
            "classifier": trained.classifier.model_dump(),
            "thresholds": {"strongest_auc": 0.75, "strongest_upper": 0.85, "utility_loss": 0.1, "folded_share": 0.01},
            "gallery": 4,  # phantoms: patients who never lived may be shown
            "tracking_uri": _tracking(folder),
        }
    )


def compare_config(folder: Path, seed: int, model: str, kind: Kind = "flow-field") -> CompareConfig:
    """The demo's model beside originals and DP-Pix; what its audit ran (see `audit_config`) is not run again."""
    audited = audit_config(folder, seed, model, kind).model_dump(exclude={"model", "gallery"})
    rows = (
        {"label": "originals", "obfuscation": {"kind": "identity", "image_size": SIZE}},
        {"label": "DP-Pix b = 8", "obfuscation": {"kind": "dp-pix", "cell": 8, "image_size": SIZE}},
        {"label": f"this demo's {_NAMES[kind]}", "model": model},
    )
    return CompareConfig.model_validate({**audited, "attackers": COMPARED, "strength": (), "seeds": 1, "rows": rows})


def training_config(folder: Path, seed: int, kind: Kind = "flow-field") -> TrainConfig:
    """What the demo trains: small networks, few epochs; it shows that training works, not how good it gets.

    ``jobs/configs/train-demo.yaml`` says the same of the flow field to `prichexy train` (a test compares them).
    """
    return TrainConfig.model_validate(
        {
            "stage": "all",
            "table": str(folder / "table"),
            "storage_path": str(folder / "runs"),
            "run": "demo",
            "seed": seed,
            "pairs": {"train": 400, "validation": 100, "test": 100, "per_patient": 10},
            "classifier": {"backbone": "tiny", "optimiser": "adam", "learning_rate": 1e-3, "epochs": 12, "batch": 16},
            "verifier": {"backbone": "tiny", "learning_rate": 1e-3, "epochs": 12, "batch": 16},
            **_STAGES[kind],
            "compute": {"workers": 1, "threads": 1},
            "figures": True,  # phantoms: patients who never lived may be shown
            "register_as": MODEL,
            "tracking_uri": _tracking(folder),
        }
    )


def _draw(lake: Path, patients: int, seed: int, size: int, planted: Path, kind: Kind) -> None:
    """The phantom lake: PNG and DICOM, and three files that can't be read, as every real lake has them."""
    cohort = PhantomCohort(patients, seed, size=size)
    drawn = lake / f".drawn-{patients}-{seed}-{kind}"
    if drawn.exists():
        return
    if lake.exists() and any(lake.glob(".drawn-*")):
        raise UsageError(f"{lake} holds the lake of another demo: choose another folder or remove it")
    with Progress("draw", len(cohort.studies)) as progress:
        labels = write_mixed(cohort, lake, planted=planted, progress=lambda done, total: progress.reach(done))
    whole = sorted(lake.glob("*.png"))[0].read_bytes()
    (lake / "interrupted-upload.png").write_bytes(whole[: len(whole) // 2])
    (lake / "readme.png").write_text("not a radiograph\n")
    (lake / "empty.dcm").write_bytes(b"")
    drawn.touch()
    assert labels == lake / "labels.csv"


def _before_and_after(lake: Path, published: Path, pseudonyms: Pseudonyms, out: Path) -> Path:
    """One radiograph before, after, and the difference of the two (fivefold, grey = none)."""
    source = next(path for path in sorted(lake.glob("*_*.png")) if path.stat().st_size)
    image_id = pseudonyms.image_id(source.name)
    row = ds.dataset(published / "data").to_table(["image"], filter=pc.field("image_id") == image_id).to_pylist()[0]
    before = np.asarray(Image.open(source).convert("L"))
    after = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
    difference = np.clip(128.0 + 5.0 * (after.astype(np.float32) - before), 0, 255).astype(np.uint8)
    height, width = before.shape
    band = max(24, height // 18)
    sheet = Image.new("L", (3 * width + 2 * 8, height + band), 255)
    draw = ImageDraw.Draw(sheet)
    for number, (title, pixels) in enumerate([("before", before), ("after", after), ("difference x 5", difference)]):
        sheet.paste(Image.fromarray(pixels), (number * (width + 8), band))
        draw.text((number * (width + 8) + 6, 4), title, fill=0, font_size=band - 10)
    sheet.save(out)
    return out


def publish_config(published: Path, key: Path, tracking_uri: str) -> PublishConfig:
    """What the demo's card states; whom to write to is left out, as the check then says."""
    some = ds.dataset(published / "data").head(4, columns=["image_id"])
    return PublishConfig(
        destination=str(published),
        title="Phantom chest radiographs",
        license="CC0-1.0",
        creators=("prichexy's demo",),
        origin="Drawn by prichexy from a seed, with their findings; nobody is depicted.",
        approval="None is needed.",
        tags=("phantom",),
        splits=True,
        show=tuple(some["image_id"].to_pylist()),  # phantoms: patients who never lived may be shown
        secret_file=key,
        tracking_uri=tracking_uri,
    )


def _released(published: Path, key: Path, tracking_uri: str) -> dict[str, Any]:
    """Card, metadata, splits, page and checksums beside the shards, and what is missing before they could go public."""
    config = publish_config(published, key, tracking_uri)
    publish(config)
    missing = [gap.sentence for gap in check(config) if gap.blocking]
    return {
        "page of the data set": f"{published}/index.html",
        "before it goes public": f"missing: {'. '.join(missing)}" if missing else "nothing is missing",
    }


def _figures(
    trained: TrainedSummary,
    audited: Audited,
    compared: dict[str, Any],
    allowed: bool,
    summary: Summary,
    picture: Path,
    released: dict[str, Any],
    key: Path,
    tracking_uri: str,
) -> dict[str, Any]:
    command = sys.argv[0] if Path(sys.argv[0]).name == "prichexy" else "prichexy"
    return {
        "model": trained.model,
        "minutes to train": round(trained.seconds / 60, 1),
        "attackers": {one.name: f"{one.auc_mean:.2f}" for one in audited.record.attackers},
        "strongest": audited.record.verdict.strongest,
        "findings": _utility_sentence(audited),
        "verdict": " ".join(audited.record.verdict.reasons),
        "audit report": audited.report,
        **compared,
        "images in": summary.rows,
        "published": summary.published,
        "quarantined": summary.quarantined,
        "why": summary.reasons,
        "images/s": summary.images_per_second,
        "seconds": summary.seconds,
        "shards": f"{summary.destination}/data",
        "before and after": str(picture),
        **released,
        "next": f"{command} quarantine {summary.destination} --catalog {summary.catalog}",
        "your own images": f"{command} anonymize IMAGES OUT --model models:/{summary.model} "
        f"--secret-file {key} --tracking-uri {tracking_uri}{'' if allowed else ' --allow-unaudited'}",
    }


def _utility_sentence(audited: Audited) -> str:
    utility = audited.record.utility
    if utility.mean_original is None or utility.mean_anonymized is None:
        return "no finding is in some of the test images only"
    return f"mean AUC {utility.mean_original:.2f} on originals, {utility.mean_anonymized:.2f} on anonymized images"
