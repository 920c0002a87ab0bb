"""The `prichexy` command: each command builds one configuration and calls one function.

Results go to stdout (a table, or JSON with --json), progress and one line an event to stderr. Exit codes: 0 done, 1
the work failed or the verdict is no, 2 bad usage or configuration.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prichexy import config as settings
from prichexy.cli.audit import audit
from prichexy.cli.console import AsJson, ConfigFile, Overrides, SecretFile, TrackingUri, exit_codes, show
from prichexy.cli.deid import deid
from prichexy.cli.demo import demo
from prichexy.cli.doctor import doctor
from prichexy.cli.lineage import lineage
from prichexy.cli.link import link
from prichexy.cli.models import models
from prichexy.cli.promotion import promote
from prichexy.cli.publish import publish
from prichexy.cli.snapshots import snapshots
from prichexy.cli.withdraw import withdraw
from prichexy.errors import PrichexyError, UsageError

# Ray, torch and MLflow take seconds to import: each command imports what it needs, so that --help and mistakes are
# quick.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Anonymize a data lake of chest radiographs: anatomy, header and burned-in text in one pass.\n\n"
    "Start with: `prichexy demo`",
)
app.add_typer(models, name="models")
app.add_typer(audit, name="audit")
app.add_typer(link, name="link")


def main() -> NoReturn:
    """Entry point of the `prichexy` command."""
    with exit_codes():
        app()
    sys.exit(0)


@app.command()
def keygen(file: Annotated[Path, typer.Argument(help="New file for the secret.")]) -> None:
    """Make a project secret: 32 random bytes in a file that only you can read.

    Every pseudonym depends on it. Who holds it can link published images to patients; who loses it can't publish
    increments.

    Example: `prichexy keygen project.key`
    """
    from prichexy.deid import create_secret_file

    create_secret_file(file)
    Console(stderr=True, soft_wrap=True).print(f"wrote {file}; keep it private and backed up")


@app.command()
def catalog(
    source: Annotated[str, typer.Argument(help="Folder or s3:// prefix of radiographs.")],
    overrides: Overrides = None,
    out: Annotated[str | None, typer.Option(help="Folder or prefix for the catalog; private.")] = None,
    labels: Annotated[str | None, typer.Option(help="CSV with NIH's columns.")] = None,
    since: Annotated[str | None, typer.Option(help="Earlier catalog: list only what is new or changed.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List a lake into a catalog: row_id, uri, size, etag, format, and for labelled sets patient, findings, follow-up.

    Killed and started again, it goes on. With `--since` the catalog makes the next snapshot of what the earlier one
    published.

    Example: `prichexy catalog s3://hospital/cxr --out s3://private/catalog --labels labels.csv`
    """
    from prichexy.cohort.catalog import build_catalog, count_formats

    loaded = settings.load(
        settings.CatalogConfig, config, overrides or (), source=source, out=out, labels=labels, since=since
    )
    made = build_catalog(loaded)
    facts = {
        "catalog": made.uri,
        "files": made.rows,
        "bytes": made.bytes,
        "formats_by_name": count_formats(made, loaded.storage),
        "labelled": made.labelled,
        "labels_without_a_file": made.labels_unused,
        "left_out": made.skipped,
        "changed_since": made.replaces,
        "gone_since": made.gone,
    }
    show(facts, as_json, "Catalog")


