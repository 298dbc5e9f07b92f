# `make help` lists what can be asked of it. Extra arguments: make lab ARGS="--port 8890".

BIN := .venv/bin
READY := .venv/.ready
ARGS ?=
PIP_FLAGS ?=

# A name can be on the path and still not run, so each candidate is asked for its version.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

export JUPYTER_PREFER_ENV_PATH := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help lab test lint bench mutants measured lock

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

lab: $(READY)  ## open JupyterLab on the first notebook
	$(BIN)/workbench lab $(ARGS)

# A file of tests stays in one process. To debug, run them in this one: ARGS="-n 0 --pdb".
test: lint  ## check the style and run every test, side by side
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --durations=10 $(ARGS)

lint: $(READY)  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

bench: $(READY)  ## measure what the project promises, each figure beside a peer
	$(BIN)/python -m benchmarks $(ARGS)

mutants: $(READY)  ## plant faults where privacy is made and count those that no test notices (hours)
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.mutants $(ARGS)

measured: $(READY)  ## regenerate data/measured (hours)
	$(BIN)/python -m benchmarks.pld_truth
	$(BIN)/python -m benchmarks.policies
	$(BIN)/python -m benchmarks.default_run
	$(BIN)/python -m benchmarks.audit_honesty

# Every pin must exist for the oldest Python supported, so that is the one that resolves them.
lock: $(READY)  ## resolve requirements.lock anew; commit the result after make test
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "make lock needs a .venv of Python 3.11: rm -r .venv; make lock PYTHON=python3.11" >&2; exit 2; }
	$(BIN)/pip install --dry-run --quiet --ignore-installed --report .venv/resolved.json $(PIP_FLAGS) '.[lab,test]'
	$(BIN)/python tools/lock.py .venv/resolved.json

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" \
		|| { echo "Python 3.11 or newer was not found; install it or name one: make PYTHON=/path/to/python3." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make environments; install its venv module (Debian: apt install python3-venv)." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check $(PIP_FLAGS) --requirement requirements.lock --editable '.[lab,test]'
	$(BIN)/python -m ipykernel install --sys-prefix --name python3 --display-name "DP-SGD Workbench"
	touch $@
