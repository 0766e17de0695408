# The commands of a newcomer: `make sweep` trains a grid of small models and prints what to train next, `make test` runs the tests.
# Both install into .venv first, once: a stamp file says that it was done, and a changed pyproject.toml does it again.
# torch is installed first and by itself, so that a machine whose package index holds a CPU wheel of this version takes that one
# and not gigabytes of CUDA libraries. Settings: PYTHON (3.11 or newer), VENV, ARGS for the script (make sweep ARGS="--epochs 1 4")
# or for pytest, and WORKERS, the processes that run the tests (0: this one, to see what they print).

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
ARGS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RUN := $(VENV)/.installed
DEVELOP := $(VENV)/.installed-for-development

.PHONY: sweep plan test lint clean

sweep: $(RUN)
	$(BIN)/python sweeps/grid.py $(ARGS)

plan: $(RUN)
	$(BIN)/python sweeps/grid.py --plan $(ARGS)

test: $(DEVELOP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) $(ARGS)

lint: $(DEVELOP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(RUN): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2])'
	@echo "installing into $(VENV), once"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) "$(TORCH)"
	@$(PIP) --editable ".[sweep,analysis]"
	@touch $@

$(DEVELOP): $(RUN)
	@echo "installing what the tests need into $(VENV), once"
	@$(PIP) --editable ".[sweep,analysis,text,dev]"
	@touch $@
