.PHONY: demo test slow lint bench clean

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

demo: $(INSTALLED)  ## the whole road on real text: runs, laws, plans, configs, report
	$(BIN)/scaling demo --out demo_out

test: $(INSTALLED)  ## minutes
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

slow: $(INSTALLED)  ## the long tests: the whole demo, storms of kills, every public corpus
	$(BIN)/python -m pytest -m slow  # one after another: some measure time, some start a Slurm or a Ray

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

bench: $(INSTALLED)
	@for script in $$(grep -rl --include='*.py' __main__ benchmarks | grep -v -e gpu/ -e fits/peers.py | sort); do \
		echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv demo_out vocab_curve_out build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
