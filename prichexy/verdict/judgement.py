"""From the figures of an audit to its verdict."""

from collections.abc import Collection, Iterator, Sequence

from prichexy.config.audit import Thresholds
from prichexy.errors import UsageError
from prichexy.verdict.record import AttackerResult, Utility, Verdict


def judge(
    attackers: Sequence[AttackerResult], utility: Utility, thresholds: Thresholds, expected: Collection[str] = ()
) -> Verdict:
    """The verdict: passed if the strongest attacker, the utility and the field are all within their limits.

    Args:
        attackers: all that were run; the strongest is the one with the highest mean AUC.
        utility: what is left for research; without a single measurable finding the verdict is no.
        thresholds: the limits.
        expected: names of the attackers that a deciding audit runs; one that is missing makes the verdict no, since
            leaving out the strongest would otherwise be the way to pass.

    Raises:
        UsageError: there are no attackers.
    """
    if not attackers:
        raise UsageError("an audit without attackers decides nothing: run at least one")
    strongest = max(attackers, key=lambda attacker: attacker.auc_mean)
    left_out = sorted(set(expected) - {attacker.name for attacker in attackers})
    findings = [*_attack(strongest, thresholds), *_utility(utility, thresholds), *_field(utility, thresholds)]
    reasons = [sentence for within, sentence in findings if not within]
    if left_out:
        reasons.append(f"the audit left out {', '.join(left_out)}: only an audit with every attacker can pass")
    passed = not reasons
    kept = [sentence for within, sentence in findings if within]
    if kept:
        reasons.append(f"within the limits: {'; '.join(kept)}")
    return Verdict(passed=passed, reasons=tuple(_sentence(reason) for reason in reasons), strongest=strongest.name)


def _attack(strongest: AttackerResult, limits: Thresholds) -> Iterator[tuple[bool, str]]:
    yield _compared(
        strongest.auc_mean, limits.strongest_auc, f"the strongest attacker, {strongest.name}, reaches a mean AUC of"
    )
    yield _compared(
        strongest.auc_high, limits.strongest_upper, f"the 95 % interval of {strongest.name} reaches up to an AUC of"
    )


def _utility(utility: Utility, limits: Thresholds) -> Iterator[tuple[bool, str]]:
    if utility.mean_difference is None:
        yield False, "utility was not measured: no classifier was asked, or no finding is in just some of the images"
        return
    loss = -utility.mean_difference
    yield _compared(loss, limits.utility_loss, "on anonymized images the classifier's mean AUC loses")
    if utility.unseen is not None:
        loss = -utility.unseen.mean_difference
        yield _compared(
            loss, limits.utility_loss, "the mean AUC of a classifier that the model did not learn from loses"
        )


def _field(utility: Utility, limits: Thresholds) -> Iterator[tuple[bool, str]]:
    if utility.folded_share is not None:
        share, limit = utility.folded_share, limits.folded_share
        within = share <= limit
        relation = "at most" if within else "more than"
        yield within, f"the field folds at {share:.3%} of the pixels, {relation} the limit of {limit:.3%}"


def _compared(value: float, limit: float, what: str) -> tuple[bool, str]:
    within = value <= limit
    return within, f"{what} {value:.4f}, {'at most' if within else 'above'} the limit of {limit:.4f}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."
