# Every target works on a fresh clone: each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
EXAMPLE := pipelines/buildkite-vllm

.PHONY: help setup demo test e2e check format docs lock bench bench-convert bench-start clients clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP)  ## Make .venv with lazyci and its tools, as locked

$(STAMP): requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "lazyci needs Python 3.10 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup  ## Show what lazyci does to a pipeline like vLLM's
	@BIN=$(BIN) EXAMPLE=$(EXAMPLE) sh tests/demo.sh

test: setup check  ## Run all checks and tests
	$(BIN)/pytest -q

e2e: setup clients  ## Run the tests on real agents (Linux, root, debootstrap; builds them once)
	$(BIN)/pytest -q --override-ini addopts="-ra --strict-markers" tests/e2e

check: setup  ## Lint, types, and docs and examples in step with the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/sync.py --check

format: setup  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## Write the generated pages and the examples' results again
	$(BIN)/python docs/sync.py

lock: setup  ## Pin all dependencies again, at their newest versions
	$(BIN)/pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.10 \
		--no-annotate --no-header --group dev pyproject.toml -o requirements/dev.txt

bench: setup  ## Measure the rewriting beside a bare load of the same file
	$(BIN)/python tests/bench_rewrite.py

bench-convert: setup  ## Measure conversion beside the regular pull and peers (root; about 30 minutes)
	$(BIN)/python tests/bench_convert.py --peers 1 $(ARGS)

bench-start: setup  ## Measure cold starts, lazily and not (root; about 8 minutes)
	$(BIN)/python tests/bench_start.py $(ARGS)

clients:  ## Build the real clients that the tests use (needs Go and cargo); without them those tests skip
	$(PYTHON) tests/clients/install.py

clean:  ## Remove what make made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
