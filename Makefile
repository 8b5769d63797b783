# make demo and make test need Python 3.11 or newer and pip, nothing else: they make .venv and install into it.
# On a GPU machine name another build of torch, for example: make demo TORCH="torch>=2.8"

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
# Versions that were tested together; none with CONSTRAINTS=
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# Two workers with one thread each: more threads than cores make small models slower. A file stays with one of them, so
# that what its tests share, two ranks for example, is made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# All of them but torch, whose build TORCH names.
TESTED := $(VENV)/constraints.txt

# What Python sees as umekit.<room>, as setup.cfg maps it: links to the rooms, for mypy, which knows no such map.
TYPES := build/types
ROOMS := $(shell sed -n 's/^    umekit\.\([a-z_]*\) = \1$$/\1/p' setup.cfg)
MYPY ?= $(abspath $(BIN))/mypy

.PHONY: demo test test-newest test-floor test-all lint types measure format wheel clean

demo: $(VENV)/.demo
	@start=$$(date +%s); $(BIN)/umekit demo && echo "demo: $$(( $$(date +%s) - start )) s"

test: $(VENV)/.dev
	$(PYTEST) -m "not slow and not gpu"

# Before constraints.txt is renewed: the newest versions that setup.cfg allows.
test-newest:
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=

test-floor:
	$(MAKE) test VENV=.venv-floor CONSTRAINTS=constraints-floor.txt

test-all: $(VENV)/.dev
	$(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory types

types:
	@rm -rf $(TYPES) && mkdir -p $(TYPES)/umekit
	@ln -s $(CURDIR)/umekit/* $(addprefix $(CURDIR)/,$(ROOMS)) $(TYPES)/umekit
	@ln -s $(CURDIR)/benchmarks $(TYPES)
	cd $(TYPES) && $(MYPY) --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache umekit benchmarks

# Lines and files of the rooms; files and moves of a few trips.
measure: $(VENV)/.dev
	$(BIN)/python benchmarks/house.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) .venv-newest .venv-floor build dist *.egg-info umekit-demo

$(VENV)/.torch: $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "umekit needs Python 3.11 or newer, not " + sys.version.split()[0])'
	@echo "making $(VENV) and installing $(TORCH)"
	@start=$$(date +%s); $(PYTHON) -m venv $(VENV) \
		&& cat $(CONSTRAINTS) /dev/null | sed '/^torch==/d' > $(TESTED) && $(PIP) install -c $(TESTED) "$(TORCH)" \
		&& echo "install of torch: $$(( $$(date +%s) - start )) s"
	@touch $@

$(VENV)/.demo: $(VENV)/.torch setup.cfg
	@start=$$(date +%s); $(PIP) install -c $(TESTED) -e ".[demo]" && echo "install of umekit: $$(( $$(date +%s) - start )) s"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch setup.cfg
	@start=$$(date +%s); $(PIP) install -c $(TESTED) -e ".[dev]" \
		&& echo "install of umekit[dev]: $$(( $$(date +%s) - start )) s"
	@touch $@
