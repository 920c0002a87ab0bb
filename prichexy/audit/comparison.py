"""Several models audited alike: one table, one privacy-utility plot, and a run in MLflow for each."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from prichexy.audit.fitting import fit_to_table
from prichexy.audit.job import Audited, audit_model
from prichexy.audit.report import tradeoff_svg, write_comparison
from prichexy.cluster import connected
from prichexy.config.audit import AuditSettings, CompareConfig, ComparedModel
from prichexy.lake.storage import Store
from prichexy.obfuscation import create_untrained, to_bytes
from prichexy.registry import ModelVersion, Registry, open_run, run_tags
from prichexy.verdict import AuditRecord

REPORT, TABLE, PLOT = "comparison.html", "comparison.json", "comparison.svg"

RUN = "mlflow.json"
"""Beside a row's record: the id of its run in MLflow, and what that run holds."""

TABLE_WIDTH = 120
"""Columns that `comparison_table` takes where the output is no terminal."""

_NOTHING = "-"


def compare(config: CompareConfig) -> tuple[list[dict[str, Any]], str]:
    """Audit each row of a comparison, and write its table and plot; runs of attackers that were kept are not run again.

    Verdicts of a comparison are stored with no model: `prichexy audit` does that. Each row's own record and report lie
    beside its runs, in the folder ``compared``; its settings and figures are a run in MLflow, the same one while a
    comparison that is made again finds the same.

    Returns:
        The table (see `summarized`), and the place of the page.

    Raises:
        UsageError: a model, the table or a setting can't be used.
        PrichexyError: MLflow can't be reached.
        StorageFault: the store failed; what was kept stays, and the same command goes on.
    """
    out = Store(config.out, config.storage)
    records: list[tuple[str, AuditRecord]] = []
    with connected(config.ray):
        for row in config.every_row:
            done = _audited(row, config)
            _log(row, done, config)
            records.append((row.label, done.record))
    rows = summarized(records)
    out.write(TABLE, (json.dumps(rows, indent=2) + "\n").encode())
    if (plot := tradeoff_svg(records)) is not None:
        out.write(PLOT, plot.encode())
    with tempfile.TemporaryDirectory(prefix="prichexy-comparison-") as folder:
        out.write(REPORT, write_comparison(records, Path(folder) / REPORT).read_bytes())
    return rows, f"{out.uri.rstrip('/')}/{REPORT}"


def _audited(row: ComparedModel, config: CompareConfig) -> Audited:
    own = config if row.training_run is None else config.model_copy(update={"training_run": row.training_run})
    registry = Registry(config.tracking_uri)
    with tempfile.TemporaryDirectory(prefix="prichexy-model-") as folder:
        model = row_model(row, own, registry, Path(folder))
        return audit_model(
            own, model, to_bytes(model.folder), registry=None, classifiers=config.utility, judges=config.judges
        )


def _log(row: ComparedModel, done: Audited, config: CompareConfig) -> None:
    """What the row is and what came of it, in its run of MLflow."""
    place, record = Store(done.place, config.storage), done.record
    given = {"model": row.model} if row.model is not None else dict(row.obfuscation or {})
    params = {**given, "seeds": record.seeds, "seed": record.seed, "judges": config.judges}
    figures = _figures(record)
    attackers = {f"attackers/{name}": auc for name, auc in figures.pop("attackers").items()}
    metrics = {name: float(value) for name, value in figures.items() if isinstance(value, int | float)} | attackers
    outcome = json.loads(json.dumps({"label": row.label, "params": params, "metrics": metrics}))
    try:
        kept = json.loads(place.read(RUN))
    except FileNotFoundError:
        kept = {}
    # More seeds or other attackers are another outcome of the same model: MLflow never changes a figure that it has.
    known = kept["id"] if kept.get("outcome") == outcome else None
    run = open_run(
        Registry(config.tracking_uri), f"compare: {row.label}", known, params, run_tags(record.data.fingerprint)
    )
    place.write(RUN, (json.dumps({"id": run.id, "outcome": outcome}) + "\n").encode())
    run.log_result(metrics, 0)
    run.finish()


def row_model(row: ComparedModel, config: AuditSettings, registry: Registry, into: Path) -> ModelVersion:
    """The model of a row, its files in the empty folder `into`.

    Args:
        row: what it is.
        config: of the audit; multi-scale-field is fitted to its table, with the classifier that it names.
        registry: of models.
        into: an empty folder.

    Raises:
        UsageError: there is no such model, settings that fit no obfuscation, or no classifier to fit one with.
    """
    if row.model is not None:
        return registry.fetch(row.model, into)
    assert row.obfuscation is not None
    given = dict(row.obfuscation)
    kind = str(given.pop("kind", ""))
    if kind == "multi-scale-field":
        fit_to_table(config, given, into / "model")
    else:
        create_untrained(kind, into / "model", config.seed, given)
    return registry.fetch(str(into / "model"), into)


def summarized(records: Sequence[tuple[str, AuditRecord]]) -> list[dict[str, Any]]:
    """A row for each record: its label, each attacker's mean AUC, and utility; None where there is no figure."""
    return [{"label": label, **_figures(record)} for label, record in records]


def comparison_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows of a comparison, for people; without columns that hold nothing.

    Args:
        rows: as `summarized` gives them.
    """
    table = Table("model", title="Comparison", title_justify="left", title_style="bold")
    columns = {
        "strongest attacker": [row["strongest"] for row in rows],
        "its AUC": [_shown(row["strongest_auc"]) for row in rows],
        "95 %": [f"{row['strongest_low']:.3f} - {row['strongest_high']:.3f}" for row in rows],
        "max": [_shown(row["strongest_max"]) for row in rows],
        "utility": [_shown(row["utility"]) for row in rows],
        "loss": [_shown(row["utility_loss"]) for row in rows],
        "unseen loss": [_shown(row["unseen_loss"]) for row in rows],
        "learned from it": [_shown(row["retrained_on_anonymized"]) for row in rows],
        "SSIM": [_shown(row["ssim"]) for row in rows],
    }
    columns = {title: cells for title, cells in columns.items() if any(cell != _NOTHING for cell in cells)}
    for title in columns:
        table.add_column(title, justify="right", overflow="fold")
    for row, cells in zip(rows, zip(*columns.values(), strict=True), strict=True):
        table.add_row(row["label"], *cells)
    return table


def _shown(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.3f}"


def _figures(record: AuditRecord) -> dict[str, Any]:
    strongest = next(one for one in record.attackers if one.name == record.verdict.strongest)
    utility = record.utility
    return {
        "strongest": strongest.name,
        "strongest_auc": strongest.auc_mean,
        "strongest_low": strongest.auc_low,
        "strongest_high": strongest.auc_high,
        "strongest_max": strongest.auc_max,
        "attackers": {one.name: one.auc_mean for one in record.attackers},
        "utility": utility.mean_anonymized,
        "utility_loss": None if utility.mean_difference is None else 0.0 - utility.mean_difference,
        "unseen_loss": None if utility.unseen is None else 0.0 - utility.unseen.mean_difference,
        "retrained_on_anonymized": utility.retrained_on_anonymized,
        "ssim": utility.ssim,
        "displacement_max_px": utility.displacement_max_px,
        "folded_share": utility.folded_share,
        "passed": record.verdict.passed,
    }
