# Every target makes its own .venv when there is none. Nothing else has to be done by hand.
#   make test ARGS="-m 'not vllm'"   arguments for pytest; two engines at a time, ARGS="-n 0" for one
#   make venv DEVICE=cpu             the CPU engine, on a machine with a GPU
#   make venv PYTHON=python3.12      the Python that makes .venv
#   make airgap IMAGE=NAME@sha256:...    with that image; ARCHIVE=FILE for one that was saved before
# DEVICE and PYTHON count when .venv is made; remove .venv to change them.

PYTHON ?= python3
DEVICE ?= auto
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help venv demo test check build airgap tools manifests clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(READY) ## make .venv with the engine this machine can run (CUDA or CPU)

$(READY): pyproject.toml scripts/install.py
	@$(PYTHON) scripts/install.py --device $(DEVICE)
	@touch $@

demo: $(READY) ## serve a real 135M model past its window, beside stock vLLM
	@$(BIN)/longrope demo

test: $(READY) ## run the tests
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder $(ARGS)

check: $(READY) ## lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

build: $(READY) ## make the wheel and the sdist in dist/
	@$(BIN)/python -m build

airgap: ## gather in dist/airgap what a machine without a network needs
	@$(PYTHON) scripts/airgap.py --device $(if $(filter auto,$(DEVICE)),gpu,$(DEVICE)) $(if $(IMAGE),--image $(IMAGE)) $(if $(ARCHIVE),--archive $(ARCHIVE))

tools: $(READY) ## fetch the tools that check deploy/, into .cache
	@$(BIN)/python scripts/deploy_tools.py

manifests: tools ## make what in deploy/ and docs/deploy.md is computed
	@$(BIN)/python scripts/render_deploy.py

clean: ## remove what was built and the caches; .venv stays
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
