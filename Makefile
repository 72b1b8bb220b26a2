# Everything sets itself up: `make demo` and `make test` work in a fresh checkout. See CONTRIBUTING.md.
#
#   PYTHON=python3.12   the interpreter that .venv is made from
#   JOBS=4              compiler processes at a time

PYTHON ?= python3
JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 3600
BENCH_ARGS ?= run all

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
ifndef SIDE_BY_SIDE
.NOTPARALLEL:
endif
.DEFAULT_GOAL := help
export PYTHON JOBS

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
STAGE := scripts/stage.sh

# Warnings stop the build in CI, where the compiler is known; a newer one may warn of something new.
WERROR := $(if $(CI),ON,OFF)

NATIVE_SOURCES := $(shell find native cmake CMakeLists.txt -type f -not -path 'native/tests/*' -not -path 'native/fuzz/*')
PACKAGE_SOURCES := pyproject.toml README.md LICENSE $(NATIVE_SOURCES) $(shell find src -type f -not -name '*.pyc')

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

.PHONY: setup
setup: $(STAMPS)/package ## Install what is missing, make .venv and install weightstream into it

.PHONY: demo
demo: $(STAMPS)/package ## Stream a real and a made model, and compare them bit by bit
	@$(BIN)/python scripts/demo.py

# Unpacking packages and checking types occupies one core, and waits: compilers get the rest.
.PHONY: test
test: $(STAMPS)/build-tools $(STAMPS)/system-test ## Run every test: lint, C++ under sanitizers, a minute of fuzzing, pytest
	@$(MAKE) --no-print-directory -j2 --output-sync=line SIDE_BY_SIDE=1 native-test lint $(STAMPS)/servers
	@$(MAKE) --no-print-directory fuzz-minute
	@$(MAKE) --no-print-directory pytest

.PHONY: lint
lint: $(STAMPS)/tools ## Run ruff, mypy --strict and clang-format
	@$(STAGE) "ruff check" $(BIN)/ruff check .
	@$(STAGE) "ruff format" $(BIN)/ruff format --check --config 'format.exclude = ["*.md"]' .
	@$(STAGE) "mypy --strict" $(BIN)/mypy
	@$(STAGE) "clang-format" scripts/check-format.sh

.PHONY: native-test
native-test: $(STAMPS)/build-tools $(STAMPS)/system-test ## Run the core's C++ tests under ASan + UBSan and under TSan
	@$(STAGE) "C++ tests, ASan + UBSan" scripts/native-test.sh asan
	@$(STAGE) "C++ tests, TSan" scripts/native-test.sh tsan

.PHONY: fuzz
fuzz: $(STAMPS)/build-tools $(STAMPS)/system-test ## Fuzz for an hour (FUZZ_SECONDS=3600)
	@$(STAGE) "fuzzers, $(FUZZ_SECONDS) s" scripts/fuzz.sh $(FUZZ_SECONDS)

.PHONY: fuzz-minute
fuzz-minute: $(STAMPS)/build-tools $(STAMPS)/system-test
	@$(STAGE) "fuzzers, 60 s" scripts/fuzz.sh 60

.PHONY: pytest
pytest: $(STAMPS)/package $(STAMPS)/servers ## Run the Python tests against the installed package (PYTEST_ARGS="-k name")
	@$(STAGE) "pytest" scripts/pytest.sh $(BIN) $(PYTEST_ARGS)

.PHONY: engines
engines: $(STAMPS)/package ## Run vLLM with weightstream end to end, and SGLang's modules (ENGINES_ARGS="-k name")
	@$(STAGE) "engines" scripts/engines.sh $(BIN)/python $(ENGINES_ARGS)

.PHONY: bench
bench: $(STAMPS)/package ## Run the benchmarks (BENCH_ARGS="run cold-cpu", "list", "--help")
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

.PHONY: format
format: $(STAMPS)/tools ## Format the Python and the C++ code
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format --config 'format.exclude = ["*.md"]' .
	@find native -name '*.h' -o -name '*.cc' | xargs scripts/llvm.sh clang-format -i

.PHONY: tidy
tidy: $(STAMPS)/build-tools $(STAMPS)/system-test ## Run clang-tidy on the core
	@scripts/native-test.sh asan --configure-only
	@git ls-files 'native/*.cc' | grep -vE '^native/(bindings|fuzz)/' | \
		xargs -P $(JOBS) -n 2 scripts/llvm.sh clang-tidy -p build/native/asan --quiet

.PHONY: clean
clean: ## Remove what was built; .venv stays
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis $(STAMPS)/package
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## Remove .venv too
	rm -rf $(VENV) .venv-engines

# The stamps lie in .venv, so that they go when it goes.

$(STAMPS)/system-build: scripts/system-packages.sh
	@scripts/system-packages.sh build
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/system-test: scripts/system-packages.sh scripts/llvm.sh $(STAMPS)/system-build
	@scripts/system-packages.sh test
	@touch $@

$(STAMPS)/build-tools: pyproject.toml scripts/install-tools.sh $(STAMPS)/system-build
	@$(STAGE) "tools for building into $(VENV)" scripts/install-tools.sh $(BIN)/python build
	@touch $@

$(STAMPS)/tools: $(STAMPS)/build-tools
	@$(STAGE) "tools for testing into $(VENV)" scripts/install-tools.sh $(BIN)/python test
	@touch $@

$(STAMPS)/servers: pyproject.toml scripts/test-servers.sh scripts/system-packages.sh $(STAMPS)/tools $(STAMPS)/system-build
	@$(STAGE) "servers for the tests" scripts/test-servers.sh $(BIN)/python
	@touch $@

# Without build isolation, so that a second build is an incremental one.
$(STAMPS)/package: $(PACKAGE_SOURCES) $(STAMPS)/tools
	@PATH="$(CURDIR)/$(BIN):$$PATH" CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(STAGE) "weightstream into $(VENV)" \
		$(BIN)/python -m pip install -qq --no-build-isolation \
		-C cmake.define.WEIGHTSTREAM_WERROR=$(WERROR) .
	@touch $@
