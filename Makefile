# Two commands matter: `make run` and `make test`. Both install what they need on first use. `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# A Python of your choice; empty: the first of python3.11, 3.12, 3.13 and python3 that is new enough.
PYTHON ?=
# Where to get torch from; empty: pip's own index. On Linux that build brings gigabytes of CUDA libraries; without a
# GPU the CPU build is a tenth of it: make run TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt

.PHONY: help
help: ## Show these targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18
	@echo
	@echo 'make run takes IMAGES=/path/to/folder, ONCE=1, PORT=8000, DAGSTER_PORT=3000 and every CLIP_PIPELINE_* variable.'
	@echo 'make test takes ARGS, for pytest. Set-up takes PYTHON=/path/to/python and TORCH_INDEX=URL (CPU build of torch:'
	@echo 'https://download.pytorch.org/whl/cpu).'

.PHONY: run
run: .venv/.installed ## Index photographs (IMAGES=folder, or samples), search them, serve until Ctrl-C (or ONCE=1)
	@set -- demo; \
	[ -z "$${IMAGES:-}" ] || set -- "$$@" --images "$$IMAGES"; \
	case "$${ONCE:-}" in '' | 0) ;; *) set -- "$$@" --once ;; esac; \
	[ -z "$${PORT:-}" ] || export CLIP_PIPELINE_PORT="$$PORT"; \
	[ -z "$${DAGSTER_PORT:-}" ] || export CLIP_PIPELINE_DAGSTER_PORT="$$DAGSTER_PORT"; \
	exec $(BIN)/clip-pipeline "$$@"

.PHONY: test
test: .venv/.installed-dev ## Run the tests, a file on each core (ARGS="-k name" and so on; ARGS="-n 0": one after the other)
	@$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: test-slow
test-slow: .venv/.installed-dev ## Run the tests marked slow: real weights, the whole stack
	@$(BIN)/python -m pytest -m 'slow and not gpu' $(ARGS)

.PHONY: test-postgres
test-postgres: .venv/.installed-dev ## Run the tests of ledger, Dagster and service with every ledger in PostgreSQL
	@$(BIN)/python -m pytest --ledger postgres clip_pipeline_tests/ledger clip_pipeline_tests/defs clip_pipeline_tests/serving $(ARGS)

.PHONY: fault-campaign
fault-campaign: .venv/.installed-dev ## Break a real fleet of two workers on PostgreSQL 100 times (ARGS="--help"); as root
	@$(BIN)/python -m clip_pipeline_tests.campaign $(ARGS)

.PHONY: lint
lint: .venv/.installed-dev ## Check style, formatting and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo

.PHONY: types
types: .venv/.installed-dev ## Check types with pyright
	@$(BIN)/pyright

.PHONY: definitions
definitions: .venv/.installed-dev ## Load both Dagster code locations, as the daemon would
	@VIRTUAL_ENV="$(CURDIR)/.venv" $(BIN)/dg check defs
	@$(BIN)/dagster definitions validate -w workspace.yaml

.PHONY: install
install: .venv/.installed-dev ## Make .venv with everything in it, tools for developers too

.PHONY: bench
bench: .venv/.installed-bench ## Measure embedding, registering, index and search beside what else there is (ARGS="--help")
	@$(MAKE) --no-print-directory .venv/.installed-bench-index || echo 'The index will have nothing to be measured beside.'
	@$(BIN)/python -m benchmarks.bench $(ARGS)

.PHONY: bench-embed
bench-embed: .venv/.installed-bench ## Measure images/s against transformers, open_clip, clip-retrieval (ARGS="--help")
	@$(BIN)/python -m benchmarks.embed $(ARGS)

.PHONY: bench-register
bench-register: .venv/.installed ## Measure registering 100,000 paths against 1,000,000 known
	@$(BIN)/python -m benchmarks.register $(ARGS)

.PHONY: bench-scan
bench-scan: .venv/.installed ## Measure scanning 1,000,000 known files with nothing new, beside a bare walk
	@$(BIN)/python -m benchmarks.scan $(ARGS)

