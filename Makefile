# Every target makes what it needs: an environment in .venv, servers from wheels. No system package is required.
PYTHON ?= python3
BIN := .venv/bin
FUZZ ?= 10000
SCRIPT ?= check

.DEFAULT_GOAL := help
.PHONY: help demo test test-long fuzz lint lua bench bench-full clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stamp keeps the environment from being made again until the project's description changes.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --editable ".[hiredis,embedded,cli]" --group tests --group bench --group lint
	@touch $@

demo: .venv/ready  ## run the main job: replicas of a gateway that share an embedded server
	$(BIN)/ratelimit demo

test: .venv/ready  ## pass the tests, on every server that this machine has
	$(BIN)/python -m pytest -m "not long"
	$(BIN)/python -m pytest benchmarks --ignore benchmarks/test_latency.py

test-long: .venv/ready  ## pass the further tests: exhaustive, random at length, of commands, beside the version before
	$(BIN)/python -m pytest -m long

fuzz: .venv/ready  ## try many odd inputs on every reader (some minutes; FUZZ=100000 for an hour)
	RATELIMIT_FUZZ_EXAMPLES=$(FUZZ) $(BIN)/python -m pytest tests/test_fuzz.py

lint: .venv/ready  ## ruff, mypy, and a lint of the Lua scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/lua_lint.py

lua: .venv/ready  ## print a Lua script with all its parts, as it is sent to the server (SCRIPT=check)
	@$(BIN)/python -c "from ratelimit.core.scripts import expanded; print(expanded('$(SCRIPT)'), end='')"

bench: .venv/ready  ## measure speed, memory and exactness beside the peers (about 4 minutes)
	$(BIN)/python benchmarks

bench-full: .venv/ready  ## the same with more rounds, keys and peers, steady load, propagation and import (half an hour)
	$(BIN)/python benchmarks --full

clean:  ## remove what the other targets made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks dist results
