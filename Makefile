# Everything a newcomer or a machine needs, in one place. `make help` lists it.
# Needs Python >= 3.11 with venv; a C++17 compiler is used where there is one (secateur doctor says which kernels run).

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# What `make demo` needs and no more; the whole installation has it too.
LIGHT  := $(VENV)/.light

# The package is installed in place, so Python edits need no reinstall; these files do.
SOURCES := pyproject.toml constraints.txt $(wildcard CMakeLists.txt native/*/*.cpp native/*/*.h)

# Each pytest worker imports torch; two of them on two cores still save time on the whole suite. Bytecode is written: a
# dozen processes would compile the package and the tests anew.
WORKERS ?= 2
PYTEST  := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format types docs check sanitize bench clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

setup: $(STAMP)  ## create .venv and install Secateur with its development tools into it

define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Secateur needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12, say")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV), once: $(2) with the CPU build of PyTorch (README: the right build for your machine)"
	$(BIN)/python -m pip install $$(test -t 1 || echo --quiet) --disable-pip-version-check -c constraints.txt -e '.[$(1)]'
endef

$(STAMP): $(SOURCES)
	$(call install,dev,1.7 GB)
	@touch $(LIGHT) $@

$(LIGHT): $(SOURCES)
	$(call install,lab,1.1 GB)
	@touch $@

demo: $(LIGHT)  ## the main job: prune before training, train, compare, print the table, draw the mask
	$(BIN)/secateur demo

test: $(STAMP)  ## run every test
	$(PYTEST)

lint: $(STAMP)  ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## pyright over the package and papers/
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(STAMP)  ## build the documentation, strictly: an undocumented public name or a dead reference fails
	$(BIN)/sphinx-build -W -n --keep-going -q -E -b html docs docs/_build/html
	@echo "docs: docs/_build/html/index.html"

check: lint types docs test  ## everything that must be green before a commit

# Tests that reach the kernels, on kernels of their own: built apart, beside those of the installation.
SANITIZED := build/sanitize
NATIVE_TESTS := tests/unit/sparse tests/unit/coding tests/unit/test_native.py tests/unit/test_zeros.py $(wildcard tests/unit/test_select*.py)

# libstdc++ beside libasan, which wants to know how C++ throws before the first library does. What torch and Python
# leave to the end of the process is no leak of ours.
sanitize: $(STAMP)  ## the tests of the kernels under AddressSanitizer and UndefinedBehaviorSanitizer (GCC, Linux)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(SANITIZED)/site \
	  -C build-dir=$(SANITIZED)/cmake -C cmake.build-type=RelWithDebInfo -C cmake.define.SECATEUR_SANITIZE=ON .
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1 PYTHONPATH=tests \
	  SECATEUR_SANITIZED=$(SANITIZED)/site $(BIN)/python -m pytest -p sanitized --capture=sys -m 'not slow' --timeout 600 $(NATIVE_TESTS)

bench: $(STAMP)  ## the benchmarks behind the figures in the documentation
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## remove what was built, keep .venv
	rm -rf build docs/_build docs/_generated .pytest_cache .ruff_cache .hypothesis
