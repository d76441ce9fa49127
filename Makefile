# Every target makes its own .venv when there is none. Nothing else has to be done by hand.
#   make test ARGS="-m 'not vllm'"   arguments for pytest; two engines at a time, ARGS="-n 0" for one
#   make venv DEVICE=cpu             the CPU engine, on a machine with a GPU
#   make venv PYTHON=python3.12      the Python that makes .venv
# DEVICE and PYTHON count when .venv is made; remove .venv to change them.

PYTHON ?= python3
DEVICE ?= auto
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help venv demo test check build clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(READY) ## make .venv with the engine this machine can run (CUDA or CPU)

$(READY): pyproject.toml scripts/install.py
	@$(PYTHON) scripts/install.py --device $(DEVICE)
	@touch $@

demo: $(READY) ## serve a tiny model at two lengths and show the answers
	@$(BIN)/longrope demo

test: $(READY) ## run the tests
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadscope $(ARGS)

check: $(READY) ## lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

build: $(READY) ## make the wheel and the sdist in dist/
	@$(BIN)/python -m build

clean: ## remove what was built and the caches; .venv stays
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
