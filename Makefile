# Everything that is done in a checkout. Needs make and Python >= 3.11; PYTHON=/path/to/python picks one.

PYTHON ?=
UV ?= uv
# Scripts in benchmarks/ that end by themselves; a load of half an hour is started by hand.
BENCHMARKS ?= exposition

VENV := .venv
BIN := $(VENV)/bin
SHELL_SCRIPTS := scripts/virtual-environment .ci/run

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help up test coverage soak lint audit format lock wheel bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# exec: a signal to make's child is a signal to the command itself, and no shell is left waiting between the two.
up: $(VENV)/up.stamp ## run everything on this machine: servers, worker, beat, exporter, web
	@exec $(BIN)/aggregator up $(ARGS)

# Every process of the suite starts servers of its own; tests of one file stay together.
test: $(VENV)/dev.stamp ## run all tests; ARGS="-k words" narrows them
	@$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile $(ARGS)

coverage: ## run all tests and print which lines they reach; a quarter slower
	@$(MAKE) test ARGS="--cov --cov-report=term $(ARGS)"

# Exit 1 where the ledger, a recovery or what has to stay flat is not right; DIRECTORY is where all of it is written.
soak: $(VENV)/dev.stamp ## run everything under random faults; MINUTES=60 SEED=7 FAULT_EVERY=30
	@$(BIN)/python -m tests.acceptance.soak --minutes=$(or $(MINUTES),60) --fault-every=$(or $(FAULT_EVERY),30) \
		$(if $(SEED),--seed=$(SEED)) $(if $(DIRECTORY),--folder=$(DIRECTORY))

lint: $(VENV)/dev.stamp ## check style, types, import layers and shell scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if command -v shellcheck >/dev/null; then shellcheck $(SHELL_SCRIPTS); else echo "shellcheck is not installed: skipped"; fi

# Asks a database of known holes on the network: nothing that tests or CI may depend on.
audit: $(VENV)/dev.stamp ## look for known holes in what the locks name (needs the network)
	$(BIN)/pip-audit --disable-pip --require-hashes --requirement requirements/up.lock
	$(BIN)/pip-audit --disable-pip --require-hashes --requirement requirements/dev.lock

format: $(VENV)/dev.stamp ## format the code and apply the fixes that are safe
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Each lock is constrained by the one before, so that what is tested is what is installed.
LOCK := $(UV) --no-config pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate --no-strip-extras pyproject.toml

lock: ## resolve the dependencies anew within pyproject.toml's bounds (needs uv); ARGS=--upgrade takes newer ones
	$(LOCK) $(ARGS) --output-file requirements/service.lock
	$(LOCK) $(ARGS) --constraint requirements/service.lock --extra up --group build --output-file requirements/up.lock
	$(LOCK) $(ARGS) --constraint requirements/up.lock --extra up --group dev --output-file requirements/dev.lock

wheel: $(VENV)/dev.stamp ## build the wheels of service and client into dist/
	$(BIN)/python -m build --wheel --no-isolation
	$(BIN)/python -m build --wheel --no-isolation --outdir dist deploy/client

bench: $(VENV)/dev.stamp ## measure the README's figures again
	@for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit; done

clean: ## remove the virtual environment and what tools have left behind; no data
	rm -rf $(VENV) dist build .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find aggregator migrations tests benchmarks deploy -name __pycache__ -type d -prune -exec rm -rf {} +

# The second call finds the stamp and is instant.
$(VENV)/%.stamp: requirements/%.lock pyproject.toml scripts/virtual-environment
	@PYTHON="$(PYTHON)" sh scripts/virtual-environment $(VENV) $<
	@touch $@