.PHONY: bench-index
bench-index: .venv/.installed-bench-index ## Measure the index at 100,000 and 1,000,000 vectors beside faiss, hnswlib, usearch and autofaiss
	@$(BIN)/python -m benchmarks.index $(ARGS)

.PHONY: bench-latency
bench-latency: .venv/.installed ## Measure how long a new image takes to be searchable, through the whole stack
	@$(BIN)/python -m benchmarks.latency $(ARGS)

.PHONY: bench-service
bench-service: .venv/.installed ## Measure submitting 1,000 and 100,000 paths over HTTP, and what /health and a status cost
	@$(BIN)/python -m benchmarks.service $(ARGS)

.PHONY: bench-search
bench-search: .venv/.installed ## Measure searches by text over HTTP among 100,000 images, with 1, 8 and 32 clients
	@$(BIN)/python -m benchmarks.search_http $(ARGS)

.PHONY: bench-analysis
bench-analysis: .venv/.installed ## Measure uploads to the analysis lane, 1, 8 and 64 clients, against the encoder in a loop
	@$(BIN)/python -m benchmarks.analysis $(ARGS)

.PHONY: bench-fleet
bench-fleet: .venv/.installed ## Measure two workers of one thread against one over the same 2,000 images
	@$(BIN)/python -m benchmarks.fleet $(ARGS)

.PHONY: bench-overhead
bench-overhead: .venv/.installed ## Measure what orchestration costs an embedding run, and what a pack of batches saves
	@$(BIN)/python -m benchmarks.overhead $(ARGS)

.PHONY: bench-push
bench-push: .venv/.installed ## Measure how soon listeners hear of a job or a result, and what 200 idle ones cost
	@$(BIN)/python -m benchmarks.push $(ARGS)

.PHONY: bench-recall
bench-recall: .venv/.installed ## Measure text->image recall of your index (IMAGES=folder CAPTIONS=file.csv)
	@[ -n "$${IMAGES:-}" ] && [ -n "$${CAPTIONS:-}" ] || { echo 'make bench-recall IMAGES=folder CAPTIONS=file.csv'; exit 2; }
	@$(BIN)/python -m benchmarks.recall --images "$$IMAGES" --captions "$$CAPTIONS" $(ARGS)

.PHONY: lock
lock: .venv/.installed-dev ## Pin the newest versions that pyproject.toml allows, in constraints.txt
	@$(BIN)/python tools/write_lock.py

.PHONY: clean
clean: ## Remove .venv and caches; keeps .clip_pipeline, which holds your index
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and without its dependencies, so that TORCH_INDEX, where the rest is not to be had, serves only torch.
.venv/.installed: pyproject.toml constraints.txt
	@python=$$(bash tools/find_python '$(PYTHON)'); \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "Making .venv with $$python"; "$$python" -m venv --clear .venv; }
	@echo 'Installing the pinned packages into .venv: once, some minutes.'
	@[ -n '$(TORCH_INDEX)' ] || [ "$$(uname)" != Linux ] || command -v nvidia-smi >/dev/null || \
	echo 'No GPU here: with TORCH_INDEX=https://download.pytorch.org/whl/cpu torch may come without gigabytes of CUDA.'
	@$(INSTALL) --no-deps $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') "$$(grep '^torch==' constraints.txt)"
	@$(INSTALL) --quiet --editable '.[all]'
	@touch $@

.venv/.installed-dev: .venv/.installed
	@echo 'Installing the tools for developers into .venv'
	@$(INSTALL) --quiet --editable '.[all,dev]'
	@touch $@

# Into a folder of its own, without dependencies: see benchmarks/requirements.txt.
.venv/.installed-bench: .venv/.installed benchmarks/requirements.txt
	@echo 'Installing what the benchmarks compare with into .venv/bench'
	@rm -rf .venv/bench
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --target .venv/bench --requirement benchmarks/requirements.txt
	@touch $@

# hnswlib is compiled here, so this is apart from what the other benchmarks need.
.venv/.installed-bench-index: .venv/.installed benchmarks/requirements-index.txt
	@echo 'Installing the indexes that the benchmark compares with into .venv/bench-index'
	@rm -rf .venv/bench-index
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --target .venv/bench-index --requirement benchmarks/requirements-index.txt
	@touch $@
