# From a fresh checkout: `make demo` and `make test`. Everything is installed into $(VENV), nothing outside it.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Tests run on all cores, one thread each; a test that needs a workspace waits for the process that makes it.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.PHONY: help setup demo test test-all test-fast test-hf test-ray test-remote check bench clean

help:  ## list the targets (default)
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

setup: $(INSTALLED)  ## create the virtual environment, or bring it up to date with pyproject.toml

# Not compiled: Python compiles what is imported, which is little of what is installed.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "'$(PYTHON)' is not Python 3.11 or later; name one that is: make PYTHON=/path/to/python3 setup" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(INSTALLED)  ## from raw text to a table and its evaluation, in ten minutes: plain against Scone on this Python's own sources
	$(BIN)/python pipelines/demo-corpus.py demo/corpus
	@$(MAKE) --no-print-directory -f pipelines/rebuild.mk SCONE=$(BIN)/scone CORPUS=demo/corpus WORKSPACE=demo/scone-work RECIPE=pipelines/demo.toml

test: $(INSTALLED)  ## run the tests
	$(PYTEST) -m 'not long'

test-all: $(INSTALLED)  ## run the long tests too, before a release
	$(PYTEST)

test-fast: $(INSTALLED)  ## run the tests that are not marked slow: in a minute
	$(PYTEST) -m 'not slow and not long'

test-hf: $(INSTALLED)  ## run the tests that need transformers (make EXTRAS=dev,hf setup)
	$(PYTEST) -m hf

test-ray: $(INSTALLED)  ## run the tests that need Ray (make EXTRAS=dev,ray setup)
	$(PYTEST) -m ray

test-remote: $(INSTALLED)  ## run the tests of corpora in stores (make EXTRAS=dev,remote setup)
	$(PYTEST) -m remote

check: $(INSTALLED)  ## style, format and types: what must be clean before a commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# All but the one that trains for many hours, and is given a corpus.
bench: $(INSTALLED)  ## run the benchmarks; each ends in one line of JSON
	@for file in $(filter-out %/bench_quality.py,$(sort $(wildcard benchmarks/bench_*.py))); do echo "$(BIN)/python $$file"; $(BIN)/python $$file || exit; done

clean:  ## remove what the other targets made, except the virtual environment
	rm -rf demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find scone_cli tests pipelines benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
