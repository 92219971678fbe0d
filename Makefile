# `make` lists the targets. Each one sets up .venv by itself and is quick the second time.

PYTHON ?= python3.12 python3.11 python3.13 python3.14 python3
GAME ?= coinrun
DATA ?= data/$(GAME)
WORLD ?= checkpoints/my-world
PRESET ?= nano

VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := pyproject.toml constraints.txt
PLAY_STAMP := $(VENV)/.installed-play
RUN_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
PROCGEN_STAMP := $(VENV)/.installed-procgen
ATARI_STAMP := $(VENV)/.installed-atari
AGENTS_STAMP := $(VENV)/.installed-agents

# On a terminal pip shows its progress; elsewhere only what goes wrong.
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --no-warn-conflicts \
	$$([ -t 1 ] || echo -qq) -c constraints.txt
SET_UP_FAILED = { echo "error: the set-up of $(VENV) failed: see the message above," \
	"delete $(VENV) and run make again" >&2; exit 2; }

# A name on the path may be a stub that runs nothing, and a Python may lack venv: so try them.
define make_venv
if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	echo "Setting up $(VENV) (once, about a minute) ..."; \
	found=; for python in $(PYTHON); do \
		if $$python -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
			2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "error: none of '$(PYTHON)' is Python 3.11 to 3.14 with venv: install" \
			"one, or name it with make PYTHON=..." >&2; exit 2; \
	fi; \
	$$found -m venv $(VENV) || $(SET_UP_FAILED); \
fi
endef

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

HAS_PROCGEN = [ "$$(uname -sm)" = "Linux x86_64" ] && \
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})'

.DEFAULT_GOAL := help
.PHONY: help play install test soak lint format bench data train procgen atari agents clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

play: $(PLAY_STAMP) ## play the shipped world (ARGS="--prompt image.png" and the like)
	@$(BIN)/python -m play $(ARGS)

install: $(RUN_STAMP) ## set up PyTorch and what else trains a world, too

test: lint ## lint and the tests
	@if $(HAS_PROCGEN); then $(MAKE) --silent $(PROCGEN_STAMP); else \
		echo "Procgen has no build for this machine: tests that record games will skip"; fi
	@$(PYTEST) -m "not soak" $(ARGS)

soak: $(DEV_STAMP) ## the tests that take longest
	@$(PYTEST) -m soak $(ARGS)

lint: $(DEV_STAMP) ## check format, style and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/ty check genie play train examples

format: $(DEV_STAMP) ## format the code, fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(DEV_STAMP) ## measure speed: a table, and bench/bench.json (ARGS="--only frames")
	@$(BIN)/python -m tests.benchmarks $(ARGS)

data: procgen ## record plain CoinRun into data/coinrun (DATA=, GAME=)
	@$(BIN)/python examples/record_game.py --game $(GAME) --plain --out $(DATA) $(ARGS)

train: $(RUN_STAMP) ## train a world from data/coinrun into checkpoints/my-world (DATA=, WORLD=, PRESET=)
	@$(BIN)/python -m train --data $(DATA) --out $(WORLD) --preset $(PRESET) $(ARGS)

procgen: $(RUN_STAMP) ## install the Procgen games (Linux x86-64, Python 3.11 or 3.12)
	@if $(HAS_PROCGEN); then $(MAKE) --silent $(PROCGEN_STAMP); else \
		echo "error: Procgen is built for Linux x86-64 with Python 3.11 or 3.12 only, not for" \
			"$$(uname -sm) with $$($(BIN)/python --version)" >&2; exit 2; fi

atari: $(ATARI_STAMP) ## install the Atari games and Gymnasium

agents: $(AGENTS_STAMP) ## install what learns to play: Stable-Baselines3, Gymnasium, Matplotlib

clean: ## remove .venv, caches and build output; data/, runs/ and checkpoints/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find genie train play examples tests -name __pycache__ -prune -exec rm -rf {} +

$(PLAY_STAMP): $(REQUIREMENTS)
	@$(make_venv); $(PIP_INSTALL) -e . || $(SET_UP_FAILED)
	@touch $@

$(RUN_STAMP): $(REQUIREMENTS)
	@$(make_venv); $(PIP_INSTALL) -e '.[train]' || $(SET_UP_FAILED)
	@touch $(PLAY_STAMP) $@

$(DEV_STAMP): $(REQUIREMENTS)
	@$(make_venv); $(PIP_INSTALL) -e '.[dev]' || $(SET_UP_FAILED)
	@touch $(PLAY_STAMP) $(RUN_STAMP) $@

# Without dependencies: their declared numpy<2 and cffi<2 are older than what they run with.
$(PROCGEN_STAMP): $(RUN_STAMP)
	@echo "Installing Procgen ..."
	@$(PIP_INSTALL) --no-deps procgen-mirror gym3 gym gym-notices cloudpickle cffi pycparser \
		|| $(SET_UP_FAILED)
	@touch $@

$(ATARI_STAMP): $(RUN_STAMP)
	@$(PIP_INSTALL) -e '.[atari]' || $(SET_UP_FAILED)
	@touch $@

$(AGENTS_STAMP): $(RUN_STAMP)
	@$(PIP_INSTALL) -e '.[agents]' || $(SET_UP_FAILED)
	@touch $@
