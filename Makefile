# Habits. Every target uses .venv, which `make env` makes once.
PYTHON := .venv/bin/python
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

.PHONY: help env format lint types test smoke mutate docs lock release clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /'

env:  ## make the environment in .venv, or do nothing when it is complete
	make_it=yes bash -c 'source scripts/environment.sh'

format: env  ## rewrite the Python files in the project's format
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lint: env  ## check format, style and the shell scripts
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	.venv/bin/shellcheck -x scripts/*.sh scripts/*.sbatch .ci/run

types: env  ## check the types
	$(PYTHON) -m mypy

test: env  ## the whole test suite
	bash scripts/test.sh

smoke: env  ## the quick tests: everything that trains no model
	bash scripts/test.sh -m 'not slow'

mutate: env  ## change the core line by line and see whether the tests notice (docs/mutation.md)
	OMP_NUM_THREADS=1 $(PYTHON) tests/mutate.py run $(MUTANTS)
	$(PYTHON) tests/mutate.py results

docs: env  ## the documentation as a site in site/, without a warning
	@$(PYTHON) -c 'import material, mkdocstrings' 2>/dev/null || \
	  $(PYTHON) -m pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

# Without torch and what belongs to its builds for GPUs; see scripts/environment.sh.
lock: env  ## write requirements-lock.txt anew from setup.py and constraints.txt
	$(PYTHON) -m pip install --quiet -c constraints.txt uv
	$(PYTHON) -m uv pip compile --quiet --generate-hashes --no-header --no-annotate \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 -c constraints.txt \
	  --extra fairseq --extra dev setup.py | awk '/^[^ ]/ { keep = !/^(torch=|triton|cuda-|nvidia-)/ } keep' \
	  >requirements-lock.new
	mv requirements-lock.new requirements-lock.txt

release: env  ## build dist/ and check it; twine upload dist/* publishes it
	$(PYTHON) -m pip install --quiet -c constraints.txt build twine
	rm -rf dist
	$(PYTHON) -m build
	$(PYTHON) -m twine check --strict dist/*

clean:  ## remove caches and build leftovers; runs and corpora stay
	rm -rf build dist mutants site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find neuroprune_fairseq data-prep scripts tests -name __pycache__ -type d -exec rm -rf {} +
