# make demo: the main job, from nothing.   make test: the tests.   The rest is for people who change the code.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# servers and commands start twice as fast with their bytecode kept
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test setup check test-all fuzz train serve bench bench-postgres fmt clean

demo: $(STAMP)
	@$(BIN)/perdure demo

TESTS := tests/unit tests/contract tests/e2e -m "not engine and not slow and not postgres"

# AGAIN=1: what failed is asked once more, alone, if all tests had their turn (pytest's status 1; others mean that they had not).
test: $(STAMP)
	@$(BIN)/python -m pytest $(TESTS) -n auto --dist loadfile || { [ $$? -eq 1 ] && [ -n "$(AGAIN)" ] && \
	$(BIN)/python -m pytest $(TESTS) --last-failed --last-failed-no-failures none; }

setup: $(STAMP)

$(STAMP): pyproject.toml
	@echo "Making the environment in $(VENV) (a minute or two; packages come from PyPI)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on --quiet -e ".[local]" --group dev
	@touch $(STAMP)

check: $(STAMP)
	$(BIN)/ruff format --check perdure tests scripts examples
	$(BIN)/ruff check perdure tests scripts examples
	$(BIN)/pyright
	$(BIN)/pyright -p tests
	$(BIN)/lint-imports

fmt: $(STAMP)
	$(BIN)/ruff format perdure tests scripts examples
	$(BIN)/ruff check --fix perdure tests scripts examples

test-all: $(STAMP)
	@bash scripts/test_all.sh

fuzz: $(STAMP)
	PERDURE_FUZZ_ROLLOUTS=10000 $(BIN)/python -m pytest tests/contract/renderers/test_rollouts.py -v --timeout 7200

train: $(STAMP)
	@bash examples/train_reinforce/run.sh

serve: $(STAMP)
	$(BIN)/perdure serve

bench: $(STAMP)
	$(BIN)/perdure bench

bench-postgres: $(STAMP)
	@bash scripts/bench_postgres.sh

clean:
	rm -rf $(VENV) .cache build dist
