"""`prichexy publish`: card, metadata, checksums, splits and page beside the shards; and what is missing."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prichexy import config as settings
from prichexy.cli.console import AsJson, ConfigFile, Overrides, SecretFile, TrackingUri, show
from prichexy.config.publication import PublishConfig
from prichexy.errors import PrichexyError


def publish(
    destination: Annotated[str | None, typer.Argument(help="Where the shards are.")] = None,
    overrides: Overrides = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: say what is missing before going public.")
    ] = False,
    splits: Annotated[bool, typer.Option("--splits", help="Also write splits.parquet, by patient.")] = False,
    title: Annotated[str | None, typer.Option(help="What the data set is called.")] = None,
    license_id: Annotated[str | None, typer.Option("--license", help="SPDX identifier, such as CC-BY-4.0.")] = None,
    license_file: Annotated[Path | None, typer.Option(help="Text of the licence, published as LICENSE.")] = None,
    contact: Annotated[str | None, typer.Option(help="Whom to write to: an e-mail or web address.")] = None,
    shown: Annotated[
        list[str] | None, typer.Option("--show", help="image_id that the page may show; may be given again.")
    ] = None,
    secret_file: SecretFile = None,
    tracking_uri: TrackingUri = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write what stands beside the shards: dataset card, Croissant metadata, checksums, splits, a page.

    The audit's table is shown only if its seal is proven, which takes the secret and the registry; otherwise the card
    says that the data set is unaudited. --check exits with 1 when something is missing before going public.

    Example: `prichexy publish published/ --splits --license CC-BY-4.0 --contact data@hospital.org --config card.yaml`
    """
    loaded = settings.load(
        PublishConfig,
        config,
        overrides or (),
        destination=destination,
        check=check or None,
        splits=splits or None,
        title=title,
        license=license_id,
        license_file=license_file,
        contact=contact,
        show=tuple(shown) if shown else None,
        secret_file=secret_file,
        tracking_uri=tracking_uri,
    )
    run_publish(loaded, as_json)


def run_publish(config: PublishConfig, as_json: bool) -> None:
    """Publish or check, and print what came of it."""
    if config.check:
        _run_check(config, as_json)
        return
    from prichexy.publish import publish as run

    done = asdict(run(config))
    if not as_json:
        done |= {"images": _counted(done["images"]), "patients": _counted(done["patients"])}
        done |= {"audits": "; ".join(f"{model}: {said}" for model, said in done["audits"].items())}
        done |= {"files": ", ".join(done["files"])}
    show(done, as_json, "Published")


def _run_check(config: PublishConfig, as_json: bool) -> None:
    from prichexy.publish import check as run

    gaps = run(config)
    missing = [gap for gap in gaps if gap.blocking]
    if as_json:
        listed = {
            kind: [{"what": gap.what, "sentence": gap.sentence} for gap in gaps if gap.blocking == blocking]
            for kind, blocking in (("missing", True), ("advice", False))
        }
        print(json.dumps({"destination": config.destination, "ready": not missing, **listed}, indent=2))
    else:
        table = Table("", "what", "sentence", title="Before going public", title_justify="left", title_style="bold")
        for gap in (*missing, *(gap for gap in gaps if not gap.blocking)):
            table.add_row("missing" if gap.blocking else "advice", gap.what, Text(gap.sentence))
        Console(soft_wrap=not sys.stdout.isatty()).print(table if gaps else "nothing is missing", highlight=False)
    if missing:
        noun = "thing is" if len(missing) == 1 else "things are"
        raise PrichexyError(f"{len(missing)} {noun} missing before {config.destination} can go public")


def _counted(count: int | None) -> str:
    return "withheld or unknown" if count is None else f"{count:,}"
