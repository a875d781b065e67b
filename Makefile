# make demo   install into .venv, then fine-tune on the drawn catalogue
# make demo-interactive   install, then let ten simulated people look for drawn products by answering questions
# make test   install into .venv, then lint, type-check and run the tests (minutes, no network)
# make PYTHON=python3.12 …   with another Python

PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# One thread for each worker process; nothing is fetched while testing.
TESTING := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# A file's tests stay in one worker, because they share its models.
PYTEST := $(TESTING) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -q -ra

.DEFAULT_GOAL := help
.PHONY: help install demo demo-interactive test test-slow lint clean

help:
	@sed -n 's/^# make/make/p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "mmembed needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch first: what comes after must find it, and must not choose another build.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml recipes/ft_embedding.py

# They know the kind of product alone, and cannot answer every tenth question.
demo-interactive: $(INSTALLED)
	$(BIN)/python recipes/interactive.py --simulate 10 --query_template '{subcategory}' --answer_unknown 0.1 \
	  --output_dir runs/interactive

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(PYTEST) -m "not slow"

test-slow: $(INSTALLED)
	$(PYTEST) -m slow

# What tools and builds left; .venv stays, and so do results.
clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
