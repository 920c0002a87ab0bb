"""What one check found, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed"]

_WORST_LAST: tuple[State, ...] = ("ok", "warning", "failed")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result.

    Attributes:
        check: what was looked at, such as ``secret`` or ``destination``.
        state: ``failed`` where the job could not run or would do harm.
        found: one phrase without any identifier, key or credential.
        mend: what to do; '' when nothing is to be done.
    """

    check: str
    state: State
    found: str
    mend: str = ""


def ok(check: str, found: str) -> Finding:
    """Nothing is to be done."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, mend: str) -> Finding:
    """The job can run."""
    return Finding(check, "warning", found, mend)


def failed(check: str, found: str, mend: str) -> Finding:
    """The job could not run, or would do harm."""
    return Finding(check, "failed", found, mend)


def merged(of_nodes: dict[str, Finding]) -> Finding:
    """One line for one check on several nodes: the worst that was found, and on which of them.

    Args:
        of_nodes: the same check's finding by node; at least one.
    """
    worst = max(of_nodes.values(), key=lambda finding: _WORST_LAST.index(finding.state))
    alike = [node for node, finding in of_nodes.items() if finding.state == worst.state]
    if len(of_nodes) == 1:
        return worst
    where = f"on all {len(of_nodes)} nodes" if len(alike) == len(of_nodes) else f"on {', '.join(sorted(alike))}"
    return Finding(worst.check, worst.state, f"{worst.found} ({where})", worst.mend)
