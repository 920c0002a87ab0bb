"""Plots as SVG for a page: readable without colour, the same bytes for the same figures.

Each plot says in words (title and description) what it shows. Text stays text: it can be read aloud, searched and
copied.
"""

import io
import re
from html import escape
from typing import Any

from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, FAINT = "#1a1a1a", "#6b6b6b"

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "prichexy",  # element names follow from the drawing alone
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
}
"""For `matplotlib.rc_context`, around `canvas`, the drawing and `svg`."""


def canvas(width: float, height: float, panels: int = 1) -> tuple[Figure, Any]:
    """A figure and its axes, several beside each other where there are panels.

    Args:
        width: in inches.
        height: in inches.
        panels: how many; they share the vertical axis.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots(1, panels, sharey=panels > 1)


def svg(figure: Figure, name: str, title: str, description: str) -> Markup:
    """An svg element for a page that holds several: its ids begin with `name`, its size follows the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawing)
    size = re.search(r'viewBox="[^"]+"', drawing)
    if size is None:
        raise ValueError("matplotlib drew an SVG without a viewBox")
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {size.group()} '
        f'class="plot" role="img" aria-labelledby="{name}-title {name}-words">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-words">{escape(description)}</desc>'
    )
    return Markup(opening + drawing[drawing.index(">") + 1 :])
