"""`prichexy models`: what is in the registry, and how it gets there."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from prichexy import config as settings
from prichexy.cli.console import AsJson, Overrides, TrackingUri, show

if TYPE_CHECKING:
    from prichexy.imaging.radiograph import Pixels
    from prichexy.obfuscation.engine_check import Differences, EngineCheck

_TABLE_WIDTH = 120
"""Characters a line of a table that goes into a file."""

models = typer.Typer(no_args_is_help=True, help="Models in the registry.\n\nExample: `prichexy models list`")


@models.command("import")
def models_import(
    file: Annotated[Path, typer.Argument(help="Published checkpoint (.pth, .pt, .pkl) or .safetensors.")],
    name: Annotated[str, typer.Option(help="Registered name.")] = "prichexy-net",
    mu: Annotated[
        float | None, typer.Option(help="Largest displacement, in half image widths (flow-field; 0.01).")
    ] = None,
    operator: Annotated[str | None, typer.Option(help="reference (published checkpoints) or corrected.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    engine: Annotated[str | None, typer.Option(help="torch; winograd or openvino on CPUs; cuda-graph on GPUs.")] = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Register a published checkpoint: weights only, nothing in the file is executed.

    Example: `prichexy models import generator_lowest_total_loss.pth --name prichexy-net --mu 0.01 --operator reference`
    """
    from prichexy.obfuscation import convert_checkpoint

    stated = {"mu": mu, "operator": operator, "precision": precision, "engine": engine}
    given = {name: value for name, value in stated.items() if value is not None}
    _register(
        lambda folder: convert_checkpoint(file, folder, given),
        name,
        "imported checkpoint",
        tracking_uri,
        as_json,
    )


