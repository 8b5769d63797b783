# make demo and make test need Python 3.11 or newer and pip, nothing else: they make .venv and install into it.
# On a GPU machine name another build of torch, for example: make demo TORCH="torch>=2.8"

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# Two workers with one thread each: more threads than cores make small models slower.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

.PHONY: demo test test-all lint format wheel clean

demo: $(VENV)/.demo
	@start=$$(date +%s); $(BIN)/umekit demo && echo "demo: $$(( $$(date +%s) - start )) s"

test: $(VENV)/.dev
	$(PYTEST) -m "not slow and not gpu"

test-all: $(VENV)/.dev
	$(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# A strict editable install is a tree of links: made anew, so that mypy sees files added since.
	$(PIP) install --no-deps -e . --config-settings editable_mode=strict
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info umekit-demo

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "umekit needs Python 3.11 or newer, not " + sys.version.split()[0])'
	@echo "making $(VENV) and installing $(TORCH)"
	@start=$$(date +%s); $(PYTHON) -m venv $(VENV) && $(PIP) install "$(TORCH)" \
		&& echo "install of torch: $$(( $$(date +%s) - start )) s"
	@touch $@

$(VENV)/.demo: $(VENV)/.torch setup.cfg
	@start=$$(date +%s); $(PIP) install -e ".[demo]" && echo "install of umekit: $$(( $$(date +%s) - start )) s"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch setup.cfg
	@start=$$(date +%s); $(PIP) install -e ".[dev]" --config-settings editable_mode=strict \
		&& echo "install of umekit[dev]: $$(( $$(date +%s) - start )) s"
	@touch $@
