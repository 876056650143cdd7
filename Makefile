# One verb per chore, the same at home and in CI. The first one that you call makes the environment .venv (some minutes, once).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PORT ?= 8000
WORKERS ?= 2

# The first that fits; or say it: make PYTHON=/path/to/python3.11 test. An environment that is there already knows its own.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(or $(shell for name in $(BIN)/python python3.11 python3.12 python3; do $$name -c '$(FITS)' 2>/dev/null && { echo $$name; break; }; done),python3)
NO_PYTHON = \
	"WordMask needs Python 3.11 or 3.12; $(PYTHON) is: $$($(PYTHON) --version 2>&1)." \
	"(Not 3.13, because MONAI Label 0.8.5 needs numpy 1.26, which has no build for 3.13; not 3.10, because pandas 3 needs 3.11.)" \
	"If a 3.11 or 3.12 is installed, name it: make PYTHON=/path/to/python3.12 ..." \
	"If not, uv brings one into this folder; type these three, then make again:" \
	"  python3 -m venv .uv" \
	"  .uv/bin/pip install uv" \
	"  .uv/bin/uv venv --seed --python 3.12 $(VENV)"
NO_VENV = \
	"$(PYTHON) cannot make environments, because a part of its venv module is missing." \
	"Debian and Ubuntu have that in a package of its own: apt-get install python3-venv"

# CPU=1 when the environment is made: the CPU build of torch, a fraction of the size. It has an index of its own.
CPU ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# sam2, which monailabel brings, would compile a CUDA kernel where there is a compiler; nothing here uses it.
export SAM2_BUILD_CUDA ?= 0

.PHONY: help demo learn-demo serve screenshots test lint fresh bench clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

# torch and torchvision come first and, for the CPU build, from one index alone, so that their builds cannot mix. Then sam2, which is
# built from its source with torch: pip would fetch a second torch for that (16 GB in /tmp) if it did not take the one that is there.
# .ready is written last, so an interrupted installation is taken up again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c '$(FITS)' 2>/dev/null || { printf '%s\n' $(NO_PYTHON) >&2; exit 1; }
	@$(BIN)/python -c 'import pip; $(FITS)' 2>/dev/null || \
		{ $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { printf '%s\n' $(NO_VENV) >&2; exit 1; }; $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing the packages of constraints.txt into $(VENV); this takes some minutes."
	$(if $(filter-out 0,$(CPU)),$(PIP_INSTALL) --no-deps --index-url $(TORCH_INDEX) torch torchvision)
	$(PIP_INSTALL) setuptools wheel torch torchvision
	$(PIP_INSTALL) --no-deps --no-build-isolation sam2
	$(PIP_INSTALL) -e ".[dev,nnunet,slicer]"
	@touch $@

demo: $(READY) ## start a server on the sample data, ask it for words, write pictures to demo_output/
	$(BIN)/python -m wordmask.demo.run

learn-demo: $(READY) ## teach a word to a server with two labelled studies, measure on others, go back; pictures in demo_output/learning/
	$(BIN)/python -m wordmask.demo.learn

serve: $(READY) ## MONAI Label server on a copy of the sample data, http://127.0.0.1:8000 (PORT=...)
	@studies=$$(mktemp -d); trap 'rm -rf "$$studies"' EXIT; cp -r sample_data/studies/. "$$studies"; \
	$(BIN)/python -m wordmask.cli serve --studies "$$studies" --port $(PORT)

screenshots: $(READY) ## the pictures of docs/tutorial.md: the Slicer module's panel and real views, on a real server (some minutes)
	$(BIN)/python -m tests.slicer.screenshots

test: $(READY) ## all tests but the slow ones and the benchmarks; the skipped are listed with reasons (ARGS=... for pytest; WORKERS=0: one process)
	$(BIN)/python -m pytest -n $(WORKERS) --no-loadscope-reorder $(ARGS)

lint: $(READY) ## ruff, mypy, and whether every pin installs on every supported Python
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.pins

fresh: ## the README's commands, word for word, on a bare Debian machine (needs root and mmdebstrap; about 5 minutes and 11 GB)
	$(PYTHON) -m tests.fresh $(ARGS)

bench: $(READY) ## the table of ratios
	$(BIN)/python -m pytest tests/benchmarks -m benchmark -s $(ARGS)

clean: ## remove the environment and everything that was made
	rm -rf $(VENV) .uv build dist lib/*.egg-info *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis demo_output
	find lib monailabel_app tests -name __pycache__ -type d -prune -exec rm -rf {} +
