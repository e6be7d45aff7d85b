# Everything that a newcomer types. `make help` lists it. Setting up is quick when nothing has changed, asks for no
# password, and needs no network once everything is there.

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help setup run demo test lint types bench soak chaos setup-dev docs picture clean

# `make run POINTSMAN_HOME=somewhere`: make puts it into the environment; the services want it absolute.
ifneq ($(origin POINTSMAN_HOME),undefined)
ifeq ($(filter /% ~%,$(POINTSMAN_HOME)),)
override POINTSMAN_HOME := $(CURDIR)/$(POINTSMAN_HOME)
endif
export POINTSMAN_HOME
endif

PY := .venv/bin/python

help:  ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
	  || sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

setup:  ## Make everything ready: .venv; tmux and mosquitto where the system lets us install them
	@scripts/setup.sh run

run: setup  ## Set up, then run everything in the foreground (POINTSMAN_HOME=... for a second stack)
	@if sh -c ': >>/dev/fd/1 && : >>/dev/fd/2' 2>/dev/null; then exec .venv/bin/supervisord -c supervisord.conf; fi; \
	  .venv/bin/supervisord -c supervisord.conf 2>&1 | (trap '' INT; exec cat)  # after `su` the terminal is another's

demo: setup  ## The same with a scripted model: no account, no cost
	@exec $(PY) -m services.demo

setup-dev:  ## What the tests need beside that: tools, and the Claude Code CLI versions from npm
	@scripts/setup.sh dev
	@$(PY) -m tests.support.cli_versions
	@$(PY) -m tests.support.ccusage >/dev/null

test: setup-dev lint types  ## Set up, then lint, types and all tests
	$(PY) -m pytest -n 3 --dist=loadfile

lint:  ## Style and structure
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

types:  ## mypy
	.venv/bin/mypy

bench:  ## The figures of benchmarks/ (needs mosquitto)
	@scripts/setup.sh dev
	$(PY) -m benchmarks.run

soak:  ## The long run: 50 sessions, ten minutes, what every process holds (SOAK="--minutes 60")
	@scripts/setup.sh dev
	$(PY) -m benchmarks.soak $(SOAK)

chaos:  ## The crash test: kill everything, lose nothing (CHAOS="--seconds 600 --seed 7", see tests/chaos)
	@scripts/setup.sh dev
	$(PY) -m tests.chaos $(CHAOS)

docs:  ## What is made from tables: topics, AsyncAPI, dashboards
	$(PY) -m bus.asyncapi > docs/asyncapi.json
	$(PY) -m bus.describe > docs/topics.md
	$(PY) -m grafana.build

picture:  ## The picture of the README, from a run of the demo
	$(PY) -m services.demo.picture docs/picture.svg

clean:  ## Take away what make has made; your home stays
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
