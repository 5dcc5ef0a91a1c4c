# On a fresh machine: `make quickstart` or `make test`. Everything lands in .venv/.
PYTHON ?= python3
VENV := .venv
JOBS ?= 2
INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt
TAKES_A_WHILE := "Installing TensorFlow and the rest into $(VENV)/: 3 GB, some minutes"

.PHONY: help quickstart test lint format
help:
	@echo "make quickstart   install, train and attack small models, write a table"
	@echo "make test         install, run the tests (ARGS='tests/losses -x' for some)"
	@echo "make lint         check style and formatting"
	@echo "make format       mend what 'make lint' finds, where it can"
	@echo "JOBS=8             processes that the tests are spread over; 2 if not given"
	@echo "PYTHON=python3.12 chooses the interpreter that .venv is made with"

quickstart: $(VENV)/.installed
	$(VENV)/bin/tfssl-study quickstart

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

lint: $(VENV)/.installed-lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

format: $(VENV)/.installed-lint
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

# The stamps make a second `make` start at once; newer requirements install again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "tfssl needs Python 3.10 or newer, and '$(PYTHON)' is not:" \
			"name one, as in 'make PYTHON=python3.12 $(MAKECMDGOALS)'" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: setup.cfg constraints.txt | $(VENV)/.made
	@echo $(TAKES_A_WHILE)
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: setup.cfg constraints.txt | $(VENV)/.made
	@echo $(TAKES_A_WHILE)
	$(INSTALL) --editable '.[test]'
	@touch $(VENV)/.installed $@

# Without TensorFlow, so that style can be checked within seconds.
$(VENV)/.installed-lint: constraints.txt | $(VENV)/.made
	$(INSTALL) ruff
	@touch $@