@models.command("create")
def models_create(
    kind: Annotated[str, typer.Argument(help="flow-field, privacy-net, dp-pix or identity.")],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Registered name; the kind by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights of an untrained network.")] = 42,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Register a model that needs no checkpoint: DP-Pix, the identity, or an untrained network for trials.

    Example: `prichexy models create dp-pix cell=8 epsilon=0.1 --name dp-pix-8`
    """
    from prichexy.obfuscation import create_untrained

    given = settings.parse_overrides(overrides or ())
    _register(
        lambda folder: create_untrained(kind, folder, seed, given), name or kind, "untrained", tracking_uri, as_json
    )


@models.command("fit")
def models_fit(
    table: Annotated[str, typer.Option(help="Training table made by `prichexy prepare`.")],
    overrides: Overrides = None,
    training_run: Annotated[
        str | None, typer.Option(help="STORAGE_PATH/RUN on this table, whose classifier of findings is used.")
    ] = None,
    classifier_weights: Annotated[Path | None, typer.Option(help="Its checkpoint, where there is no run.")] = None,
    name: Annotated[str, typer.Option(help="Registered name.")] = "multi-scale-field",
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Fit and register a multi-scale-field model: coarse appearance standardized, smooth fields by an image's key.

    Example: `prichexy models fit --table table/ --training-run runs/train detail=0.5 kept=2`
    """
    from prichexy.audit.fitting import fit_to_table

    given = settings.parse_overrides(overrides or ())
    audited = settings.load(
        settings.AuditSettings, table=table, training_run=training_run, classifier_weights=classifier_weights
    )
    _register(lambda folder: fit_to_table(audited, given, folder), name, "fitted", tracking_uri, as_json)


def _register(fill: Callable[[Path], object], name: str, origin: str, tracking_uri: str | None, as_json: bool) -> None:
    import tempfile

    from prichexy.registry import Registry, stage_version

    registry = Registry(tracking_uri)
    with tempfile.TemporaryDirectory(prefix="prichexy-model-") as folder:
        fill(Path(folder))
        made = registry.register(Path(folder), name, origin)
    stage_version(registry, made)
    facts = {"model": f"models:/{made.name}/{made.version}", **made.settings.recorded()}
    show({**facts, "fingerprint": made.fingerprint}, as_json, "Registered")


@models.command("list")
def models_list(tracking_uri: TrackingUri = None, as_json: AsJson = False) -> None:
    """List every version of every model, with its obfuscation settings.

    Example: `prichexy models list --tracking-uri sqlite:///mlflow.db`
    """
    from prichexy.registry import Registry

    found = [
        {
            "model": f"models:/{model.name}/{model.version}",
            "aliases": ", ".join(model.aliases),
            **model.settings.recorded(),
            "audited": model.audited,
            "created": model.created,
        }
        for model in Registry(tracking_uri).list()
    ]
    if as_json:
        print(json.dumps(found, indent=2, default=str))
        return
    table = Table(title=f"Models: {len(found)}", title_justify="left", title_style="bold")
    for column in ("model", "aliases", "kind", "settings", "audited", "created"):
        table.add_column(column, overflow="fold", no_wrap=column in ("model", "kind"))
    for facts in found:
        rest = {
            key: value for key, value in facts.items() if key not in ("model", "aliases", "kind", "audited", "created")
        }
        created = facts["created"].strftime("%Y-%m-%d %H:%M") if facts["created"] else ""
        described = " ".join(f"{key}={value}" for key, value in rest.items())
        table.add_row(
            facts["model"], facts["aliases"], facts["kind"], described, "yes" if facts["audited"] else "no", created
        )
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


@models.command("recompute")
def models_recompute(
    model: Annotated[str, typer.Argument(help="models:/NAME/VERSION, models:/NAME@ALIAS or a folder.")],
    engine: Annotated[str | None, typer.Option(help="torch; winograd or openvino on CPUs; cuda-graph on GPUs.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    name: Annotated[str | None, typer.Option(help="Registered name; the model's own by default.")] = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Register a model's weights once more, to be computed by another engine or in another precision.

    The new version has to be audited before it publishes: an audit holds for one engine and precision.

    Example: `prichexy models recompute models:/prichexy-net/3 --engine winograd`
    """
    import tempfile

    from prichexy.errors import UsageError
    from prichexy.obfuscation import parse_settings, read, save
    from prichexy.registry import Registry

    changed = {key: value for key, value in {"engine": engine, "precision": precision}.items() if value is not None}
    if not changed:
        raise UsageError("give --engine, --precision or both: the new version would be the same as the old")
    with tempfile.TemporaryDirectory(prefix="prichexy-model-") as folder:
        found = Registry(tracking_uri).fetch(model, Path(folder))
        own, state = read(found.folder)
    if not state:
        raise UsageError(f"a '{own.kind}' model has no network to compute otherwise")
    recomputed = parse_settings(own.recorded() | changed)
    if recomputed == own:
        raise UsageError("the model has this engine and precision already")
    _register(
        lambda made: save(made, recomputed, state),
        name or (found.name if found.registered else "prichexy-net"),
        f"weights of {found.name}/{found.version}",
        tracking_uri,
        as_json,
    )


@models.command("check")
def models_check(
    model: Annotated[str, typer.Argument(help="models:/NAME/VERSION, models:/NAME@ALIAS or a folder.")],
    images: Annotated[Path | None, typer.Option(help="Folder of radiographs; phantoms by default.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Images to check on, at most.")] = 8,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Compare engines and precisions on images: what they change, how fast they are, and which are allowed.

    Differences are in grey levels of 255, to torch in float32. Allowed are 1 at the network's resolution and 2 at
    native resolution. Speed is of one core of this machine. Exit code 1 when the model's own engine and precision are
    not allowed at the network's resolution.

    Example: `prichexy models check models:/prichexy-net/3 --images radiographs/`
    """
    import tempfile

    import torch

    from prichexy.obfuscation import read
    from prichexy.obfuscation.engine_check import check_engines
    from prichexy.registry import Registry

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="prichexy-model-") as folder:
        own, state = read(Registry(tracking_uri).fetch(model, Path(folder)).folder)
    checks = check_engines(own, state, _phantoms(most) if images is None else _radiographs(images, most))
    if as_json:
        print(json.dumps([_check_facts(check, own) for check in checks], indent=2))
    else:
        _show_checks(checks, own)
    if not all(check.allowed_at_size for check in checks if _is_own(check, own)):
        raise typer.Exit(1)


def _phantoms(most: int) -> "Iterator[tuple[Pixels, int]]":
    from prichexy.cohort.phantom import PhantomCohort, render

    for study in PhantomCohort(most, seed=7, size=1024).studies[:most]:
        yield render(study, 8), 8


def _radiographs(folder: Path, most: int) -> "Iterator[tuple[Pixels, int]]":
    """The first radiographs of a folder and those below it, by name; files that are none are passed over."""
    from prichexy.errors import Quarantined, UsageError
    from prichexy.imaging import decode

    if not folder.is_dir():
        raise UsageError("setting images: the folder can't be opened")
    found = 0
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            radiograph = decode(file.read_bytes())
        except Quarantined:
            continue
        except OSError:
            raise UsageError("setting images: a file in the folder can't be read") from None
        yield radiograph.pixels, radiograph.bit_depth
        found += 1
        if found == most:
            return


def _is_own(check: "EngineCheck", own: Any) -> bool:
    return (check.engine, check.precision) == (own.engine, own.precision)


def _check_facts(check: "EngineCheck", own: Any) -> dict[str, Any]:
    def facts(differences: "Differences | None", allowed: bool) -> dict[str, Any] | None:
        if differences is None or not differences.pixels:
            return None
        return {
            "largest": differences.largest,
            "mean": differences.mean,
            "changed_share": differences.changed_share,
            "allowed": allowed,
        }

    return {
        "engine": check.engine,
        "precision": check.precision,
        "the_model_s_own": _is_own(check, own),
        "unusable": check.unusable,
        "at_size": facts(check.at_size, check.allowed_at_size),
        "native": facts(check.native, check.allowed_native),
        "images_per_second": check.images_per_second,
    }


def _show_checks(checks: "list[EngineCheck]", own: Any) -> None:
    size = str(own.image_size)
    table = Table(
        title="Grey levels (of 255) changed against torch float32: largest, mean, share of pixels",
        title_justify="left",
        title_style="bold",
        caption="* the model's own",
        caption_justify="left",
    )
    for column in ("engine", "precision", f"at {size}", "native", "images/s a core", "allowed"):
        table.add_column(column, justify="right" if column == "images/s a core" else "left")
    for check in checks:
        allowed = [size] * check.allowed_at_size + ["native"] * check.allowed_native
        rate = check.images_per_second
        table.add_row(
            f"{check.engine}{' *' if _is_own(check, own) else ''}",
            check.precision,
            _differences_text(check.at_size),
            _differences_text(check.native),
            "-" if rate is None else f"{rate:.1f}",
            check.unusable or ", ".join(allowed) or "no",
        )
    to_people = sys.stdout.isatty()
    Console(soft_wrap=not to_people, width=None if to_people else _TABLE_WIDTH).print(table)


def _differences_text(differences: "Differences | None") -> str:
    if differences is None or not differences.pixels:
        return "-"
    return f"{differences.largest:.2f}, {differences.mean:.4f}, {100 * differences.changed_share:.2f} %"
