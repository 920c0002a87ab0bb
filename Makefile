# Everything runs in .venv, which the first target sets up by itself (Python >= 3.11).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-long lint bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: prichexy needs Python >= 3.11: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## the whole job on phantom radiographs, in ./demo
	$(BIN)/prichexy demo demo

test: $(READY)  ## all tests
	$(BIN)/python -m pytest

test-long: $(READY)  ## kills at every point of the job, failing stores, a lost node: about 20 minutes
	$(BIN)/python -m pytest -m long

lint: $(READY)  ## style, types, and which module may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## benchmarks: ratios, medians, the machine
	$(BIN)/python -m tests.bench

clean:  ## remove .venv and what the demo made
	rm -rf $(VENV) demo
