# Each target makes .venv and installs what it needs; Python 3.11 or newer, make and the package index are enough.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench reference clean

demo: .venv/installed-test
	$(BIN)/python examples/demo.py

test: .venv/installed-test
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --doctest-modules src/jaxfit --doctest-glob=README.md README.md

bench: .venv/installed-test
	$(BIN)/python -m benchmarks

# Stores anew what torch computes for the parity tests; needs torch in .venv.
reference: .venv/installed-test
	$(BIN)/python tests/make_reference.py

clean:
	rm -rf .venv examples/output benchmarks/output .pytest_cache .ruff_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed-%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@
