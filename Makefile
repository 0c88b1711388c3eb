# Every step CI takes is a target here: CI does nothing a developer cannot.

VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
# file by file, in the order of tests/conftest.py
PARALLEL := -n 4 --dist loadfile --no-loadscope-reorder
PYTHON ?= python3
# where it is set, each of the many processes compiles again all that it imports
unexport PYTHONDONTWRITEBYTECODE
# GNU make 4 sets MAKE_TERMOUT when its output is a terminal; with an older one it is taken for one
ONCE := $(if $(MAKE_TERMOUT)$(filter 3.%,$(MAKE_VERSION)),,--once)
# as root on Debian or Ubuntu, missing packages are installed; otherwise they are named
install = { [ "$$(id -u)" = 0 ] && apt-get update --quiet=2 && apt-get install --quiet=2 --yes $(1); }

.PHONY: help demo test test-all test-lowest audit coverage check fix generate serve simulate clean tools bench hostile replicas compare growth pacing fuzz chaos chaos-replicas webhooks drill drill-upgrade soak flood dist release releasable

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/.run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(call install,python3-venv) || \
	  { echo "Python's venv module is needed: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.develop: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --group check --group test
	touch $@

tools: $(VENV)/.develop ## install what tests need besides Python packages
	$(BIN)/python tests/tools/install.py

demo: $(VENV)/.run ## simulated providers, the bridge and tasks that keep coming; without a terminal, each task once
	$(BIN)/taskbridge demo $(ONCE)

test: tools ## unit, contract, stateful, end to end, chaos and client tests: some three minutes
	$(BIN)/python -m pytest $(PARALLEL) -m "not extended"

test-all: tools ## what `make test` leaves out: browser, Node, deploy, recipes, release, what takes long: a quarter of an hour
	$(BIN)/python tests/tools/install.py --extended
	$(BIN)/python -m pytest $(PARALLEL) -m extended

test-lowest: tools ## `make test` with the lowest versions that pyproject.toml allows, in .venv-lowest; TESTS="tests/unit" for some
	mkdir -p build && $(BIN)/python tests/tools/lowest.py > build/lowest.txt
	@for python in "$(PYTHON)" python3.11 ""; do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && break; \
	done; test -n "$$python" || \
	  { echo "Python 3.11, the lowest, is needed: make PYTHON=/path/to/python3.11 test-lowest"; exit 1; }; \
	  "$$python" -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST)/bin/python -m pip install --quiet --requirement build/lowest.txt --editable .
	$(LOWEST)/bin/python -m pytest $(PARALLEL) -m "not extended" $(TESTS)

audit: $(VENV)/.develop ## compare what is installed with published vulnerabilities, where an advisory source answers
	$(BIN)/python tests/tools/audit.py

coverage: tools ## lines and branches of bridge/ that all tests run, in every process; COVERED="tests/unit" for some
	rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/python -m coverage run -m pytest $(PARALLEL) $(COVERED); status=$$?; \
	  $(BIN)/python -m coverage combine --quiet && $(BIN)/python -m coverage report; exit $$status

check: $(VENV)/.develop ## format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/.develop ## auto-format and auto-fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: $(VENV)/.develop ## rewrite the files that repeat others: tables of pages, dashboard, Helm chart, addresses
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/addresses.py

serve: $(VENV)/.run ## run the bridge with ./bridge.toml
	$(BIN)/taskbridge serve --config bridge.toml

simulate: $(VENV)/.run ## run three simulated providers on port 9090
	$(BIN)/taskbridge simulate

ifneq ($(filter hostile,$(MAKECMDGOALS)),)
bench: $(VENV)/.develop
	$(BIN)/python -m tests.bench.hostile $(HOSTILE)
else ifneq ($(filter replicas,$(MAKECMDGOALS)),)
bench: $(VENV)/.develop
	$(BIN)/python -m tests.bench.replicas $(REPLICAS)
else ifneq ($(filter compare,$(MAKECMDGOALS)),)
bench: $(VENV)/.run
	$(BIN)/python -m bench.compare $(COMMIT) $(COMPARE)
