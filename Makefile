# `make` lists the targets. PYTHON is any Python from 3.11 to 3.14, VENV where its packages go.
PYTHON ?= $(shell .ci/find-python)
VENV = .venv
BIN = $(VENV)/bin
PORT ?= 8000
STRIPE_PORT ?= 12111
STRIPE_SECRET = whsec_simulator00000000000000000000
# Tests wait more than they work.
AT_ONCE = -n 4 --dist worksteal
ALL = -m "not e2e and not browser and not processes" --ignore=tests/browser --ignore=tests/e2e $(AT_ONCE)
LOCKS = requirements.txt requirements-dev.txt
# uv compiles for the oldest Python that pyproject.toml promises, whichever runs it, and asks pip's index if it has none of its own.
UV = UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(BIN)/pip config get global.index-url 2>/dev/null)}}" \
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --python $(BIN)/python \
	--generate-hashes --no-header --no-annotate
# Where no bytecode is kept, each process that a test starts compiles all of it again.
unexport PYTHONDONTWRITEBYTECODE
define compile
	@mkdir -p var/lock && cp $(LOCKS) var/lock
	@$(UV) $(1) $(EXTRAS) pyproject.toml --output-file var/lock/requirements.txt
	@$(UV) $(1) --group dev --constraint var/lock/requirements.txt --output-file var/lock/requirements-dev.txt
endef
.DEFAULT_GOAL = help
.PHONY: help install dev demo run listen stripe test test-extended test-processes test-postgres test-browser e2e proof mutants \
	chaos hosts costs fuzz api-cases bench growth bench-peers bench-tools browser-tools ci way mails pages pictures check lock \
	lock-check upgrade

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/service ## Creates .venv with everything the service needs

dev: $(VENV)/dev ## Adds what tests and checks need

demo: install ## Shows the service at work: people at a local Stripe, on SQLite and an embedded Redis
	@$(BIN)/python -m tests.demo

run: install ## Runs web, worker and clock together, and says what to forward events to; Ctrl-C stops them
	@$(BIN)/python -m worker run

listen: install ## The same, and the Stripe CLI forwards your sandbox's events: with STRIPE_API_KEY, or after `stripe login`
	@PATH="$$PATH:$(CURDIR)/tests/e2e/node_modules/.bin" $(BIN)/python -m worker run --listen

stripe: dev ## Runs a local Stripe that delivers to `make run`, and says how to start that
	@$(BIN)/python -m tests.simulator --port $(STRIPE_PORT) \
		--forward-to http://127.0.0.1:$(PORT)/webhooks/stripe --secret $(STRIPE_SECRET)

test: dev ## Runs the tests, on SQLite and an embedded Redis; all of a file's, or some of them: T=tests/unit/test_events.py K=redacted
	@$(BIN)/python -m pytest $(if $(T),-m "not e2e and not browser" $(T),$(ALL)) $(if $(K),-k "$(K)")

test-extended: dev ## Follows docs/extend.md in a copy of this folder, and runs the tests there
	@rm -rf var/extended
	@$(BIN)/python -m tests.support.extended var/extended
	@ln -s $(abspath $(VENV)) var/extended/.venv
	@cd var/extended && .venv/bin/python -m pytest $(ALL) $(if $(K),-k "$(K)")

test-processes: dev ## Runs what `make test` leaves out: the service as it is deployed, on PostgreSQL, process by process, killed, frozen and cut off
	@$(BIN)/python -m tests.support.postgres -m processes $(AT_ONCE) tests/integration $(if $(K),-k "$(K)")

test-postgres: dev ## Runs the database and integration tests on PostgreSQL: DATABASE_URL, or a cluster of its own
	@$(BIN)/python -m tests.support.postgres

proof: dev ## Tries every order, any succession and many workers at full depth, and breaks each rule once: minutes
	@$(BIN)/python -m tests.property.proof

mutants: dev ## Breaks the core at random, and shows that the fast tests notice: MUTANTS="--count 24 --seed 7"
	@$(BIN)/python -m tests.property.mutants $(MUTANTS)

test-browser: dev browser-tools ## Goes through the service's pages in a Chromium, as people do, and takes pictures of them
	@$(BIN)/python -m pytest -m browser $(if $(T),$(T),tests/browser) $(if $(K),-k "$(K)")

