# The commands that the README names and continuous integration runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST_FLAGS ?= -n 2
# Two processes on two cores: more threads than that only wait.
test test-slow: export OMP_NUM_THREADS = 1

.PHONY: setup quickstart test test-slow lint clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, this is " + sys.version.split()[0] + "; call make with PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

setup: $(VENV)/.installed

quickstart: setup
	$(BIN)/shiftbench run quick

test: setup
	$(BIN)/python -m pytest $(TEST_FLAGS) -m "not slow and not gpu"

test-slow: setup
	$(BIN)/python -m pytest $(TEST_FLAGS) -m "slow"

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
