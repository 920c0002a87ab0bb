"""Several models audited alike: one table, one privacy-utility plot."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prichexy.audit.job import Audited, audit_model
from prichexy.audit.report import write_comparison
from prichexy.cluster import connected
from prichexy.config.audit import CompareConfig, ComparedModel
from prichexy.lake.storage import Store
from prichexy.obfuscation import create_untrained, to_bytes
from prichexy.registry import Registry
from prichexy.verdict import AuditRecord

REPORT, TABLE = "comparison.html", "comparison.json"


def compare(config: CompareConfig) -> tuple[list[dict[str, Any]], str]:
    """Audit each row of a comparison, and write its table and plot; runs of attackers that were kept are not run again.

    Verdicts of a comparison are stored with no model: `prichexy audit` does that.

    Returns:
        The table (see `summarized`), and the place of the page.

    Raises:
        UsageError: a model, the table or a setting can't be used.
        StorageFault: the store failed; what was kept stays, and the same command goes on.
    """
    out = Store(config.out, config.storage)
    records: list[tuple[str, AuditRecord]] = []
    with connected(config.ray):
        for row in config.rows:
            records.append((row.label, _audited(row, config).record))
    rows = summarized(records)
    out.write(TABLE, (json.dumps(rows, indent=2) + "\n").encode())
    with tempfile.TemporaryDirectory(prefix="prichexy-comparison-") as folder:
        out.write(REPORT, write_comparison(records, Path(folder) / REPORT).read_bytes())
    return rows, f"{out.uri.rstrip('/')}/{REPORT}"


def _audited(row: ComparedModel, config: CompareConfig) -> Audited:
    own = config if row.training_run is None else config.model_copy(update={"training_run": row.training_run})
    registry = Registry(config.tracking_uri)
    with tempfile.TemporaryDirectory(prefix="prichexy-model-") as folder:
        place = Path(folder)
        if row.model is not None:
            model = registry.fetch(row.model, place)
        else:
            assert row.obfuscation is not None
            given = dict(row.obfuscation)
            create_untrained(str(given.pop("kind", "")), place / "model", config.seed, given)
            model = registry.fetch(str(place / "model"), place)
        return audit_model(own, model, to_bytes(model.folder), registry=None)


def summarized(records: Sequence[tuple[str, AuditRecord]]) -> list[dict[str, Any]]:
    """A row for each record: its label, each attacker's mean AUC, and utility; None where there is no figure."""
    return [{"label": label, **_figures(record)} for label, record in records]


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
        "utility_loss": None if utility.mean_difference is None else -utility.mean_difference,
        "retrained_on_anonymized": utility.retrained_on_anonymized,
        "ssim": utility.ssim,
        "displacement_max_px": utility.displacement_max_px,
        "folded_share": utility.folded_share,
        "passed": record.verdict.passed,
    }