e2e: dev tests/e2e/node_modules/.installed ## Runs the service with the official Stripe CLI; installs that first
	@$(BIN)/python -m pytest -m e2e

way: dev ## Prints the files and functions of ours that one event passes, from the POST to the mail
	@$(BIN)/python -m tests.support.way

api-cases: dev ## Has schemathesis make 3,000 requests of /openapi.json, with a local Stripe: API="--cases 20000 --seed 7 --postgres"
	@$(BIN)/python -m tests.fuzz.api $(API)

mails: dev ## Writes every mail in every language to var/mails, and takes pictures of them where there is a Chromium
	@$(BIN)/python -m tests.support.pictures mails

pages: dev ## The same for every page and each of its states, to var/every-page
	@$(BIN)/python -m tests.support.pictures pages

pictures: dev browser-tools ## Takes the pictures of the console that README shows, of a made-up day
	@$(BIN)/python -m tests.browser.pictures

fuzz: dev ## Sends 100,000 requests to a receiver, nearly all of them wrong: FUZZ="--requests 1000000 --seed 7"
	@$(BIN)/python -m tests.fuzz $(FUZZ)

chaos: dev ## Kills, freezes and fills everything under load, and compares the end with the truth: CHAOS="--minutes 10 --sessions 3000"
	@$(BIN)/python -m tests.chaos $(CHAOS)

hosts: dev ## The same on twelve hosts in namespaces of their own, whose wires, servers and clocks fail: HOSTS="--minutes 10 --seed 7 --async"
	@$(BIN)/python -m tests.hosts $(HOSTS)

costs: dev bench-tools ## Measures what an event and an action cost each host, with 10,000,000 events there; ten minutes: COSTS="--rows 100000"
	@$(BIN)/python -m tests.hosts.costs $(COSTS)

ci: ## Does what CI does: on Debian as root, installs what is missing, then runs all but the benches and the proof
	@.ci/run

check: dev ## Format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

lock: dev ## Writes what pyproject.toml asks for into both lock files; what is locked and still fits stays: EXTRAS="--extra sentry"
	$(call compile)
	@install -C -m 644 $(LOCKS:%=var/lock/%) .

upgrade: dev ## The same, and raises all that is locked, or one package: P=ruff
	$(call compile,$(if $(P),--upgrade-package $(P),--upgrade))
	@install -C -m 644 $(LOCKS:%=var/lock/%) .

lock-check: dev ## Fails where `make lock` would change a lock file
	$(call compile)
	@for lock in $(LOCKS); do diff $$lock var/lock/$$lock || { echo "$$lock is stale: make lock"; exit 1; }; done

bench: dev bench-tools ## Measures beside the limits, with Debian's wrk and PostgreSQL; QUICK=--quick takes about two minutes
	@$(BIN)/python -m tests.bench $(QUICK)

growth: dev bench-tools ## Measures with 10,000,000 events beside 2,000, and prints the plans; a quarter of an hour; a minute: QUICK=--quick
	@$(BIN)/python -m tests.bench.growth $(QUICK) $(GROWTH)

bench-peers: dev bench-tools ## Measures beside dj-stripe and pinax-stripe-light, which it installs under var/peers; two minutes
	@$(BIN)/python -m tests.bench.peers

bench-tools:
	@command -v wrk > /dev/null && ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || { apt-get update -qq && apt-get install -qq --no-install-recommends wrk postgresql; }

# A test without a Chromium, or without React, is skipped, and says so.
browser-tools:
	@command -v chromium > /dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null || \
		{ apt-get update -qq && apt-get install -qq --no-install-recommends chromium; }
	@! command -v npm > /dev/null || $(MAKE) --no-print-directory tests/browser/node_modules/.installed

$(VENV)/service: requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.14 with its venv module is needed, and none was found"; exit 1; }
	@echo "Installing what the service needs into $(VENV), once: about half a minute."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt
	@touch $@

$(VENV)/dev: $(VENV)/service requirements-dev.txt
	@echo "Installing what its tests need into $(VENV)."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.txt
	@touch $@

tests/e2e/node_modules/.installed: tests/e2e/package-lock.json tests/e2e/install.sh
	@sh tests/e2e/install.sh
	@touch $@

tests/browser/node_modules/.installed: tests/browser/package-lock.json
	@npm ci --prefix tests/browser --ignore-scripts --no-audit --no-fund --silent
	@touch $@
