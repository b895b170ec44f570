# `make demo` and `make test` do all the set-up they need. Everything runs in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

DEMO_ARGS := $(if $(DATA),--data $(DATA)) $(if $(ITEMS),--items $(ITEMS)) $(if $(EPOCHS),--epochs $(EPOCHS))

GPU_VENV := .venv-gpu
GPU_PIP := $(GPU_VENV)/bin/python -m pip install --quiet
GPU_EXTRAS := '.[gpu,client,train,export,bench,dev]'

.PHONY: demo test test-slow check gpu clean

demo: $(STAMP)
	$(BIN)/recgpt demo $(DEMO_ARGS)

test: check
	$(BIN)/python -m pytest

# Load, soak and long fuzzing against the real server; SOAK_S sets the length of the soak in seconds.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# On a machine with a GPU. WHEELS names a folder of wheels where there is no index to ask; the machine's own packages are
# seen too, so only what it lacks need be there (setuptools from 77 on is needed too). QUICK=1 shortens the benchmarks.
gpu:
	$(PYTHON) -m venv --system-site-packages $(GPU_VENV)
	$(if $(WHEELS),$(addprefix $(GPU_PIP) --no-index --no-deps ,$(if $(wildcard $(WHEELS)/*.whl),$(WHEELS)/*.whl)),$(GPU_PIP) --constraint constraints.txt setuptools $(GPU_EXTRAS))
	$(GPU_PIP) --no-index --no-deps --no-build-isolation --editable .
	$(GPU_VENV)/bin/python -m pytest -m gpu tests/gpu
	$(GPU_VENV)/bin/python benchmarks/gpu.py $(if $(QUICK),--quick)

# torch first and by itself: the pinned version takes the CPU build where pip is offered one.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"recgpt needs Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,client,train,export,serve,bench,dev]'
	touch $@

clean:
	rm -rf $(VENV) $(GPU_VENV) artifacts
