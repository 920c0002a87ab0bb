#!/bin/sh
# A virtual environment with prichexy, at the versions of constraints.txt; from wheels only, so no compiler is needed.
# Run in the root of the repository:  install.sh DIRECTORY [REQUIREMENTS_FILE]
set -eu

directory=$1
requirements=${2:-}

python3 -m venv "$directory"
"$directory/bin/pip" install --quiet --no-cache-dir --disable-pip-version-check \
    --only-binary :all: --constraint constraints.txt ${requirements:+--requirement "$requirements"} .
"$directory/bin/pip" check --disable-pip-version-check
# What a node must be able to do at all; a broken wheel is found here, not by a job.
"$directory/bin/python" -c '
import cv2, mlflow, numpy, ray, torch
from prichexy.deid.burned_in import clean
from prichexy.obfuscation.winograd.kernels import kernels
clean(numpy.zeros((64, 64), "uint8"), 8, "redact")
kernels()'
"$directory/bin/prichexy" --help >/dev/null
