"""The audit for people: one HTML file that opens without any network, for one model or for several side by side."""

from prichexy.audit.report.figures import OperatingPoint
from prichexy.audit.report.gallery import GalleryImage
from prichexy.audit.report.page import tradeoff_svg, write_comparison, write_report

__all__ = ["GalleryImage", "OperatingPoint", "tradeoff_svg", "write_comparison", "write_report"]
