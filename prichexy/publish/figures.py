"""Plots of the page, as SVG: readable without colour, the same bytes for the same figures.

Bars carry their numbers, and a withheld count says so in words; `prichexy.pages` draws.
"""

from markupsafe import Markup
from matplotlib import rc_context

from prichexy.pages import FAINT, INK, STYLE, canvas, svg
from prichexy.publish.limits import strongest
from prichexy.publish.suppression import Table
from prichexy.verdict import AuditRecord

WIDTH = 4.6
"""Inches, so that 8.5 points stay legible on a narrow screen."""

BAR = "#4a6b86"


def bars(table: Table) -> Markup | None:
    """Images of each cell that may be shown, as a bar with its number; None where there is nothing to draw."""
    if not table.lines:
        return None
    labels = [label for label, _, _ in table.lines]
    images = [count for _, count, _ in table.lines]
    with rc_context(STYLE):
        figure, axes = canvas(WIDTH, 0.5 + 0.24 * len(labels))
        rows = range(len(labels))
        axes.barh(rows, images, color=BAR, edgecolor=INK, linewidth=0.6, height=0.68)
        for row, count in zip(rows, images, strict=True):
            axes.annotate(f"{count:,}", (count, row), (4, 0), textcoords="offset points", va="center")
        axes.set_yticks(rows, labels)
        axes.set(ylim=(len(labels) - 0.4, -0.6), xlim=(0, max(images) * 1.18), xlabel="images")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=4, integer=True)
        words = " ".join(f"{label}: {count:,}." for label, count in zip(labels, images, strict=True))
        return svg(figure, table.name, table.title, words)


def attackers(record: AuditRecord, name: str) -> Markup:
    """Each attacker's mean AUC with its interval; the strongest is drawn full, the limit as a dashed line."""
    best = strongest(record)
    limit = record.thresholds.strongest_auc
    with rc_context(STYLE):
        figure, axes = canvas(WIDTH, 0.9 + 0.24 * len(record.attackers))
        for row, one in enumerate(record.attackers):
            axes.plot((one.auc_low, one.auc_high), (row, row), color=INK, linewidth=1.2, marker="|", markersize=6)
            full = one.name == best.name
            axes.plot(
                one.auc_mean,
                row,
                "D" if full else "o",
                color=INK,
                markerfacecolor=INK if full else "white",
                markersize=6,
            )
        axes.axvline(0.5, color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
        axes.axvline(limit, color=INK, linewidth=1.2, linestyle=(0, (5, 2)))
        for at, words in ((0.5, "guessing"), (limit, "limit")):
            axes.annotate(words, (at, -0.75), ha="right" if at == 0.5 else "left", va="bottom", color=FAINT)
        labels = [f"{one.name}{' (strongest)' if one.name == best.name else ''}" for one in record.attackers]
        axes.set_yticks(range(len(labels)), labels)
        low = min(0.45, *(one.auc_low for one in record.attackers))
        axes.set(ylim=(len(labels) - 0.4, -0.8), xlim=(low - 0.01, 1.01), xlabel="AUC, 95 % interval")
        axes.tick_params(axis="y", length=0)
        said = " ".join(f"{one.name}: {one.auc_mean:.3f}." for one in record.attackers)
        return svg(figure, name, "What each attacker reached", f"The limit of the strongest is {limit:.3f}. {said}")