@app.command()
def anonymize(
    source: Annotated[str | None, typer.Argument(help="Folder or s3:// prefix of radiographs, or a catalog.")] = None,
    destination: Annotated[str | None, typer.Argument(help="Folder or s3:// prefix for the shards.")] = None,
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help=f"Model to use; {settings.DEFAULT_MODEL} by default.")] = None,
    resolution: Annotated[str | None, typer.Option(help="native (default) or 256.")] = None,
    encoding: Annotated[str | None, typer.Option(help="png (default) or jpeg-xl, lossless.")] = None,
    secret_file: SecretFile = None,
    allow_unaudited: Annotated[
        bool, typer.Option(help="Use a model without an audit; is stamped into the manifest.")
    ] = False,
    increment: Annotated[
        bool, typer.Option("--increment", help="Publish what is new or changed since, as a new snapshot.")
    ] = False,
    also_dicom: Annotated[bool, typer.Option(help="Write de-identified DICOM files beside the shards.")] = False,
    link_table: Annotated[str | None, typer.Option(help="Private place for the encrypted link table.")] = None,
    link_recipient: Annotated[Path | None, typer.Option(help="Public key that it is encrypted for.")] = None,
    work_dir: Annotated[str | None, typer.Option(help="Private place for the catalog (DESTINATION.private).")] = None,
    labels: Annotated[str | None, typer.Option(help="CSV with NIH's columns.")] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Of the whole cluster, in any currency; for the report's cost.")
    ] = None,
    tracking_uri: TrackingUri = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Publish a lake as anonymized Parquet shards; killed and started again, it goes on where it stopped.

    At the end it reports where the time went, what held it up, and what more of the machine would bring.

    Example: `prichexy anonymize images/ published/ --model models:/prichexy-net@champion --secret-file project.key`
    """
    loaded = settings.load(
        settings.AnonymizeConfig,
        config,
        overrides or (),
        source=source,
        destination=destination,
        model=model,
        resolution=resolution,
        encoding=encoding,
        secret_file=secret_file,
        allow_unaudited=allow_unaudited or None,
        increment=increment or None,
        also_dicom=also_dicom or None,
        link_table=link_table,
        link_recipient=link_recipient,
        work_dir=work_dir,
        labels=labels,
        price_per_hour=price_per_hour,
        tracking_uri=tracking_uri,
    )
    run_anonymize(loaded, as_json)


def run_anonymize(config: settings.AnonymizeConfig, as_json: bool) -> None:
    """Run the main job and print its summary and its report."""
    from prichexy.anonymize import anonymize as run
    from prichexy.cli.run_report import show_report

    summary = run(config)
    facts = asdict(summary)
    if not as_json:
        del facts["report"]
    show(facts, as_json, "Anonymized")
    if not as_json and summary.report is not None:
        show_report(summary.report)
    if not as_json and summary.quarantined:
        Console(stderr=True, soft_wrap=True).print(
            f"see why: prichexy quarantine {summary.destination}", highlight=False
        )


@app.command()
def prepare(
    catalog: Annotated[str | None, typer.Argument(help="A catalog made by `prichexy catalog`.")] = None,
    overrides: Overrides = None,
    out: Annotated[str | None, typer.Option(help="Folder or prefix for the training table; private.")] = None,
    labels: Annotated[str | None, typer.Option(help="CSV of labels; the catalog's own by default.")] = None,
    size: Annotated[int | None, typer.Option(help="Edge of the images, in pixels; 256 by default.")] = None,
    secret_file: SecretFile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Decode a labelled lake into a training table, split by patient; started again, it goes on where it stopped.

    Example: `prichexy prepare catalog/ --out table/ --size 64 splits.seed=42`
    """
    given = {"catalog": catalog, "out": out, "labels": labels, "size": size, "secret_file": secret_file}
    run_prepare(settings.load(settings.PrepareConfig, config, overrides or (), **given), as_json)


def run_prepare(config: settings.PrepareConfig, as_json: bool) -> None:
    """Prepare the table and print its summary."""
    from prichexy.training.prepare import prepare as run

    show(asdict(run(config)), as_json, "Training table")


