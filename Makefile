# make run      the demo on embedded defaults: nothing to install beside Python 3.11       make run ARGS="--orders 500 --seconds 60"
# make test     all tests; real Kafka, Chromium and promtool are used where they are there
# make check    formatter, linter, strict types, import contracts
# make drill    the long fault tests                make bench    the figures of docs/performance.md
# make setup    only the environment (.venv)        make clean    what tests, builds and demos left behind; with it .venv

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := run
.PHONY: run test check drill bench clean setup

PYTHON ?= $(firstword $(shell command -v python3.11 python3 2>/dev/null))
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet --no-input
ARGS ?=
ALONE := tests/actors tests/bench tests/e2e tests/e2e_input tests/kafka

run: $(READY)
	@$(BIN)/python run.py demo $(ARGS)

# those that start processes of their own run alone, the others two at a time; ARGS may choose none of either
test: $(READY)
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile $(ALONE:%=--ignore=%) $(ARGS) || test "$$?,$(if $(ARGS),chosen)" = 5,chosen
	@$(BIN)/python -m pytest -q $(ALONE) $(ARGS) || test "$$?,$(if $(ARGS),chosen)" = 5,chosen

check: $(READY)
	@echo "format" && $(BIN)/ruff format --quiet --check .
	@echo "lint" && $(BIN)/ruff check --quiet .
	@echo "types" && $(BIN)/mypy --no-error-summary
	@echo "rooms" && $(BIN)/lint-imports --no-logo

drill: $(READY)
	@$(BIN)/python -m pytest -q -m drill --timeout 3600 $(ARGS)

bench: $(READY)
	@for bench in "throughput.py --workers 2" "pipeline.py --runs 3" latency.py gateway.py senders.py; do \
	    echo "== $$bench"; $(BIN)/python bench/$$bench; done

setup: $(READY)

# torch first and by itself, so that nothing pulls another build of it; the hashes are those of x86-64 Linux wheels.
$(READY): requirements.lock requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info[:2] == (3, 11) or sys.exit("orderflow needs Python 3.11, found " + sys.version.split()[0] + "; say which: make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || { echo "setting up .venv, once: a few minutes"; $(PYTHON) -m venv .venv; }
	@echo "  1/3 torch" && $(PIP) install 'torch==2.13.0'
	@echo "  2/3 libraries" && if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
	    $(PIP) install --require-hashes -r requirements.lock -r requirements-dev.lock; \
	  else \
	    sed 's/ --hash=.*//' requirements.lock requirements-dev.lock | $(PIP) install -r /dev/stdin; \
	  fi
	@echo "  3/3 orderflow" && $(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build *.egg-info .orderflow
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
