# `make help` lists what there is. Everything runs from .venv, which `setup` makes from the
# locked requirements; a stamp file is written after an install that succeeded, so an
# interrupted one is done again and an unchanged one costs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r
CREATED := $(VENV)/.created
RUN_STAMP := $(VENV)/.locked-run
DEV_STAMP := $(VENV)/.locked-dev
UV_VERSION := 0.13.9
# Test processes side by side; on two cores, since many tests wait for other processes.
JOBS ?= 5

.DEFAULT_GOAL := help
# Two installs at once into one environment do not get along.
.NOTPARALLEL:
.DELETE_ON_ERROR:

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: $(RUN_STAMP) ## Run all of Keystay on http://127.0.0.1:8000 (PORT=8001 make run for another)
	@exec $(PY) -m devserver

.PHONY: test
test: $(DEV_STAMP) ## Run all tests (pytest's options: make test ARGS="-k keys -x")
	@$(PY) -m tests.chromium
	$(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# Tests come last, so that the output ends with pytest's closing line.
.PHONY: sure
sure: lint test ## Check format, lint, types and import contracts, then run all tests

.PHONY: lint
lint: $(DEV_STAMP) ## The checks without the tests
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m djlint --quiet --lint templates
	$(BIN)/lint-imports --no-logo

.PHONY: setup
setup: $(RUN_STAMP) ## Make .venv with the locked dependencies (run and test call it)

.PHONY: setup-dev
setup-dev: $(DEV_STAMP) ## The same with what tests and checks need

.PHONY: lock
lock: $(CREATED) ## Resolve pyproject.toml into requirements/*.txt, with hashes
	$(PY) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--upgrade pyproject.toml --group run -o requirements/run.txt
	$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--upgrade pyproject.toml --group dev -c requirements/run.txt -o requirements/dev.txt

# --clear: a folder that was left half made is made anew.
$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Keystay needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(RUN_STAMP): requirements/run.txt $(CREATED)
	$(PIP_INSTALL) $<
	@touch $@

# dev.txt contains run.txt, so this stamp serves for both.
$(DEV_STAMP): requirements/dev.txt $(CREATED)
	$(PIP_INSTALL) $<
	@touch $(RUN_STAMP) $@
