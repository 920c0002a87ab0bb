"""The figures that decided an audit, beside their limits."""

from typing import NamedTuple

from prichexy.verdict import AttackerResult, AuditRecord


class Limit(NamedTuple):
    """A line of the table.

    Attributes:
        what: the figure, in words.
        measured: as shown.
        limit: as shown.
        within: ``yes``, ``no``, or ``-`` where the figure has no meaning and decides nothing.
    """

    what: str
    measured: str
    limit: str
    within: str


def strongest(record: AuditRecord) -> AttackerResult:
    """The attacker whose figures decided."""
    return next(one for one in record.attackers if one.name == record.verdict.strongest)


def limits(record: AuditRecord) -> list[Limit]:
    """What decided an audit: attack, utility, field."""
    best, utility, given = strongest(record), record.utility, record.thresholds
    loss, folded = utility.loss, utility.folded_share
    return [
        _limit(f"AUC of the strongest attacker, {best.name}", best.auc_mean, given.strongest_auc),
        _limit("upper end of its 95 % interval", best.auc_high, given.strongest_upper),
        Limit("loss of the classifier's mean AUC", "not measured", f"{given.utility_loss:.3f}", "no")
        if loss is None
        else _limit("loss of the classifier's mean AUC", loss, given.utility_loss),
        Limit("share of pixels at which the field folds", "no field", f"{given.folded_share:.3f}", "-")
        if folded is None
        else _limit("share of pixels at which the field folds", folded, given.folded_share),
    ]


def _limit(what: str, measured: float, limit: float) -> Limit:
    return Limit(what, f"{measured:.3f}", f"{limit:.3f}", "yes" if measured <= limit else "no")
