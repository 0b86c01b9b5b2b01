# Every target works on a machine with only Python 3.11 or 3.12 and make: the first one that is run fills .venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test chromium check bench screenshots clean

RUN := .venv/bin/python
INSTALLED := .venv/.installed
# One thread a worker: torch's own threads on top of one test process a core only get in each other's way.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
ARGS ?=
RUNS ?= runs/demo

help:   ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)   ## install Python packages into .venv (6 GB, a few minutes); nothing if that is done

demo: $(INSTALLED)   ## train calf, bce and focal on unet and fpn on the phantom and print the table
	$(RUN) train.py -m +experiments/demo=run
	.venv/bin/calf report runs/demo

test: $(INSTALLED)   ## run the tests, a process a core; e.g. make test ARGS="tests/losses -k focal"
	@$(RUN) -m tests.ui.chromium || true
	$(ONE_THREAD) $(RUN) -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

chromium: $(INSTALLED)   ## install Chromium for the tests of the explorer's pages; nothing if there is one
	@$(RUN) -m tests.ui.chromium

check: $(INSTALLED)   ## formatting, lint, types and who may import whom
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: $(INSTALLED)   ## run every benchmark and write its numbers to benchmarks/results/
	@mkdir -p benchmarks/results
	@for script in benchmarks/*.py; do \
	  echo "== $$script"; $(RUN) "$$script" --json "benchmarks/results/$$(basename "$$script" .py).json"; \
	done

screenshots: chromium   ## a picture of each view of the explorer, into docs/screenshots/; e.g. RUNS=runs/demo, of make demo
	$(RUN) -m docs.screenshots $(RUNS)

clean:   ## remove .venv, build files and tool caches; never runs/, stores/ or data
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find calf hydra_plugins tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv that was left half-filled is completed, one whose Python is gone is made anew.
$(INSTALLED): pyproject.toml constraints.txt
	@if ! $(RUN) -m pip --version > /dev/null 2>&1; then \
	  for python in python3.11 python3.12 python3 python; do \
	    "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2> /dev/null || continue; \
	    fits=$$python; \
	    "$$python" -c 'import ensurepip, venv' 2> /dev/null || continue; \
	    "$$python" -m venv --clear .venv; \
	    break; \
	  done; \
	  if [ -z "$${fits:-}" ]; then \
	    echo "make: calf needs Python 3.11 or 3.12, found $$(python3 --version 2> /dev/null || echo none). Install one, or use environment.yml." >&2; \
	    exit 1; \
	  elif ! [ -x $(RUN) ]; then \
	    echo "make: $$fits lacks its venv module. On Debian and Ubuntu: apt-get install $$fits-venv" >&2; \
	    exit 1; \
	  fi; \
	fi
	@echo "make: installing into .venv: about 6 GB with torch and CUDA (which runs on CPUs, too), a few minutes, only this once"
	@$(RUN) -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
