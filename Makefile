# `make demo` runs the embedded recipe, `make test` every check, and `make docs` builds the documentation site.
# All of them first create .venv or bring it up to date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test docs format clean

demo: $(READY)
	$(BIN)/capo run shapes --run runs/shapes

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

docs: $(READY)
	$(BIN)/python -m mkdocs build --strict
	@echo "Read it with: python3 -m http.server --directory build/site"

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache src/*.egg-info

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,docs,front,tensorboard,ocr,ray,safety,serve,wandb]'
	touch $@
