PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test lint docs clean

# restores twelve photos on the CPU and draws demo/report/overview.png
demo: .venv/installed
	$(BIN)/reddiff demo --out demo

# a worker for each core; `.venv/bin/python -m pytest tests/...` runs a part in one process
test: .venv/installed
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_arrows.py

# pages and API in site/, with no network; a broken link or an unknown name stops it
docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/installed: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --no-compile --editable '.[test]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --no-compile --editable '.[dev]'
	touch $@

# Debian keeps venv in a package of its own
.venv/bin/pip:
	$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv .venv; }

clean:
	rm -rf .venv demo site
