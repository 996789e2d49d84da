# Two commands, each enough on a fresh checkout: `make train` and `make test`.
# Overrides of the configuration go through ARGS: make train ARGS="seed=1 steps=20"
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --constraint constraints.txt
STAMP := .venv/.installed

.PHONY: train test soak lint install

train: $(STAMP)
	$(BIN)/cispo train experiment=quickstart $(ARGS)

# Two processes share the files (pytest-xdist): most of the longest tests wait for Ray. tests/conftest.py deals them out.
test: lint
	$(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder $(ARGS)

# What takes minutes to hours: thousands of cases, hundreds of faults.
soak: $(STAMP)
	$(BIN)/python -m pytest -m soak --timeout 7200 $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

install: $(STAMP)

# DeepSpeed comes as source: its build reads the torch and the helpers that stand already, and compiles no operator.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) setuptools wheel packaging psutil py-cpuinfo ninja
	DS_BUILD_OPS=0 $(PIP) --no-build-isolation deepspeed
	$(PIP) --editable '.[test]'
	touch $@
