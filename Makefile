# `make demo` and `make test` do everything a fresh checkout needs; both install first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test test-core test-integration test-parts check lock quality bench clean

install: $(STAMP)

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "USP needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 4; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: install
	$(BIN)/usp demo

# The numerical core and then the parts keep one processor busy while the services wait for each
# other.
test: install
	$(MAKE) -j2 test-core test-integration test-parts

test-core: install
	$(BIN)/python -m pytest tests/predictor tests/quality

test-integration: install
	$(BIN)/python -m pytest tests/integration

test-parts: install
	$(BIN)/python -m pytest tests --ignore tests/predictor --ignore tests/quality --ignore tests/integration

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Needs `uv`; resolves for every supported platform and Python at once.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --quiet \
	  --custom-compile-command 'make lock' pyproject.toml -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --quiet \
	  --custom-compile-command 'make lock' --allow-unsafe --extra dev pyproject.toml -o requirements-dev.lock

quality: install
	$(BIN)/python -m tests.quality --ablation

bench: install
	$(BIN)/usp bench step

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build *.egg-info
