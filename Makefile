# Every target sets up what it needs in .venv; nothing has to be installed by hand but Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test quick coverage lint docs requirements install-hashed bench benchmarks clean

# The main job: tune, train and compress a pretrained model on real reviews, then the report.
demo: $(VENV)/.installed-all
	$(BIN)/python -m fastserve_core +experiment=movie_reviews

# Four workers, two on a core (conftest.py): one works while the other waits for a server, a node or a deadline.
WORKERS := -n 4
# The tests start many processes, each of which would compile our modules again.
unexport PYTHONDONTWRITEBYTECODE
QUICK := -m "not slow and not network"

# The whole test suite.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(WORKERS)

# The tests that take no more than a few seconds each, with a quarter of the examples of property tests.
quick: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(WORKERS) $(QUICK)

# How much of the code the quick tests run, their child processes included.
coverage: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(WORKERS) $(QUICK) --cov --cov-report=term

# Style, types and borders.
lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Ours and the peers side by side, in an environment of their own; BENCH=--quick for a first look.
bench:
	$(MAKE) VENV=.venv-bench benchmarks

benchmarks: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/train.py $(BENCH)
	$(BIN)/python benchmarks/tune.py $(BENCH)
	$(BIN)/python benchmarks/compress.py $(BENCH)
	$(BIN)/python benchmarks/generate.py $(BENCH)
	$(BIN)/python benchmarks/serve.py $(BENCH)

# The reference pages, from the code.
docs: $(VENV)/.installed-test
	$(BIN)/python docs/generate.py

# The pinned requirements with the hash of every file, and the table of dependencies. uv must find torch's build for CPUs.
requirements: $(VENV)/.installed-test
	$(BIN)/python requirements/generate.py

# FastServe with [all] in .venv, each file checked against its hash (Linux on x86-64, Python 3.11). What has no wheel is
# built with packages that are checked too.
install-hashed:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --require-hashes -r requirements/build.txt
	$(BIN)/python -m pip install --require-hashes --no-build-isolation -r requirements/all.txt
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e .

$(VENV)/.installed-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) .venv-bench build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage*
