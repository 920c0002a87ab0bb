"""The HTML pages: what the templates are given, and how they are written.

A page says itself that it may load nothing (Content-Security-Policy, W3C CSP Level 3): its style and script are inside
it, its pictures are data URIs, and the one script is named by its hash.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prichexy.audit.report import figures
from prichexy.audit.report.figures import Limits, OperatingPoint
from prichexy.audit.report.gallery import ENLARGED, GalleryImage, pictures
from prichexy.errors import UsageError
from prichexy.pages import templates_in
from prichexy.verdict import AttackerResult, AuditRecord, audit_id

_FOLDER = Path(__file__).parent
_ABSENT = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Measure:
    """A row of the table of limits.

    Attributes:
        what: the figure, in words.
        measured: as shown.
        limit: as shown.
        within: whether it is within the limit; None where it has no meaning and decides nothing.
    """

    what: str
    measured: str
    limit: str
    within: bool | None


def write_report(
    record: AuditRecord, gallery: Sequence[GalleryImage], out: Path, others: Sequence[OperatingPoint] = ()
) -> Path:
    """The file with the report of one audit: nothing in it but the record, the gallery and the points given.

    Args:
        record: what is shown.
        gallery: images that may be shown; none is fine.
        out: the HTML file; it is replaced, and its folder is made.
        others: other models, for the plot of privacy against utility.

    Raises:
        UsageError: the file can't be written.
    """
    strongest = next(result for result in record.attackers if result.name == record.verdict.strongest)
    utility, limits = record.utility, record.thresholds
    tradeoff = None
    if utility.counted is not None and utility.mean_original is not None:
        tradeoff = figures.privacy_utility(
            OperatingPoint("this model", strongest.auc_mean, utility.counted),
            others,
            Limits(limits.strongest_auc, utility.mean_original - limits.utility_loss),
            (strongest.auc_low, strongest.auc_high),
        )
    page = _page(
        "report.html.j2",
        record=record,
        id=audit_id(record),
        strongest=strongest,
        measures=_measures(record, strongest),
        roc=figures.roc(record.attackers),
        tradeoff=tradeoff,
        strength=figures.strength(record.strength, record.attackers),
        findings=figures.findings(utility, limits.utility_loss),
        gallery=[pictures(image) for image in gallery],
        enlarged=ENLARGED,
    )
    return _written(page, out)


def write_comparison(rows: Sequence[tuple[str, AuditRecord]], out: Path) -> Path:
    """The file that shows several audits side by side.

    Args:
        rows: a label and a record for each, in the order shown.
        out: the HTML file; it is replaced, and its folder is made.

    Raises:
        UsageError: there is nothing to compare, a label is there twice, or the file can't be written.
    """
    labels = [label for label, _ in rows]
    if not rows or len(set(labels)) != len(labels):
        raise UsageError("a comparison needs at least one audit, and a label of its own for each")
    records = [record for _, record in rows]
    results = [{result.name: result for result in record.attackers} for record in records]
    limits = _common_limits(records)
    page = _page(
        "comparison.html.j2",
        rows=[
            (label, record, by_name[record.verdict.strongest])
            for (label, record), by_name in zip(rows, results, strict=True)
        ],
        descriptions={name: result.description for by_name in results for name, result in by_name.items()},
        results=dict(zip(labels, results, strict=True)),
        limits=limits,
        tradeoff=_tradeoff(rows),
        without_utility=[label for label, record in rows if record.utility.mean_anonymized is None],
        unlike=_unlike(records),
    )
    return _written(page, out)


def tradeoff_svg(rows: Sequence[tuple[str, AuditRecord]]) -> str | None:
    """The plot of privacy against utility as an SVG file of its own; None where no row has a utility.

    Args:
        rows: a label and a record for each.
    """
    drawn = _tradeoff(rows)
    return None if drawn is None else f"{drawn}\n"


def _tradeoff(rows: Sequence[tuple[str, AuditRecord]]) -> Markup | None:
    points = []
    for label, record in rows:
        strongest = max(record.attackers, key=lambda result: result.auc_mean)
        if record.utility.counted is not None:
            reach = None if strongest.seeds == 1 else strongest.auc_max
            points.append(OperatingPoint(label, strongest.auc_mean, record.utility.counted, reach))
    return figures.privacy_utility(None, points, _common_limits([record for _, record in rows])) if points else None


def _measures(record: AuditRecord, strongest: AttackerResult) -> list[Measure]:
    utility, limits = record.utility, record.thresholds
    loss = utility.loss
    return [
        Measure(
            f"AUC of the strongest attacker ({strongest.name}), mean over its runs",
            _figure(strongest.auc_mean),
            f"at most {_figure(limits.strongest_auc)}",
            strongest.auc_mean <= limits.strongest_auc,
        ),
        Measure(
            "upper end of that AUC's 95 % interval",
            _figure(strongest.auc_high),
            f"at most {_figure(limits.strongest_upper)}",
            strongest.auc_high <= limits.strongest_upper,
        ),
        Measure(
            "loss of utility: by how much the classifier's mean AUC falls",
            "not measurable" if loss is None else _figure(loss),
            f"at most {_figure(limits.utility_loss)}",
            loss is not None and loss <= limits.utility_loss,
        ),
        Measure(
            "share of pixels at which the image folds onto itself",
            "no field" if utility.folded_share is None else f"{utility.folded_share:.3%}",
            f"at most {limits.folded_share:.3%}",
            None if utility.folded_share is None else utility.folded_share <= limits.folded_share,
        ),
    ]


def _common_limits(records: Sequence[AuditRecord]) -> Limits | None:
    """Limits that hold for every record; None where they were judged by different ones."""
    thresholds = records[0].thresholds
    if any(record.thresholds != thresholds for record in records):
        return None
    originals = {record.utility.mean_original for record in records} - {None}
    floor = next(iter(originals)) if len(originals) == 1 else None
    return Limits(thresholds.strongest_auc, None if floor is None else floor - thresholds.utility_loss)


def _unlike(records: Sequence[AuditRecord]) -> list[str]:
    """In what the audits differ that makes their figures hard to compare."""
    conditions: dict[str, set[object]] = {
        "the images they used": {record.data.fingerprint for record in records},
        "the resolution": {record.resolution for record in records},
        "the number of runs of each attacker": {record.seeds for record in records},
        "the attackers that were run": {frozenset(result.name for result in record.attackers) for record in records},
        "the limits": {record.thresholds.model_dump_json() for record in records},
        "the version of prichexy": {record.code for record in records},
    }
    return [name for name, values in conditions.items() if len(values) > 1]


def _page(template: str, **context: Any) -> str:
    pages = templates_in(_FOLDER)
    pages.filters |= {"figure": _figure, "signed": _signed, "words": _words}
    script = (_FOLDER / "slider.js").read_text(encoding="utf-8")
    return pages.get_template(template).render(
        **context,
        absent=_ABSENT,
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(sha256(script.encode()).digest()).decode("ascii"),
    )


def _figure(value: float | None, digits: int = 3) -> str:
    return _ABSENT if value is None else f"{value:.{digits}f}".replace("-", _MINUS)


def _signed(value: float | None, digits: int = 3) -> str:
    return _ABSENT if value is None else f"{value:+.{digits}f}".replace("-", _MINUS)


def _words(name: str) -> str:
    """A field's name as words: ``inversion_psnr_db`` as ``inversion psnr db``."""
    known = {"psnr": "PSNR", "db": "[dB]", "px": "[px]", "auc": "AUC"}
    return " ".join(known.get(part, part) for part in name.replace("-", "_").split("_"))


def _written(page: str, out: Path) -> Path:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError:
        raise UsageError("the report can't be written: check that its folder is writable and has space") from None
    return out
