# make setup | live | test | campaign | campaign-process | week | planted | conformance | bench | lab | check |
#     constraints | clean
# Each target makes the environment in .venv that it needs; nothing has to be activated or installed by hand.
# ARGS is passed on: make test ARGS="tests/data/test_load_tape.py -k gzip", make live ARGS="-p seed 8".

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHONS := python3.11 python3.12 python3.13 python3.14 python3
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PEERS := .venv-bench
# Other people's clients of Binance, each in an environment of its own; nautilus_trader wants Python 3.12.
CLIENTS := freqtrade nautilus_trader
CLIENT_PYTHONS := $(PYTHON) python3.12 python3.13 $(wildcard $(HOME)/.pyenv/versions/3.1[23]*/bin/python)
CLIENT_USABLE := import sys, venv, ensurepip; sys.exit(not (3, 12) <= sys.version_info < (3, 14))
BENCH := *
# Files are shared out to three processes, also on two cores, since much of a session's time is waiting; WORKERS=0 for
# one, and a debugger.
WORKERS := 3
SHARED := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=600

.PHONY: help setup setup-dev live test campaign campaign-process week planted conformance bench lab check
.PHONY: constraints clean
.DELETE_ON_ERROR:

help:
	@echo "make live         trade a synthetic tape against the simulated venue; the record is runs/demo.ipynb"
	@echo "make test         tests and notebooks; ARGS are passed to pytest"
	@echo "make campaign     simulated sessions under faults; SESSIONS=1000 SEED=1 for how many, and from where"
	@echo "make planted      bugs planted in our own code, each to be caught by the simulator; takes minutes"
	@echo "make conformance  freqtrade and nautilus_trader trade at the simulated venue; installs them; takes minutes"
	@echo "make campaign-process  kill real engines, kernels and papermills at unplanned moments; takes minutes"
	@echo "make week         days in virtual time: connections, weight, memory, journal; HOURS=168 RATE=2 FORM=demo"
	@echo "make bench        speed and memory against others; BENCH=bars for one; takes minutes on a quiet machine"
	@echo "make lab          JupyterLab"
	@echo "make check        formatting, lint, types, then all tests"
	@echo "make setup        the environment alone"
	@echo "make constraints  pin the dependencies of pyproject.toml anew"
	@echo "make clean        remove the environment and caches; runs are kept"

setup: $(VENV)/ready
setup-dev: $(VENV)/ready-dev

$(BIN)/python:
	@for python in $(PYTHON) $(PYTHONS); do \
	    if "$$python" -c '$(USABLE)' 2>/dev/null; then exec "$$python" -m venv $(VENV); fi; \
	done; \
	echo "python 3.11 or newer with venv is needed: apt-get install python3-venv, or PYTHON=/path/to/python make" >&2; \
	exit 1

# Stamps: the environment is brought up to date only when what it is made from has changed.
$(VENV)/ready: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[lab,test]'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # pip does it on one core; some files want another Python
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[lab,test,dev]'
	@touch $@

# Peers want other versions of numpy, numba and pandas than ours: they have an environment of their own.
$(PEERS)/ready: pyproject.toml | $(BIN)/python
	$(BIN)/python -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet -e '.[bench]'
	@touch $@

$(CLIENTS:%=.venv-%/ready): .venv-%/ready: tests/conformance/%.txt
	@for python in $(CLIENT_PYTHONS); do \
	    if "$$python" -c '$(CLIENT_USABLE)' 2>/dev/null; then exec "$$python" -m venv --clear .venv-$*; fi; \
	done; \
	echo "Python 3.12 or 3.13 with venv is needed: PYTHON=/path/to/python make conformance" >&2; \
	exit 1
	.venv-$*/bin/python -m pip install --quiet -r $<
	@touch $@

live: $(VENV)/ready
	$(BIN)/papermill notebooks/live.ipynb runs/demo.ipynb $(ARGS)
	@echo "The record is runs/demo.ipynb: make lab opens it. For other commands, once in each new shell:"
	@echo "    source $(BIN)/activate"

test: $(VENV)/ready
	$(BIN)/python -m pytest $(NBVAL) $(SHARED) $(ARGS)

campaign: $(VENV)/ready
	PYTHONPATH=tests $(BIN)/python -m simulation.campaign --sessions $(or $(SESSIONS),1000) --seed $(or $(SEED),1) $(ARGS)

campaign-process: $(VENV)/ready
	$(BIN)/python -m pytest -q -m campaign tests $(ARGS)

planted: $(VENV)/ready
	PYTHONPATH=tests $(BIN)/python -m simulation.planted $(ARGS)

week: $(VENV)/ready
	PYTHONPATH=tests $(BIN)/python -m simulation.week --hours $(or $(HOURS),168) --rate $(or $(RATE),2) \
	    --form $(or $(FORM),demo) $(ARGS)

conformance: $(VENV)/ready $(CLIENTS:%=.venv-%/ready)
	PYTHONPATH=tests $(BIN)/python -m conformance.session $(ARGS)

bench: $(VENV)/ready $(PEERS)/ready
	@status=0; for bench in benchmarks/bench_$(BENCH).py; do \
	    echo "== $$bench"; \
	    $(BIN)/python -m benchmarks.$$(basename $$bench .py) $(ARGS) || status=1; \
	done; exit $$status

# Its terminals and kernels find what is in the environment, such as papermill.
lab: export PATH := $(CURDIR)/$(BIN):$(PATH)
lab: $(VENV)/ready
	$(BIN)/jupyter lab --notebook-dir=. $(ARGS)

check: $(VENV)/ready-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/project/test_import_map.py tests/project/test_notebooks.py tests/project/test_setup.py
	$(MAKE) test

constraints: $(VENV)/ready-dev
	$(BIN)/uv pip compile pyproject.toml --extra lab --extra test --extra dev --universal --python-version 3.11 \
	    --no-annotate --no-header --quiet -o constraints.txt $(ARGS)

clean:
	rm -rf $(VENV) $(PEERS) $(CLIENTS:%=.venv-%) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +
