# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Both create .venv and install into it when something has changed.

PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
STUDIES := scenarios paper_studies gap_growth variants large_scale distributions mlp_sizes frontier composition wall_clock
STAMP := .venv/installed

.PHONY: demo test lint types layers docs tests test-slow test-triton test-saelens \
	experiments-quick clean

demo: $(STAMP)
	$(BIN)/python experiments/demo.py

test: lint types layers docs tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports --no-cache

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

tests: $(STAMP)
	$(BIN)/python -m pytest -q -n $(JOBS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

test-triton: $(STAMP)
	$(BIN)/python -m pip install -q "triton>=3.6"
	$(BIN)/python -m pytest -q tests/test_triton*.py

test-saelens: $(STAMP)
	$(PYTHON) -m venv .venv-saelens
	.venv-saelens/bin/python -m pip install -q -c constraints.txt torch numpy
	.venv-saelens/bin/python -m pip install -q -e ".[fast,activations,test]" "sae-lens==6.54.*"
	.venv-saelens/bin/python -m pytest -q -m slow tests/test_saelens.py

experiments-quick: $(STAMP)
	for s in $(STUDIES); do $(BIN)/python experiments/$$s.py --quick --again --jobs $(JOBS) || exit 1; done

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[fast,activations,interpret,plot,test,docs]"
	touch $(STAMP)

clean:
	rm -rf .venv .venv-saelens docs/_build docs/gallery docs/api
