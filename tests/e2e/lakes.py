"""Lakes as hospitals have them: many formats, other people's files, broken ones."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.data import get_testdata_files

from prichexy.cohort.phantom import PhantomCohort, dicom_file, render, save, variant

SYNTAXES_COUNTED = 8
