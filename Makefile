# `make demo` and `make test` set everything up first: .venv from the system's Python, the project in it, then they run.
# Setting up again is instant until pyproject.toml or constraints.txt changes. PYTHON=... chooses the Python.
.DEFAULT_GOAL := help
.PHONY: help demo test lint coverage docs package setup clean

PYTHON ?=
# Compiled bytecode is kept even where the environment says otherwise: else every process compiles torch again.
unexport PYTHONDONTWRITEBYTECODE
DEMO := runs/demo

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.* ## /make \1\t/p' Makefile

demo: setup ## Train six models on the bundled digits, perturb their inputs and write a report (about ten minutes)
	.venv/bin/noisyrnn compare --models noisy,lipschitz,antisymmetric,cornn,exprnn,lstm --dataset digits --seeds 3 \
		--workers 2 --output $(DEMO)

test: setup ## Run the tests (about seven minutes on two cores)
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist worksteal

lint: setup ## Check style and types
	.venv/bin/python -m ruff check
	.venv/bin/python -m ruff format --check
	.venv/bin/python -m mypy

coverage: setup ## Run the tests and fail below 90 % of lines
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist worksteal --cov=noisyrnn --cov-report=term-missing:skip-covered \
		--cov-fail-under=90

docs: setup ## Build the documentation in build/docs
	.venv/bin/python -m sphinx -W --keep-going -b html -q docs build/docs

package: setup ## Build the source archive and the wheel in dist/, check them, and try the wheel in an environment of its own
	sh scripts/package.sh

setup: ## Make .venv and install the project in it, where that is not done yet
	@PYTHON="$(PYTHON)" sh scripts/setup.sh

clean: ## Remove .venv and every cache; runs stay
	rm -rf .venv build dist .pytest_cache .hypothesis .ruff_cache .mypy_cache .coverage src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
