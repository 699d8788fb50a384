# `make quickstart` shows the whole workflow, `make test` runs all tests, `make test-fast` some.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# TORCH_INDEX: an extra package index with CPU builds of torch (README, "Install").
EXTRA_INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(EXTRA_INDEX)

# Where bytecode is not written, each of the many processes would compile forge anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: quickstart test test-fast lint format docs wheel clean

quickstart: $(VENV)/.installed-cpu
	$(BIN)/python scripts/quickstart.py

test: $(VENV)/.installed-dev
	$(BIN)/python scripts/run_tests.py

test-fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/unit tests/contract

lint: $(VENV)/.installed-dev
	$(BIN)/python scripts/check.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-dev
	$(BIN)/python scripts/generate_docs.py

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) dist build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch is installed first, pinned: with a range, pip could pick a build of several GB.
$(VENV)/.installed-cpu: pyproject.toml | $(BIN)/python
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[cpu]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed-cpu
	$(PIP) --editable '.[cpu,dev]'
	touch $@
