# Each goal makes what it needs: a virtual environment in .venv with the pinned packages of constraints.txt.
#   make demo    build edge for the CPU, upscale a photograph, write out/demo.png and print figures
#   make demo-zoom  zoom over a photograph: out/zoom.mp4, and out/zoom.png to look at
#   make test    the tests that need no GPU: twenty minutes on two cores
#   make coverage  the same tests, and which lines of the package they run
#   make mutation  small faults in ten modules, and which of them the modules' own tests notice: benchmarks/mutation.py
#   make check   formatting, lint, strict types, tests
#   make api     docs/api.md, the reference of the public names, from their docstrings
#   make package  source distribution and wheel in dist/, checked as PyPI checks them
#   make clean   remove everything that make made

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# PyPI's torch for Linux brings gigabytes of CUDA that zoomrt does not use; this index has the same version without.
# It is a saving, not a need: where it cannot be reached, the next step takes torch from wherever pip finds it.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# Test processes; each takes up to 2 GB. A file's tests stay together, because they share what is slow to build.
WORKERS ?= 2
PARALLEL := --numprocesses $(WORKERS) --dist loadfile

.PHONY: demo demo-zoom test coverage mutation check lint api package clean

demo: $(VENV)/.installed
	$(BIN)/python -m zoomrt.cli.demo

demo-zoom: $(VENV)/.installed
	$(BIN)/python -m zoomrt.cli.demo_zoom

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(PARALLEL)

coverage: $(VENV)/.installed
	$(BIN)/python -m pytest $(PARALLEL) --cov

mutation: $(VENV)/.installed
	@$(PIP) cosmic-ray
	nice -n 15 $(BIN)/python -m benchmarks.mutation

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

api: $(VENV)/.installed
	$(BIN)/python docs/make_api.py

package: $(VENV)/.installed
	@$(PIP) build twine
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) out build dist zoomrt.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
	    "error: zoomrt needs Python 3.10 or newer, $(PYTHON) is %d.%d; run: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(PIP) --retries 0 --timeout 15 --no-deps --index-url $(TORCH_INDEX) torch >/dev/null 2>&1 || true
	@$(PIP) --editable '.[dev]'
	@touch $@
