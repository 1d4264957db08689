# Each target works as the only command on a fresh machine that has Python 3.11 or newer.
#   make demo [SCREEN=path.h5ad]   from a screen to targets, on simulated cells or on your screen,
#                                  with PERTURBATION=column and CONTROL=label; results are in demo/
#   make test                      all tests, and pictures compared with those of before
#   make pictures                  those pictures anew, after a change of figures that is meant
#   make test-kernel               tests of numbers again, by plain kernels in place of vector ones
#   make test-oldest               all tests, with the oldest versions that pyproject.toml allows
#   make interoperation            tests with other packages of single cells, in a second environment
#   make fuzz [MINUTES=10]         generated inputs, until one is answered wrongly
#   make lint                      ruff, import-linter, mypy
#   make doc                       the pages, in doc/_build/html, and a check of the links within
#   make tutorials DATA=folder     runs the tutorials on real screens; their outputs are kept
#   make release                   the distributions, checked and installed, and what is left to do
#   make clean                     removes what was built, the environment included

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST_ARGS ?=
SPHINXOPTS ?=
MINUTES ?= 10
TUTORIALS ?= $(wildcard doc/tutorials/screens/*.py)
# torch, MKL and oneDNN; what a processor does not have is not read
KERNEL ?= ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41
NUMBERS := tests/models tests/inspection tests/test_base.py tests/test_distributions.py \
    tests/test_nn.py tests/test_objectives.py tests/test_precision.py tests/test_prediction.py \
    tests/test_scoring.py tests/test_training.py tests/sparsity
OLDEST := .venv-oldest
INTEROPERATION := .venv-interoperation
RELEASE := .venv-release
INTO_RELEASE := $(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test pictures test-kernel test-oldest interoperation fuzz lint doc tutorials release clean

demo: $(VENV)/.demo
	mkdir -p demo
	$(if $(SCREEN),,$(BIN)/skpert simulate demo/screen.h5ad --overwrite)
	MPLBACKEND=Agg $(BIN)/skpert fit "$(or $(SCREEN),demo/screen.h5ad)" -o demo --overwrite \
	    $(if $(PERTURBATION),--perturbation "$(PERTURBATION)") $(if $(CONTROL),--control "$(CONTROL)")

test: $(VENV)/.test
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal --mpl $(PYTEST_ARGS)

pictures: $(VENV)/.test
	$(ONE_THREAD) $(BIN)/python -m pytest tests/plotting/test_pictures.py -q \
	    --mpl-generate-path=tests/plotting/pictures -k "test_map or test_drawing"

test-kernel: $(VENV)/.test
	$(ONE_THREAD) $(KERNEL) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(NUMBERS) $(PYTEST_ARGS)

# versions of one day warn of each other's later ones
test-oldest: $(OLDEST)/.test
	$(ONE_THREAD) $(OLDEST)/bin/python -m pytest -n 2 --dist worksteal -W ignore::DeprecationWarning $(PYTEST_ARGS)

# one process: each compiles for its own
interoperation: $(INTEROPERATION)/.test
	$(ONE_THREAD) MPLBACKEND=Agg $(INTEROPERATION)/bin/python -m pytest tests/interoperation $(PYTEST_ARGS)

fuzz: $(VENV)/.test
	end=$$(( $$(date +%s) + 60 * $(MINUTES) )); while [ $$(date +%s) -lt $$end ]; do \
	    $(ONE_THREAD) FUZZ_EXAMPLES=50 $(BIN)/python -m pytest -n 2 --dist worksteal -q tests/properties || exit 1; \
	done

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

doc: $(VENV)/.doc
	MPLBACKEND=Agg $(BIN)/python -m sphinx -W --keep-going -b html $(SPHINXOPTS) doc doc/_build/html
	$(BIN)/linkchecker --no-status doc/_build/html/index.html

tutorials: $(VENV)/.doc
	@test -d "$(DATA)" || { echo "Name the folder that holds the screens: make tutorials DATA=folder"; exit 1; }
	SKPERT_DATA="$(abspath $(DATA))" $(ONE_THREAD) $(BIN)/jupytext --to ipynb --execute $(TUTORIALS)

release: $(VENV)/.torch
	rm -rf dist build
	$(INSTALL) build twine
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	for extras in "" "[data,plot,report]"; do \
	    rm -rf $(RELEASE) && $(PYTHON) -m venv $(RELEASE) && \
	    $(INTO_RELEASE) -r constraints.txt && $(INTO_RELEASE) "$$(ls dist/*.whl)$$extras" && \
	    $(RELEASE)/bin/python .ci/installed.py README.md || exit 1; \
	done
	$(INTO_RELEASE) --force-reinstall --no-deps dist/*.tar.gz
	$(RELEASE)/bin/python .ci/installed.py README.md
	sha256sum dist/*.tar.gz
	@echo "Left to do: .ci/run and make test-oldest on this commit; the version in skpert/__init__.py,"
	@echo "CITATION.cff and recipe/meta.yaml, and the hash there; its date in CHANGELOG.md;"
	@echo "a signed tag; twine upload dist/*; make doc, and upload its pages."

clean:
	rm -rf $(VENV) $(OLDEST) $(INTEROPERATION) $(RELEASE) build dist skpert.egg-info doc/_build doc/api doc/auto_examples doc/sg_execution_times.rst
	rm -rf .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find skpert tests examples benchmarks doc -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# torch comes first and pinned: every later install has to keep it.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "skpert needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -r constraints.txt
	touch $@

$(OLDEST)/.test: constraints-oldest.txt pyproject.toml
	python3.11 -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	    -c constraints-oldest.txt -e ".[test]"
	touch $@

$(INTEROPERATION)/.test: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(INTEROPERATION)
	$(INTEROPERATION)/bin/python -m pip install --quiet --disable-pip-version-check -r constraints.txt
	$(INTEROPERATION)/bin/python -m pip install --quiet --disable-pip-version-check \
	    -c constraints.txt -e ".[interoperation]"
	touch $@

$(VENV)/.demo: EXTRAS = data,report
$(VENV)/.test: EXTRAS = test
$(VENV)/.doc: EXTRAS = doc
$(VENV)/.demo $(VENV)/.test $(VENV)/.doc: $(VENV)/.torch pyproject.toml
	$(INSTALL) -e ".[$(EXTRAS)]"
	touch $@
