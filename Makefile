# `make check` is what CI runs. The others are its parts, for an environment that is already there (`make env`).
.PHONY: check env format lint types test coverage study clean

BIN ?= .venv/bin

check:
	bash .ci/run

env:
	python3 -m venv .venv
	.venv/bin/pip install -q -e ".[dev]"

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/pyright

test:
	$(BIN)/python -m pytest

coverage:
	$(BIN)/python -m pytest --numprocesses 2 --cov --cov-report term

study:
	$(BIN)/python launch.py studies/ablation.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .coverage .coverage.* htmlcov