@app.command()
def train(
    stage: Annotated[str | None, typer.Argument(help="classifier, verifier, generator or all.")] = None,
    overrides: Overrides = None,
    table: Annotated[str | None, typer.Option(help="A training table made by `prichexy prepare`.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder or prefix for runs and checkpoints; private.")] = None,
    run: Annotated[str | None, typer.Option(help="Name of the run; one of that name goes on.")] = None,
    register_as: Annotated[str | None, typer.Option(help="Registered name; prichexy-net by default.")] = None,
    tracking_uri: TrackingUri = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Train on Ray, with every epoch in MLflow; killed and started again, it goes on from its last checkpoint.

    The defaults are the paper's; `generator` is pretrained and then trained against verifier and classifier, or, with
    generator.kind=multi-scale-field, fitted and then trained against several verifiers.

    Example: `prichexy train all --table table/ --out runs/ --run first verifier.backbone=resnet18 compute.gpu=true`
    """
    if stage is not None and "=" in stage:  # the stage is in the configuration, and this is the first setting
        overrides = [stage, *(overrides or ())]
        stage = None
    loaded = settings.load(
        settings.TrainConfig,
        config,
        overrides or (),
        stage=stage,
        table=table,
        storage_path=out,
        run=run,
        register_as=register_as,
        tracking_uri=tracking_uri,
    )
    run_train(loaded, as_json)


def run_train(config: settings.TrainConfig, as_json: bool) -> None:
    """Train, and print what came of it; the AUC of each finding in JSON only."""
    from prichexy.training.loop import train as run

    summary = run(config)
    facts = asdict(summary)
    if not as_json:
        for stage, result in facts.pop("stages").items():
            facts[stage] = {name: f"{value:.4g}" for name, value in result.items() if "auc/" not in name}
    show(facts, as_json, "Trained")


@app.command()
def quarantine(
    destination: Annotated[str, typer.Argument(help="Where the shards are.")],
    overrides: Overrides = None,
    catalog: Annotated[str | None, typer.Option(help="The job's private catalog: adds each source file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was set aside, and why; with the private catalog also which files.

    Example: `prichexy quarantine published/ --catalog published.private/catalog`
    """
    from prichexy.cohort.catalog import open_catalog, source_of
    from prichexy.lake.job import expected_rows
    from prichexy.lake.snapshots import quarantined_rows
    from prichexy.lake.storage import Store

    storage = settings.load(settings.StoragePlace, None, overrides or ()).storage
    rows = quarantined_rows(Store(destination, storage))
    if catalog is not None:
        opened = open_catalog(catalog, storage)
        if opened is None:
            raise UsageError(f"there is no catalog at {catalog}")
        if opened.rows != expected_rows(Store(destination, storage)):
            raise UsageError(f"{catalog} is not the catalog of the job in {destination}")
        names = source_of(opened, storage, [row["row_id"] for row in rows])
        rows = [{**row, "uri": names[row["row_id"]]} for row in rows]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(title=f"Quarantined: {len(rows):,}", title_justify="left", title_style="bold")
    for column in ("row", "stage", "reason", "message", *(["source"] if catalog else [])):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


@app.command()
def status(
    destination: Annotated[str, typer.Argument(help="Where the shards are, or will be.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show how far a publication is, from any machine: done, to do, rate, quarantine by reason, time left.

    Example: `prichexy status s3://public/release-1`
    """
    from prichexy.lake.status import status as look
    from prichexy.lake.storage import Store

    storage = settings.load(settings.StoragePlace, None, overrides or ()).storage
    show(asdict(look(Store(destination, storage))), as_json, "Status")


@app.command()
def verify(
    destination: Annotated[str, typer.Argument(help="Where the shards are.")],
    overrides: Overrides = None,
    canaries: Annotated[
        Path | None, typer.Option(help="Identifiers that must not occur, one a line: 4 characters or more, better 6.")
    ] = None,
    ocr: Annotated[int, typer.Option(min=0, help="Images in which to look for text, drawn over all shards.")] = 0,
    snapshot: Annotated[int | None, typer.Option(min=1, help="Which snapshot; the current one by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read everything that was published and prove it whole: counts, unique ids, checksums, no identifier left.

    Text columns are always searched for names, dates and numbers, and DICOM files compared with the header profile.
    Text in images is looked for in a sample only, if asked: that takes 0.12 s a megapixel, and the detector, made
    to miss nothing, now and then sees text where there is none.

    Example: `prichexy verify published/ --canaries names.txt --ocr 100`
    """
    from prichexy.deid.burned_in import require_networks
    from prichexy.deid.scan import Canaries
    from prichexy.lake.snapshots import read_manifest
    from prichexy.lake.storage import Store
    from prichexy.lake.verify import verify as run
    from prichexy.progress import Progress

    listed = Canaries.from_file(canaries) if canaries is not None else None
    if ocr:
        require_networks()
    store = Store(destination, settings.load(settings.StoragePlace, None, overrides or ()).storage)
    manifest = read_manifest(store, snapshot)
    with Progress("verify", manifest["counts"]["rows"] if manifest else 0) as progress:
        report = run(store, progress.advance, listed, ocr, snapshot)
    show(
        {**asdict(report), "problems": "; ".join(report.problems) or "none", "whole": report.whole}, as_json, "Verified"
    )
    if not report.whole:
        raise PrichexyError(
            f"{destination} is not whole: {len(report.problems)} problems, the first: {report.problems[0]}"
        )


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="New folder for the images and labels.csv.")],
    patients: Annotated[int, typer.Option(min=1, help="How many patients.")] = 20,
    seed: Annotated[int, typer.Option(help="The same seed draws the same cohort.")] = 42,
    size: Annotated[int, typer.Option(min=64, max=4096, help="Side of the images, in pixels.")] = 512,
    form: Annotated[str, typer.Option("--format", help="png, dicom or mixed.")] = "mixed",
    as_json: AsJson = False,
) -> None:
    """Draw a phantom cohort: chest radiographs of patients who never lived, to try everything on.

    Example: `prichexy phantom lake/ --patients 20 --seed 7`
    """
    from prichexy.cohort.phantom import PhantomCohort, write_dicom, write_mixed, write_png
    from prichexy.progress import Progress

    writers: dict[str, Callable[..., Path]] = {"png": write_png, "dicom": write_dicom, "mixed": write_mixed}
    if form not in writers:
        raise UsageError(f"--format {form} is unknown: use {', '.join(writers)}")
    cohort = PhantomCohort(patients, seed, size=size)
    with Progress("draw", len(cohort.studies)) as progress:
        labels = writers[form](cohort, folder, progress=lambda done, total: progress.reach(done))
    facts = {"folder": str(folder), "patients": patients, "images": len(cohort.studies), "labels": str(labels)}
    show(facts, as_json, "Phantom cohort")


app.command()(demo)
app.command()(deid)
app.command()(doctor)
app.command()(snapshots)
app.command()(promote)  # after the commands that come before it
app.command()(publish)
app.command()(withdraw)
app.command()(lineage)
