# One virtual environment from one hashed lock; every target makes what it needs.
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTHONS := python3 python3.13 python3.12 python3.11
# The first of them that is 3.11, 3.12 or 3.13; `make PYTHON=…` chooses another.
PYTHON ?= $(firstword $(foreach python,$(PYTHONS),$(shell $(python) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1 && echo $(python))))
QUICK := $(wildcard tests/architecture tests/unit tests/contract tests/connectors tests/golden tests/histories)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and none was found: install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "preparing $(VENV) with $$($(PYTHON) --version) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: venv
venv: $(INSTALLED) ## Make .venv from the hashed lock

.PHONY: check
check: format-check lint types ## Format, lint, types, laws, unit and contract tests: no broker, no network
	$(BIN)/pytest -m "not broker" $(QUICK)

.PHONY: test
test: format-check lint types ## Everything `make check` does, then the tests on a real Kafka and registry
	$(BIN)/pytest -n 2 --dist worksteal

.PHONY: format
format: $(INSTALLED) ## Format the code
	$(BIN)/ruff format .

.PHONY: format-check
format-check: $(INSTALLED)
	$(BIN)/ruff format --check .

.PHONY: lint
lint: $(INSTALLED) ## ruff
	$(BIN)/ruff check .

.PHONY: types
types: $(INSTALLED) ## mypy, strict, on all that is shipped
	$(BIN)/mypy

.PHONY: golden
golden: $(INSTALLED) ## Write the golden files anew; review the difference as code
	BUS_TEST_GOLDEN=write $(BIN)/pytest -q -m "not broker" $(QUICK)

.PHONY: schemas
schemas: $(INSTALLED) ## Write the typed models from the .avsc files, and freeze new schema versions
	$(BIN)/python -m schemas.generate
	$(BIN)/python -m schemas.history freeze

.PHONY: demo
demo: $(INSTALLED) ## QuickBooks and Exact Online simulated and kept in step through a real Kafka
	$(BIN)/bus demo

.PHONY: up
up: $(INSTALLED) ## Kafka, registry and all services on this machine until Ctrl-C
	$(BIN)/bus up

.PHONY: bench
bench: $(INSTALLED) ## Measure speed and memory, print the table
	$(BIN)/python -m bench

.PHONY: faults
faults: $(INSTALLED) ## The fault campaign, about 20 minutes; writes docs/faults.md
	$(BIN)/python -m tests.faults --write $(if $(SEED),--seed $(SEED))

.PHONY: faults-long
faults-long: $(INSTALLED) ## The same with full counts and the broken builds: hours
	$(BIN)/python -m tests.faults --write --long --broken $(if $(SEED),--seed $(SEED))

.PHONY: lock
lock: $(INSTALLED) ## Resolve requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --quiet --output-file requirements.lock

.PHONY: jars-lock
jars-lock: $(INSTALLED) ## Resolve bus/embedded/jars.lock.json anew
	$(BIN)/python -m bus.embedded.lock

.PHONY: clean
clean: ## Remove .venv and the tools' caches; data in .data stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
