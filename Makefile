# One verb per chore, the same at home and in CI. The first one that you call makes the environment .venv (some minutes, once).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The first of these that runs; or say it: make PYTHON=/path/to/python3.11 test
PYTHON ?= $(shell for name in python3.11 python3.12 python3; do $$name -c '' 2>/dev/null && { echo $$name; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PORT ?= 8000
# monailabel brings sam2, whose CUDA kernel would be compiled where there is a compiler; nothing here uses it.
export SAM2_BUILD_CUDA ?= 0

.PHONY: help demo learn-demo serve screenshots test lint bench clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

# Written last, so an interrupted installation is taken up again.
$(READY): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "WordMask needs Python 3.11 (Debian: apt-get install python3 python3-venv)." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] < (3, 13); sys.exit(0 if ok else f"WordMask needs Python 3.11 or 3.12, $(PYTHON) is {sys.version.split()[0]}; try: make PYTHON=python3.11 ...")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,nnunet,slicer]"
	@touch $@

demo: $(READY) ## start a server on the sample data, ask it for words, write pictures to demo_output/
	$(BIN)/python -m wordmask.demo

learn-demo: $(READY) ## teach a word to a server with two labelled studies, measure on others, go back; pictures in demo_output/learning/
	$(BIN)/python -m wordmask.learn_demo

serve: $(READY) ## MONAI Label server on a copy of the sample data, http://127.0.0.1:8000 (PORT=...)
	@studies=$$(mktemp -d); trap 'rm -rf "$$studies"' EXIT INT TERM; cp -r sample_data/studies/. "$$studies"; \
	$(BIN)/monailabel start_server --app monailabel_app --studies "$$studies" --host 127.0.0.1 --port $(PORT)

screenshots: $(READY) ## the pictures of docs/tutorial.md: the Slicer module's panel and real views, on a real server (some minutes)
	$(BIN)/python -m tests.slicer.screenshots

test: $(READY) ## all tests but the slow ones and the benchmarks; the skipped are listed with reasons (ARGS=... for pytest)
	$(BIN)/python -m pytest $(ARGS)

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY) ## the table of ratios
	$(BIN)/python -m pytest tests/benchmarks -m benchmark -s $(ARGS)

clean: ## remove the environment and everything that was made
	rm -rf $(VENV) build dist lib/*.egg-info *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis demo_output
	find lib monailabel_app tests -name __pycache__ -type d -prune -exec rm -rf {} +
