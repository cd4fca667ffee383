# Habits. Every target uses .venv, which `make env` (or any script) makes once.
PYTHON := .venv/bin/python
SHELL := /bin/bash

.PHONY: help env format lint test smoke mutate docs clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /'

env:  ## make the environment in .venv, or do nothing when it is complete
	bash -c 'source scripts/environment.sh'

format: env  ## rewrite the Python files in the project's format
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lint: env  ## check format, style and the syntax of the shell scripts
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	for script in scripts/*.sh .ci/run; do bash -n "$$script" || exit 1; done

test: env  ## the whole test suite
	bash scripts/test.sh

smoke: env  ## the quick tests: everything that trains no model
	bash scripts/test.sh -m 'not slow'

mutate: env  ## change the core line by line and see whether the tests notice (docs/mutation.md)
	OMP_NUM_THREADS=1 $(PYTHON) tests/mutate.py run $(MUTANTS)
	$(PYTHON) tests/mutate.py results

docs: env  ## the documentation as a site in site/, without a warning
	$(PYTHON) -m pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

clean:  ## remove caches and build leftovers; runs and corpora stay
	rm -rf build dist mutants site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find neuroprune_fairseq data-prep scripts tests -name __pycache__ -type d -exec rm -rf {} +
