# Each target works as the only command on a fresh machine that has Python 3.11 or newer.
#   make demo [SCREEN=path.h5ad]   from a screen to targets, on simulated cells or on your screen
#   make test                      all tests
#   make lint                      ruff, import-linter, mypy
#   make doc                       the pages, in doc/_build/html
#   make clean                     removes what was built, the environment included

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST_ARGS ?=
SPHINXOPTS ?=

.PHONY: demo test lint doc clean

demo: $(VENV)/.demo
	$(if $(SCREEN),SKPERT_SCREEN="$(SCREEN)") MPLBACKEND=Agg $(BIN)/python examples/plot_screen_to_targets.py

test: $(VENV)/.test
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

doc: $(VENV)/.doc
	MPLBACKEND=Agg $(BIN)/python -m sphinx -W --keep-going -b html $(SPHINXOPTS) doc doc/_build/html

clean:
	rm -rf $(VENV) build skpert.egg-info doc/_build doc/api doc/auto_examples doc/sg_execution_times.rst
	rm -rf .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find skpert tests examples benchmarks doc -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# torch comes first and pinned: every later install has to keep it.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "skpert needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -r constraints.txt
	touch $@

$(VENV)/.demo: EXTRAS = plot,data
$(VENV)/.test: EXTRAS = test
$(VENV)/.doc: EXTRAS = doc
$(VENV)/.demo $(VENV)/.test $(VENV)/.doc: $(VENV)/.torch pyproject.toml
	$(INSTALL) -e ".[$(EXTRAS)]"
	touch $@
