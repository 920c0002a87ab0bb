"""`prichexy audit MODEL` and `prichexy audit compare`: what attackers can still do, and what is left for research."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from prichexy import config as settings
from prichexy.cli.console import AsJson, ConfigFile, Overrides, SecretFile, TrackingUri


class _ModelFirst(TyperGroup):
    """`prichexy audit MODEL ...` is `prichexy audit model MODEL ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "--help", "--list"}:
            args = ["model", *args]
        return super().parse_args(ctx, args)


audit = typer.Typer(
    cls=_ModelFirst,
    no_args_is_help=True,
    invoke_without_command=True,
    help="Audit a model: every attacker, the utility, a verdict.\n\n"
    "`prichexy audit MODEL --table TABLE` audits one model (see `prichexy audit model --help`), "
    "`prichexy audit compare` several alike.\n\n"
    "Example: `prichexy audit models:/prichexy-net/3 --table table/ --secret-file project.key`",
)


@audit.callback()
def listed(
    attackers: Annotated[bool, typer.Option("--list", help="List the attackers.")] = False,
) -> None:
    """Handle `--list`: name, what it does, and whether chance has a part (then it is run with several seeds)."""
    if not attackers:
        return
    from prichexy.audit.attackers import ATTACKERS
    from prichexy.audit.attackers.fusion import DESCRIPTION, NAME

    table = Table("attacker", "what it does", "chance", title="Attackers", title_justify="left", title_style="bold")
    for attacker in ATTACKERS.values():
        table.add_row(attacker.name, attacker.description, "yes" if attacker.seeded else "no")
    table.add_row(NAME, DESCRIPTION, "no")
    Console(soft_wrap=not sys.stdout.isatty()).print(table)
    raise typer.Exit


@audit.command("model")
def audit_model(
    model: Annotated[str | None, typer.Argument(help="models:/NAME/VERSION, models:/NAME@ALIAS or a folder.")] = None,
    overrides: Overrides = None,
    table: Annotated[str | None, typer.Option(help="Training table; its test patients are the judges.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder or prefix for results and reports; private.")] = None,
    training_run: Annotated[str | None, typer.Option(help="STORAGE_PATH/RUN of the model's training.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each attacker that learns; 10 by default.")] = None,
    secret_file: SecretFile = None,
    tracking_uri: TrackingUri = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Audit one model; killed and started again, it goes on. Exit code 1 when the verdict is no.

    Example: `prichexy audit models:/prichexy-net/3 --table table/ --training-run runs/train --secret-file project.key`
    """
    loaded = settings.load(
        settings.AuditConfig,
        config,
        overrides or (),
        model=model,
        table=table,
        out=out,
        training_run=training_run,
        seeds=seeds,
        secret_file=secret_file,
        tracking_uri=tracking_uri,
    )
    run_audit(loaded, as_json)


def run_audit(config: settings.AuditConfig, as_json: bool) -> None:
    """Audit a model, print what was found, and exit with 1 when the verdict is no."""
    from prichexy.audit.job import audit as run

    done = run(config)
    verdict = done.record.verdict
    if as_json:
        record = done.record.model_dump(mode="json", exclude={"attackers": {"__all__": {"roc"}}})
        print(json.dumps({"audit_id": done.audit_id, "report": done.report, "stored": done.stored, **record}, indent=2))
    else:
        console = Console(soft_wrap=not sys.stdout.isatty())
        console.print(attackers_table(done.record))
        console.print(f"verdict: {'passed' if verdict.passed else 'FAILED'}", style="bold", highlight=False)
        for reason in verdict.reasons:
            console.print(f"  {reason}", highlight=False, markup=False)
        console.print(f"audit {done.audit_id}; report: {done.report}", highlight=False, markup=False)
    if not verdict.passed:
        raise typer.Exit(1)


def attackers_table(record: Any) -> Table:
    """The attackers of a record, for people; the strongest is marked by a star."""
    table = Table("attacker", title=f"Attackers on {record.model.uri}", title_justify="left", title_style="bold")
    for column in ("mean AUC", "95 %", "max", "seeds", "rank-1", "mAP@R"):
        table.add_column(column, justify="right")
    for one in record.attackers:
        star = " *" if one.name == record.verdict.strongest else ""
        table.add_row(
            f"{one.name}{star}",
            f"{one.auc_mean:.3f}",
            f"{one.auc_low:.3f} - {one.auc_high:.3f}",
            f"{one.auc_max:.3f}",
            str(one.seeds),
            _figure(one.rank_1),
            _figure(one.map_at_r),
        )
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


@audit.command("compare")
def audit_compare(
    overrides: Overrides = None,
    table: Annotated[str | None, typer.Option(help="Training table; its test patients are the judges.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder or prefix for results and reports; private.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each attacker that learns; 10 by default.")] = None,
    secret_file: SecretFile = None,
    tracking_uri: TrackingUri = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Audit several models alike: one table, one privacy-utility plot; killed and started again, it goes on.

    The rows stand in the configuration: `rows: [{label: DP-Pix, obfuscation: {kind: dp-pix, cell: 4}}, ...]`.

    Example: `prichexy audit compare --config jobs/configs/compare-chestxray14-64.yaml --secret-file project.key`
    """
    loaded = settings.load(
        settings.CompareConfig,
        config,
        overrides or (),
        table=table,
        out=out,
        seeds=seeds,
        secret_file=secret_file,
        tracking_uri=tracking_uri,
    )
    run_compare(loaded, as_json)


def run_compare(config: settings.CompareConfig, as_json: bool) -> None:
    """Compare models, and print the table and where the page is."""
    from prichexy.audit.comparison import TABLE_WIDTH, compare, comparison_table

    rows, page = compare(config)
    if as_json:
        print(json.dumps({"rows": rows, "report": page}, indent=2))
        return
    to_people = sys.stdout.isatty()
    console = Console(soft_wrap=not to_people, width=None if to_people else TABLE_WIDTH)
    console.print(comparison_table(rows))
    console.print(f"report: {page}", highlight=False, markup=False)
