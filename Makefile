# The commands of staydown. `make demo` and `make test` are the two that a newcomer needs.
PYTHON ?= python3
BIN := .venv/bin
# Two BLAS threads on matrices as small as PDQ's double the work and halve nothing.
export OPENBLAS_NUM_THREADS = 1
export OMP_NUM_THREADS = 1
# More options of the benchmarks, as BENCH="--peers-python PYTHON --hma FOLDER".
BENCH ?=

# generic.json holds hashes of blank frames, the lock those of libraries.
SCANNED = --exclude-files '(^|/)(generic\.json|__pycache__|results|plots)(/|$$)' \
  hashing indexer service benchmarks deploy docs tests .ci README.md SECURITY.md CHANGELOG.md Makefile pyproject.toml \
  Dockerfile compose.yaml

.PHONY: setup demo test quick soak lint bench lock sbom secrets clean

setup: .venv/setup.done
demo: .venv/setup.done
	$(BIN)/python -m benchmarks.demo
test: .venv/test.done
	$(BIN)/pytest -m "not soak" --numprocesses 2 --dist loadfile --cov --cov-report=term --cov-fail-under=95
quick: .venv/test.done
	$(BIN)/pytest -m "not slow and not soak" --numprocesses 2 --dist loadfile
soak: .venv/test.done
	$(BIN)/pytest -m soak
lint: .venv/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive hashing indexer service
bench: .venv/test.done
	$(BIN)/python -m benchmarks.run --short $(BENCH)
# The versions and hashes that the container installs; needs uv.
lock:
	echo 'setuptools>=77' | uv pip compile --quiet --upgrade pyproject.toml - --extra postgres --extra queue --universal \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -o requirements.lock
# What the container has in it, as CycloneDX.
sbom: .venv/test.done
	$(BIN)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible \
	  --of JSON -o sbom.cdx.json
# Finds of the secret scan that a person looked at and took for none; tests/test_supply.py knows of any other.
secrets: .venv/test.done
	$(BIN)/detect-secrets scan --all-files $(SCANNED) > .secrets.baseline
clean:
	rm -rf .venv *.egg-info

# uv where it is installed, else venv and pip.
.venv/bin/python:
	@if command -v uv >/dev/null 2>&1; then uv venv --quiet --seed --python $(PYTHON) .venv; \
	elif $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv .venv; \
	else echo "This Python has no venv module: on Debian, apt-get install python3-venv" >&2; exit 1; fi
.venv/setup.done: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@
.venv/test.done: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ .venv/setup.done