else ifneq ($(filter growth,$(MAKECMDGOALS)),)
bench: $(VENV)/.run
	$(BIN)/python -m bench.growth $(GROWTH)
else
bench: $(VENV)/.run ## run the benchmarks of docs/benchmarks.md; BENCH="fanout idle --cycles 1" for some
	$(BIN)/python -m bench.run $(BENCH)
endif

pacing: $(VENV)/.develop ## how soon ends are seen and how often is polled, beside fixed pollers: ten minutes; PACING="--quick"
	$(BIN)/python -m tests.pacing $(if $(PACING),$(PACING),--write)

hostile: bench ## `make bench hostile`: floods beside quiet passes, eight minutes; HOSTILE="--quick --exposed NAME"
	@true

replicas: bench ## `make bench replicas`: several bridges on one engine, half an hour; REPLICAS="cost failover" for some
	@true

compare: bench ## `make bench compare COMMIT=main`: CPU beside another commit, ten minutes; fails beyond 5 %; COMPARE="poll sse --pairs 3"
	@true

growth: bench ## `make bench growth`: what 100,000 open tasks and a full file cost, six minutes; GROWTH="--quick"
	@true

fuzz: $(VENV)/.develop ## each fuzz target for ten minutes; FUZZ="heads events", FUZZ_SECONDS=60
	$(BIN)/python -m pip install --quiet --group fuzz
	$(BIN)/python -m tests.hostile.fuzz $(FUZZ)

chaos: $(VENV)/.develop ## kill and break everything at random, at full size; CHAOS_SECONDS=600 CHAOS_SEED=...
	$(BIN)/python -m tests.chaos.long

chaos-replicas: $(VENV)/.develop ## three bridges on one engine, everything that may break; SEEDS="1-50" SECONDS=75 ENGINE=valkey
	$(BIN)/python -m tests.replicas.long

webhooks: $(VENV)/.develop ## 100,000 deliveries to receivers that fail a third of the time; WEBHOOKS="--kind three --tasks 1000" for other sizes
	$(BIN)/python -m tests.webhooks.long $(WEBHOOKS)

drill: $(VENV)/.develop ## three bridges, an engine, a balancer: break what you like; SCRIPT="kill,drain,engine-restart" without questions
	$(BIN)/python -m tests.replicas.drill $(if $(SCRIPT),--script $(SCRIPT))

drill-upgrade: $(VENV)/.develop ## a rolling update of three bridges from FROM (a tag or commit) to this version, and back
	$(BIN)/python -m tests.replicas.upgrade $(FROM)

soak: $(VENV)/.develop ## churn, floods and faults for half an hour, memory as a table; SOAK_MINUTES=30
	$(BIN)/python -m tests.chaos.soak

flood: $(VENV)/.run ## 10,000 tasks in one group with 1,000 followers: does each get every change once? FLOOD="--tasks 2000 --followers 200"
	$(BIN)/python -m bench.flood $(FLOOD)

dist: $(VENV)/.develop ## build wheel and source distribution into dist/, checked
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/check-wheel-contents dist/*.whl
	$(BIN)/twine check --strict dist/*

release: releasable check audit test test-all test-lowest dist ## all that comes before a release; ends with the commands that publish it
	@version=$$($(BIN)/python -c 'import bridge; print(bridge.__version__)'); \
	  printf 'Remaining steps:\n  %s\n  %s\n  %s\n' "git tag --annotate v$$version --message v$$version" \
	    "git push --follow-tags" "$(BIN)/twine upload dist/*"

releasable: $(VENV)/.develop
	@test -z "$$(git status --porcelain)" || { echo "Commit first: the tree has changes."; exit 1; }
	@version=$$($(BIN)/python -c 'import bridge; print(bridge.__version__)'); \
	  grep -qE "^## \[$$version\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$$" CHANGELOG.md || \
	  { echo "CHANGELOG.md has no heading '## [$$version] - DATE'."; exit 1; }

clean: ## remove everything that can be built again
	rm -rf $(VENV) $(LOWEST) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
