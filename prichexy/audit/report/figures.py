"""Plots of the report, as SVG for a page: readable without colour, the same bytes for the same figures.

Each line and point differs from its neighbours by marker and dash as well as by colour; `prichexy.pages` draws.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prichexy.pages import FAINT, INK, STYLE, canvas, svg
from prichexy.verdict import AttackerResult, StrengthPoint, Utility

WIDTH = 4.3
"""Inches. Small, so that 8.5 points stay legible when a telephone shrinks the plot to its width."""

_STYLE = STYLE | {
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.5,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}

# Dark tones of the palette of Okabe and Ito, which people with any kind of colour blindness tell apart.
_COLOURS = ("#005b8e", "#a34700", "#00694c", "#8a2f66", "#1a1a1a")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">", "h", "*", "d")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))


class OperatingPoint(NamedTuple):
    """A model in the plot of privacy against utility.

    Attributes:
        label: shown beside its marker.
        strongest_auc: AUC of its strongest attacker.
        utility: the classifier's mean AUC on originals less the loss that decides (`Utility.counted`).
        most: AUC of that attacker's best run; None where it has a single one.
    """

    label: str
    strongest_auc: float
    utility: float
    most: float | None = None


@dataclass(frozen=True)
class Limits:
    """The corner of the privacy-utility plot that the thresholds allow.

    Attributes:
        strongest_auc: highest AUC of the strongest attacker.
        utility: lowest mean AUC of the classifier; None where models were held against unlike originals.
    """

    strongest_auc: float
    utility: float | None


def roc(attackers: Sequence[AttackerResult]) -> Markup | None:
    """The attackers' ROC curves; the strongest is the thick one. None without any curve."""
    drawn = [attacker for attacker in attackers if attacker.roc]
    if not drawn:
        return None
    looks = _looks([attacker.name for attacker in attackers])
    strength = sorted(drawn, key=lambda attacker: -attacker.auc_mean)
    with rc_context(_STYLE):
        figure, axes = canvas(WIDTH, WIDTH * 0.94 + 0.19 * ((len(drawn) + 1) // 2))
        axes.plot((0, 1), (0, 1), color=FAINT, linewidth=1, linestyle=(0, (2, 3)))
        axes.annotate("guessing", (0.62, 0.60), rotation=45, rotation_mode="anchor", color=FAINT, ha="center", va="top")
        for rank, attacker in enumerate(strength):
            rates = list(zip(*attacker.roc, strict=True))
            every = max(1, len(attacker.roc) // 4)
            axes.plot(
                *rates,
                **looks[attacker.name],
                linewidth=2.4 if rank == 0 else 1.1,
                markevery=(rank * every // len(strength), every),  # markers of near curves do not cover each other
                label=_label(attacker.name),
                zorder=4 if rank == 0 else 3,
                clip_on=False,
            )
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set_xlabel("share of different patients taken for one")
        axes.set_ylabel("share of same-patient pairs found")
        _legend(figure, columns=2)
        best = strength[0]
        words = f"{len(drawn)} curves. The strongest attacker, {best.name}, has an AUC of {best.auc_mean:.3f}."
        return svg(figure, "roc", "ROC curves of the attackers", words)


def privacy_utility(
    model: OperatingPoint | None,
    others: Sequence[OperatingPoint],
    limits: Limits | None,
    interval: tuple[float, float] | None = None,
) -> Markup:
    """Utility against the strongest attacker's AUC; better is up and to the left.

    Args:
        model: the one under audit, drawn large; None in a comparison of equals.
        others: drawn beside it, each with a line to its attacker's best run.
        limits: what the thresholds allow, hatched.
        interval: 95 % interval of the model's strongest attacker.
    """
    points = [*([model] if model else []), *others]
    with rc_context(_STYLE):
        labels = [_label(point.label) for point in points]
        columns = 2 if max(map(len, labels)) <= 24 else 1
        lines = sum(1 + label.count("\n") for label in labels)
        figure, axes = canvas(WIDTH, 3.1 + 0.19 * -(-lines // columns))
        looks = _looks([str(number) for number in range(len(others))])
        if model:
            if interval:
                axes.plot(interval, (model.utility, model.utility), color=INK, marker="|", markersize=8, linewidth=1.4)
            look = {"color": INK, "marker": "*", "markersize": 13, "linestyle": "none"}
            axes.plot(model.strongest_auc, model.utility, **look, label=_label(model.label), zorder=5)
        for number, point in enumerate(others):
            if point.most is not None:
                reached = (point.strongest_auc, point.most)
                axes.plot(reached, (point.utility,) * 2, color=looks[str(number)]["color"], linewidth=1.2, zorder=3)
            look = {**looks[str(number)], "linestyle": "none", "markersize": 7}
            axes.plot(point.strongest_auc, point.utility, **look, label=_label(point.label), zorder=4)
        seen = [point.utility for point in points] + ([limits.utility] if limits and limits.utility is not None else [])
        room = max(0.02, 0.18 * (max(seen) - min(seen)))
        reach = [point.strongest_auc for point in points] + list(interval or ())
        axes.set(xlim=(min(0.45, *reach) - 0.01, 1.01), ylim=(min(seen) - room, max(seen) + room))
        axes.set_xlabel("AUC of the strongest attacker (further left: more private)")
        axes.set_ylabel("mean AUC of the findings, larger loss counted\n(further up: more useful)")
        if limits:
            _allowed(axes, limits)
        _legend(figure, columns)
        words = " ".join(
            f"{point.label}: attacker {point.strongest_auc:.3f}, utility {point.utility:.3f}." for point in points
        )
        return svg(figure, "tradeoff", "Privacy against utility", words)


def strength(points: Sequence[StrengthPoint], attackers: Sequence[AttackerResult]) -> Markup | None:
    """AUC against the number of pairs that an attacker learned from; None without any."""
    if not points:
        return None
    names = list(dict.fromkeys(point.attacker for point in points))
    looks = _looks(list(dict.fromkeys([*(attacker.name for attacker in attackers), *names])))
    with rc_context(_STYLE):
        figure, axes = canvas(WIDTH, 2.9 + 0.19 * ((len(names) + 1) // 2))
        for name in names:
            curve = sorted((p for p in points if p.attacker == name), key=lambda point: point.training_pairs)
            axes.errorbar(
                [point.training_pairs for point in curve],
                [point.auc_mean for point in curve],
                yerr=[point.auc_sd for point in curve],
                **looks[name],
                capsize=3,
                linewidth=1.4,
                label=_label(name),
            )
        axes.axhline(0.5, color=FAINT, linewidth=1, linestyle=(0, (2, 3)))
        counts = sorted({point.training_pairs for point in points})
        if counts[0] > 0:
            axes.set_xscale("log")
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.minorticks_off()
        axes.annotate(
            "guessing", (1, 0.5), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
            color=FAINT, ha="right",
        )  # fmt: skip
        top = max(point.auc_mean + point.auc_sd for point in points)
        bottom = min(point.auc_mean - point.auc_sd for point in points)
        axes.set(ylim=(min(0.47, bottom - 0.02), min(1.01, max(0.7, top + 0.03))))
        axes.set_xlabel("pairs of images that the attacker learned from")
        axes.set_ylabel("AUC, mean and sd over runs")
        _legend(figure, columns=2)
        last = [max((p for p in points if p.attacker == name), key=lambda p: p.training_pairs) for name in names]
        words = " ".join(f"{p.attacker}: AUC {p.auc_mean:.3f} after {p.training_pairs:,} pairs." for p in last)
        return svg(figure, "strength", "Attackers' AUC against what they learned from", words)


def findings(utility: Utility, limit: float) -> Markup | None:
    """Each finding's AUC before and after, and the difference with its interval; None without findings.

    Args:
        utility: what was measured.
        limit: most that the mean may fall.
    """
    if not utility.findings:
        return None
    names = [finding.finding.replace("_", " ") for finding in utility.findings]
    rows = list(range(len(names)))
    with rc_context(_STYLE):
        figure, (before, change) = canvas(WIDTH, 1.15 + 0.235 * (len(rows) + 1), panels=2)
        for row, finding in zip(rows, utility.findings, strict=True):
            _before_after(before, row, finding.auc_original, finding.auc_anonymized)
            _interval(change, row, finding.difference, finding.low, finding.high, "s")
        mean = len(rows)
        if utility.mean_original is not None and utility.mean_anonymized is not None:
            _before_after(before, mean, utility.mean_original, utility.mean_anonymized)
        if utility.mean_difference is not None:
            _interval(change, mean, utility.mean_difference, utility.low, utility.high, "D")
        for axes in (before, change):
            axes.axhline(mean - 0.5, color=FAINT, linewidth=0.8)
            axes.set_ylim(mean + 0.6, -0.6)
            axes.xaxis.set_major_locator(MaxNLocator(3))
        before.set_yticks([*rows, mean], [*names, "mean"])
        before.set_xlabel("AUC")
        before.plot([], [], "o", color=INK, markerfacecolor="white", label="original")
        before.plot([], [], "s", color=INK, label="anonymized")
        change.axvline(0, color=INK, linewidth=1)
        change.plot(
            (-limit, -limit), (mean - 0.5, mean + 0.6), color=INK, linestyle=(0, (2, 1.5)), linewidth=1.6,
            label="limit of the mean",
        )  # fmt: skip
        change.set_xlabel("change, 95 % interval")
        change.tick_params(axis="y", left=False)
        figure.legend(loc="outside lower center", ncols=3, handletextpad=0.4, columnspacing=1.2)
        words = " ".join(
            f"{name}: {finding.auc_original:.3f}, then {finding.auc_anonymized:.3f}."
            for name, finding in zip(names, utility.findings, strict=True)
        )
        return svg(figure, "findings", "What a classifier still finds, for each finding", words)


def _legend(figure: Figure, columns: int) -> None:
    figure.legend(
        loc="outside lower left", ncols=columns, handlelength=2.4, handletextpad=0.5, columnspacing=1, labelspacing=0.3
    )


def _label(name: str) -> str:
    """A name that fits a legend; matplotlib leaves out what begins with an underscore."""
    lines = textwrap.wrap(name, 44) or ["unnamed"]
    return ("\u200b" if name.startswith("_") else "") + "\n".join(lines)


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A marker, a dash and a colour for each name, the same in every plot that is given the same names."""
    # 5 colours and 13 markers have no common divisor: no two of the first 65 names share both.
    return {
        name: {
            "color": _COLOURS[number % len(_COLOURS)],
            "marker": _MARKERS[number % len(_MARKERS)],
            "linestyle": _DASHES[number % len(_DASHES)],
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
        }
        for number, name in enumerate(names)
    }


def _allowed(axes: Any, limits: Limits) -> None:
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    floor = bottom if limits.utility is None else limits.utility
    axes.fill_between(
        (left, limits.strongest_auc), floor, top, facecolor="#eef3ee", edgecolor="#8fa88f", hatch="///", linewidth=1
    )
    axes.annotate(
        "allowed", (left, top), (4, -4), textcoords="offset points", ha="left", va="top", color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
    axes.set(xlim=(left, right), ylim=(bottom, top))


def _before_after(axes: Any, row: int, original: float, anonymized: float) -> None:
    axes.plot((original, anonymized), (row, row), color=FAINT, linewidth=1.2, zorder=2)
    axes.plot(original, row, "o", color=INK, markerfacecolor="white", zorder=3)
    axes.plot(anonymized, row, "s", color=INK, markersize=4.5, zorder=4)


def _interval(axes: Any, row: int, value: float, low: float | None, high: float | None, marker: str) -> None:
    if low is not None and high is not None:
        axes.plot((low, high), (row, row), color=INK, linewidth=1.4, marker="|", markersize=6)
    axes.plot(value, row, marker, color=INK, markersize=4.5)
