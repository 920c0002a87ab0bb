"""The phantom cohort: procedurally drawn frontal chest radiographs of patients with stable anatomies.

The embedded default of demo and tests: nothing is downloaded, nobody is depicted, and every pixel follows from a seed.
"""

from prichexy.cohort.phantom.cohort import BIT_DEPTHS, PhantomCohort, PhantomStudy, collimated, pixel_spacing, render
from prichexy.cohort.phantom.dicom import DEFAULT_TRANSFER_SYNTAXES, Variant, dicom_file, save, variant
from prichexy.cohort.phantom.files import LABEL_COLUMNS, file_name, write_dicom, write_mixed, write_png

__all__ = [
    "BIT_DEPTHS",
    "DEFAULT_TRANSFER_SYNTAXES",
    "LABEL_COLUMNS",
    "PhantomCohort",
    "PhantomStudy",
    "Variant",
    "collimated",
    "dicom_file",
    "file_name",
    "pixel_spacing",
    "render",
    "save",
    "variant",
    "write_dicom",
    "write_mixed",
    "write_png",
]
