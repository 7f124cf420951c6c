# Every target makes the environment from the lock file first, if there is none.

PYTHON ?= python3.11
VENV   ?= .venv
TIER   ?= smoke
CORES  ?= 2
SEEDS  ?=
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help replicate test test-fast lint format lock clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables:      TIER=smoke|phantom|paper  CORES=$(CORES)  SEEDS=\"0 1\"  PYTHON=$(PYTHON)"

$(VENV)/.complete: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

replicate: $(VENV)/.complete ## Run the whole replication of a tier into results/TIER
	$(BIN)/replicate run --tier $(TIER) --cores $(CORES) $(addprefix --seed ,$(SEEDS))

test: $(VENV)/.complete ## Run every test
	$(BIN)/python -m pytest -n $(CORES)

test-fast: $(VENV)/.complete ## Run the tests that take seconds
	$(BIN)/python -m pytest -n $(CORES) -m "not slow"

lint: $(VENV)/.complete ## Check style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.complete ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.complete ## Write the versions of the present environment into the lock file
	$(BIN)/pip freeze --exclude-editable | \
	  sed -E 's/^((nvidia|cuda|triton)[^=]*==.*)$$/\1 ; sys_platform == "linux" and platform_machine == "x86_64"/' > requirements.lock

clean: ## Remove generated data and runs (results that git tracks stay)
	rm -rf work results/smoke results/*/predictions results/*/rows
