PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests wait as much as they work: half as many again as there are cores.
AT_ONCE := $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 3 / 2 )))

.PHONY: setup compiled checked demo test test-thorough lint bench docs clean
.DEFAULT_GOAL := help

help:           ## Show what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(VENV)/.ready   ## Create .venv with everything

$(VENV)/.ready: pyproject.toml
	@PYTHON="$(PYTHON)" sh tests/support/setup.sh $(VENV)
	@touch $@

demo: setup     ## Start server and agent, run a real task to its end, show its log and metrics
	@$(BIN)/python tests/support/demo.py

lint: setup     ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 -p taskyard
	$(BIN)/lint-imports

# Tests start hundreds of processes, and each of pytest's reads all tests: where Python writes no bytecode, each would
# compile all it imports. What is wrong with a test is said when it is run.
compiled: setup
	@$(BIN)/python -m compileall -q sdk agent server
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --collect-only -q >/dev/null 2>&1 || true

checked: setup  # While one core lints, another compiles.
	@$(MAKE) --no-print-directory --jobs 2 lint compiled

test: checked   ## Lint and all tests but the thorough ones
	$(BIN)/python -m pytest --numprocesses $(AT_ONCE) --dist worksteal -m "not thorough"

test-thorough: checked  ## All tests: what `make test` leaves out takes as long again
	$(BIN)/python -m pytest --numprocesses $(AT_ONCE) --dist worksteal

bench: setup    ## Measure what the design promises; writes tests/benchmarks/results.json
	$(BIN)/python -m tests.benchmarks
	$(BIN)/python -m tests.faults.random_faults --tasks 300

docs: setup     ## Build the documentation into site/
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group docs
	$(BIN)/python -m mkdocs build --strict

clean:          ## Remove what was made
	rm -rf $(VENV) dist build site .mypy_cache .ruff_cache .pytest_cache
