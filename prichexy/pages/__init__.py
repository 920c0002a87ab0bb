"""What the audit's report and the data set's page share: plots as SVG, templates."""

from prichexy.pages.drawing import FAINT, INK, STYLE, canvas, svg
from prichexy.pages.templates import templates_in

__all__ = ["FAINT", "INK", "STYLE", "canvas", "svg", "templates_in"]
