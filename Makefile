# What a person runs: `make demo`, `make test`. Everything else is for developers.
# uv is used when it is there; otherwise it is put into .uv (Python >= 3.11 with venv is all that is needed).

SHELL := /bin/sh
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
PORT ?= 52415

.PHONY: help setup demo test lint types contracts check schemas docs bench clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/	/' | expand -t 14

.uv/bin/uv:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is missing: install Python >= 3.11 with venv"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python >= 3.11 is needed, $(PYTHON) is older"; exit 2; }
	@$(PYTHON) -m venv .uv || { echo "error: the venv module is missing (Debian, Ubuntu: apt install python3-venv)"; exit 2; }
	@.uv/bin/pip install --quiet --disable-pip-version-check uv

setup: $(filter .uv/bin/uv,$(UV)) ## the environment in .venv, from the lock
	@command -v git >/dev/null || { echo "error: git is missing: install it"; exit 2; }
	@$(UV) sync --frozen --quiet --python "$$(command -v $(PYTHON))"

demo: setup ## three nodes from a git repository of manifests, two engines, models that answer (PORT=52415)
	@PATH="$$PWD/$(dir $(UV)):$$PATH" .venv/bin/python -m skulk.cli.demo --port $(PORT)

test: setup ## all tests that this machine allows; skips are named
	@PATH="$(abspath $(dir $(UV))):$$PATH" .venv/bin/python -m pytest -n 2 $(PYTEST_ARGS)

lint: setup ## ruff, check and format
	@$(UV) run --frozen ruff check .
	@$(UV) run --frozen ruff format --check .

types: setup ## mypy --strict
	@$(UV) run --frozen mypy

contracts: setup ## import contracts
	@$(UV) run --frozen lint-imports

check: lint types contracts test ## what CI runs

schemas: setup ## regenerate schemas/ and the generated references
	@$(UV) run --frozen skulk schema
	@$(UV) run --frozen python -m skulk.cli.reference

bench: setup ## the benchmarks, some hours (docs/benchmarks.md)
	@for script in benchmarks/*.py; do $(UV) run --frozen python $$script; done

clean: ## remove what make made here
	rm -rf .venv .uv .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
