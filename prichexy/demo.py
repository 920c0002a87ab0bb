"""All of it on the phantom cohort, in minutes on two cores: what a stranger runs first."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
from PIL import Image, ImageDraw
from rich.console import Console

from prichexy.anonymize import Summary, anonymize
from prichexy.cohort.phantom import PhantomCohort, write_mixed
from prichexy.config import AnonymizeConfig
from prichexy.deid import Pseudonyms, create_secret_file
from prichexy.errors import PrichexyError, UsageError
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify
from prichexy.obfuscation import create_untrained
from prichexy.progress import Progress
from prichexy.registry import Registry

MODEL = "phantom-net"


def run(folder: Path, patients: int, seed: int) -> dict[str, Any]:
    """Draw a lake, register a model, publish the lake, verify it, and picture one radiograph before and after.

    Args:
        folder: for everything that the demo makes; a demo that was killed goes on in it.
        patients: how many phantom patients.
        seed: of cohort and model.

    Returns:
        The demo's figures, in the order in which a person reads them.

    Raises:
        UsageError: the folder holds a demo of another seed or size.
        PrichexyError: what was published is not whole.
    """
    lake, published, key = folder / "lake", folder / "published", folder / "project.key"
    folder.mkdir(parents=True, exist_ok=True)
    _draw(lake, patients, seed, folder / "planted.csv")
    if not key.exists():
        create_secret_file(key)
    tracking = f"sqlite:///{(folder / 'mlflow.db').absolute()}"
    say = Console(stderr=True, soft_wrap=True, highlight=False).print
    model = _model(folder / "model", tracking, seed)
    say(f"{model} is untrained and unaudited: the demo says --allow-unaudited, and the manifest says so too")
    summary = anonymize(
        AnonymizeConfig(
            source=str(lake),
            destination=str(published),
            model=model,
            secret_file=key,
            allow_unaudited=True,
            labels=str(lake / "labels.csv"),
            exclude=("*.csv",),
            tracking_uri=tracking,
        )
    )
    with Progress("verify", summary.rows) as progress:
        report = verify(Store(str(published)), progress.advance)
    if not report.whole:
        raise PrichexyError(f"the demo's publication is not whole: {report.problems[0]}")
    picture = _before_and_after(lake, published, Pseudonyms.from_file(key), folder / "before-after.png")
    return _figures(summary, picture, key, tracking)


def _draw(lake: Path, patients: int, seed: int, planted: Path) -> None:
    """The phantom lake: PNG and DICOM, and three files that can't be read, as every real lake has them."""
    cohort = PhantomCohort(patients, seed)
    drawn = lake / f".drawn-{patients}-{seed}"
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


def _model(folder: Path, tracking_uri: str, seed: int) -> str:
    registry = Registry(tracking_uri)
    versions = [version for version in registry.list() if version.name == MODEL]
    if versions:
        return f"models:/{MODEL}/{versions[0].version}"
    create_untrained("flow-field", folder, seed, {})
    made = registry.register(folder, MODEL, "untrained, for the demo")
    return f"models:/{MODEL}/{made.version}"


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


def _figures(summary: Summary, picture: Path, key: Path, tracking_uri: str) -> dict[str, Any]:
    command = sys.argv[0] if Path(sys.argv[0]).name == "prichexy" else "prichexy"
    return {
        "images in": summary.rows,
        "published": summary.published,
        "quarantined": summary.quarantined,
        "why": summary.reasons,
        "images/s": summary.images_per_second,
        "seconds": summary.seconds,
        "shards": f"{summary.destination}/data",
        "before and after": str(picture),
        "next": f"{command} quarantine {summary.destination} --catalog {summary.catalog}",
        "your own images": f"{command} anonymize IMAGES OUT --model models:/{summary.model} "
        f"--secret-file {key} --tracking-uri {tracking_uri} --allow-unaudited",
    }
