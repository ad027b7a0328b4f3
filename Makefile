# The two commands a reader needs: `make course` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help course test lint pytest nbval lab lock clean

# Python 3.11 or newer: PYTHON=/path/to/python chooses another one.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

CHAPTERS ?=
DEVICE ?=
SCALE ?=
JOBS ?=
COURSE_OPTIONS := $(if $(strip $(CHAPTERS)),--chapters "$(CHAPTERS)") $(if $(DEVICE),--device "$(DEVICE)") \
	$(if $(SCALE),--scale "$(SCALE)") $(if $(JOBS),--jobs "$(JOBS)")

# One test worker a core; each worker keeps to one thread so that they do not fight. A test or cell
# that hangs is ended after a quarter of an hour.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --timeout 900
NOTEBOOKS := $(sort $(wildcard notebooks/[0-9]*.ipynb))

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

# Stamped: a second run installs nothing unless the pins have changed.
$(INSTALLED): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: Python 3.11 or newer is needed; say PYTHON=/path/to/python" >&2; exit 2; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

course: $(INSTALLED)  ## prepare everything, run the chapters: CHAPTERS="03 04" DEVICE=cpu SCALE=1.0 JOBS=2
	$(BIN)/vlmcourse course $(COURSE_OPTIONS)

test: lint pytest nbval  ## ruff, the tests, and the notebooks against their committed outputs

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

pytest: lint
	$(PYTEST) --dist loadfile

# The chapters need only what is in the repository: they make their own clips.
nbval: pytest
ifneq ($(NOTEBOOKS),)
	$(PYTEST) --dist loadscope --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg \
		--nbval-kernel-name python3 $(NOTEBOOKS)
else
	@echo "no notebooks to check"
endif

lab: $(INSTALLED)  ## open the course in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=. notebooks

# The refused packages (see CONTRIBUTING.md) end constraints.txt and must survive a new lock.
lock: UV := $(shell command -v uv || echo "$(BIN)/uv")
lock:  ## compile constraints.txt again (needs uv); pins stay unless UPGRADE=--upgrade
	@command -v "$(UV)" > /dev/null || { echo "error: uv is needed: pip install uv" >&2; exit 2; }
	sed -n '/^# Refused:/,$$p' constraints.txt > .refused.tmp
	cp constraints.txt .constraints.tmp
	env -u UV_FIND_LINKS "$(UV)" pip compile pyproject.toml --extra dev --extra speech --python-version 3.11 \
		--universal --constraint .refused.tmp --quiet $(UPGRADE) --custom-compile-command "make lock" \
		--output-file .constraints.tmp
	cat .constraints.tmp .refused.tmp > constraints.txt
	rm -f .constraints.tmp .refused.tmp

clean:  ## remove what runs and tests left (the virtual environment stays)
	rm -rf runs .pytest_cache .ruff_cache build vlmcourse.egg-info data/world data/cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
