PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test docs browse setup format clean soak

demo: setup  ## train small spiking networks on bundled digits and write a report
	$(BIN)/python -m experiments.demo --out demo

test: setup  ## lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest -n 2

browse:  ## looks at the built site in headless Chromium
	$(BIN)/python docs/_ext/browse.py

docs: setup $(VENV)/.docs  ## the site, in docs/_build/html; runs the code of every page
	$(BIN)/python -m sphinx -W --keep-going -j 2 -b html docs docs/_build/html

$(VENV)/.docs: docs/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	@touch $@

soak: setup  ## kills, faults, damage and bad input for every script: about an hour; SOAK="--seed 3 --only kills" chooses
	PYTHONPATH=tests:. $(BIN)/python -m soak $(SOAK)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "jsnn needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

clean:
	rm -rf $(VENV) demo docs/_build docs/reference .pytest_cache .ruff_cache
