# Entry point of the repository. Nothing but make, a shell and Python >= 3.10 is assumed; everything else goes into $(VENV).
#   PYTHON  interpreter that creates the environment (for gpu-account: that runs it)
#   VENV    directory of the environment          ARGS  further arguments of the program that a target runs
# tools/environment installs what a target needs, once: requirements/*.txt by purpose, then the package in place.
.DEFAULT_GOAL := help
.PHONY: help venv build test test-all test-changed docs-packages bench compare cpu-report fcmae-report accelerate-report numerics-report pretrain-photos gpu-account static-figures sanitize-cpu benchmarks-smoke wheels wheel-index check-abi docs lint types format clean
SHELL := /bin/sh

VENV ?= .venv
PYTHON ?=
OUT ?=
COMMIT ?=
BASE ?= main
CACHE ?= build/compiled.tar.gz
ARGS ?=
PY = $(VENV)/bin/python

# The first Python >= 3.10 among the usual names, or the one that PYTHON names.
FIND_PYTHON = found=""; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.10 python); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "error: no Python >= 3.10 found$(if $(PYTHON), in PYTHON=$(PYTHON),). Install one (Debian: apt-get install python3 python3-venv)," >&2; \
	  echo "       or name it: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi
# Where the environment is there already, its own Python looks whether anything changed.
SETUP = if [ -x "$(PY)" ]; then found="$(PY)"; else $(FIND_PYTHON); fi; "$$found" -m tools.environment --venv "$(VENV)"
FOR_BENCH = build torch bench peers
FOR_TESTS = $(FOR_BENCH) test

help:
	@echo "make test              sets up, then the tests, each kernel in pairs of settings  (ARGS='-k grn' for a part)"
	@echo "make test-all          every test; make test-triton: one area (CONTRIBUTING lists them)"
	@echo "make bench             parity and speed on four photographs          (ARGS=--save keeps the rows)"
	@echo "make compare           times a revision beside the working tree    BASE=main ARGS='--op grn --op block'"
	@echo "make benchmarks-smoke  every benchmark once, tiny"
	@echo "make cpu-report        the CPU kernels beside other runtimes     OUT=directory ARGS='--quick --only inference' ARGS=--save"
	@echo "make fcmae-report      sparse pre-training beside masked dense      OUT=directory ARGS=--quick ARGS=--save"
	@echo "make accelerate-report timm's and transformers' models, accelerated    OUT=directory ARGS=--quick ARGS=--save"
	@echo "make numerics-report   errors of the eight models against float64      OUT=directory ARGS='--models atto' ARGS=--save"
	@echo "make pretrain-photos   a small pre-training, drawn                  (ARGS=--save writes docs/pictures)"
	@echo "make sanitize-cpu      the CPU kernels under the address, undefined-behaviour and thread sanitizers"
	@echo "make gpu-account       everything measured on a GPU, in ten minutes    PYTHON=python3 OUT=directory ARGS='--parts host,ratios'"
	@echo "make static-figures    instructions, host time and launches beside their ceilings; no GPU   ARGS=--write"
	@echo "make wheels            sdist and wheels into dist/, audited, tried    CUDA_VERSIONS='13.0 13.2' WHEELS='any cpu 13.0'"
	@echo "make check-abi         a wheel of dist/ on other versions of torch   TORCH_VERSIONS='2.10.0 newest' (6 GB each)"
	@echo "make wheel-index       pages that serve dist/ to pip                 INDEX=build/index"
	@echo "make docs              renews generated tables, builds the site        into build/site"
	@echo "make venv | build      the environment alone | and the package in it"
	@echo "make lint | format     ruff and clang-format: check | rewrite"
	@echo "make types             mypy over the package"
	@echo "make clean             what builds and tests leave behind (the environment stays)"

# Everything that any target installs.
venv:
	@$(SETUP) $(FOR_TESTS) style docs

# The package in place, with what the tests need. Native sources that changed are compiled again, the others not.
build:
	@$(SETUP) $(FOR_TESTS) --package

# Pairs of parameters instead of all their combinations, without the tests marked `thorough`.
test: build
	@"$(PY)" -m pytest tests -n logical --dist worksteal --pairs -m "not thorough" --durations 10 $(ARGS)

# Everything. What passed is recorded in tests/areas.tsv, for .ci/run.
test-all: build docs-packages
	@"$(PY)" -m tests.run_areas --record $(ARGS)

# One area of CONTRIBUTING's table, in full: make test-triton.
test-%: build docs-packages
	@"$(PY)" -m tests.run_areas --record $* $(ARGS)

# The areas whose sources changed since they last passed.
test-changed: build docs-packages
	@"$(PY)" -m tests.run_areas --stale $(ARGS)

docs-packages:
	@$(SETUP) docs

bench:
	@echo "== make bench: convnextv2_tiny on four photographs; about 4 minutes the first time, 1.5 minutes after that"
	@$(SETUP) $(FOR_BENCH) --package && "$(PY)" -m benchmarks $(ARGS)

compare: build
	@"$(PY)" -m benchmarks compare --base "$(BASE)" $(ARGS)

benchmarks-smoke: build
	@"$(PY)" -m pytest benchmarks --smoke -q --benchmark-columns=median $(ARGS)

cpu-report: build
	@"$(PY)" -m benchmarks cpu-report $(if $(OUT),--out "$(OUT)") $(ARGS)

accelerate-report: build
	@"$(PY)" -m benchmarks accelerate-report $(if $(OUT),--out "$(OUT)") $(ARGS)

numerics-report: build
	@"$(PY)" -m benchmarks numerics-report $(if $(OUT),--out "$(OUT)") $(ARGS)

fcmae-report: build
	@"$(PY)" -m benchmarks fcmae-report $(if $(OUT),--out "$(OUT)") $(ARGS)

pretrain-photos: build
	@"$(PY)" -m benchmarks pretrain-photos $(ARGS)

sanitize-cpu:
	@$(SETUP) $(FOR_TESTS) && "$(PY)" -m tools.kernels.sanitize_cpu

# Uses the interpreter given and the CUDA library that is there; installs and compiles nothing of ours. Where there is no
# git, COMMIT="$(git describe --always --abbrev=40 --dirty)". CACHE: compiled.tar.gz of an earlier account, if there is one.
gpu-account:
	@$(FIND_PYTHON); PYTHONPATH=src "$$found" -m benchmarks gpu-account --out "$(or $(OUT),build/gpu-account)" \
	  --cache "$(CACHE)" $(if $(COMMIT),--commit "$(COMMIT)") $(ARGS)

static-figures: build
	@"$(PY)" -m tests.static_figures $(ARGS)

# Everything is built from the sdist, in build/wheels: an installation in place is not touched. A CUDA release that is not
# installed here comes from PyPI into build/cuda. WHEEL_PLATFORM: the tag in a manylinux container, manylinux_2_28_x86_64.
CUDA_VERSIONS ?= 13.0 13.2
WHEELS ?= any cpu $(CUDA_VERSIONS)
WHEEL_PLATFORM ?=
wheels:
	@$(SETUP) $(FOR_TESTS) && "$(PY)" -m tools.wheels build $(WHEELS) --platform "$(WHEEL_PLATFORM)" $(ARGS)

# Each version of torch in an environment of its own, kept in build/check-abi. Uses the interpreter given.
TORCH_VERSIONS ?= 2.10.0 newest
WHEEL ?=
check-abi:
	@$(FIND_PYTHON); "$$found" -m tools.wheels check-abi $(TORCH_VERSIONS) $(if $(WHEEL),--wheel "$(WHEEL)") $(ARGS)

INDEX ?= build/index
wheel-index:
	@$(FIND_PYTHON); "$$found" -m tools.wheels index dist "$(INDEX)"

PYTHON_SOURCES = benchmarks src examples tests tools setup.py
CXX_SOURCES = find csrc tests -name '*.h' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu'
CLANG_FORMAT = "$(PY)" -c 'import clang_format, sys; sys.exit(clang_format.clang_format())'

# NO_MKDOCS_2_WARNING: a notice about what may follow mkdocs 1 some day.
docs: build docs-packages
	@"$(PY)" -m tools.docs && NO_MKDOCS_2_WARNING=1 "$(PY)" -m mkdocs build --quiet && echo "== build/site/index.html"

lint:
	@$(SETUP) style
	@"$(PY)" -m ruff check $(PYTHON_SOURCES)
	@"$(PY)" -m ruff format --check $(PYTHON_SOURCES)
	@$(CXX_SOURCES) | while IFS= read -r file; do $(CLANG_FORMAT) --dry-run -Werror "$$file" || exit 1; done

# Needs the packages whose types the sources use.
types: build
	@$(SETUP) style
	@"$(PY)" -m mypy

format:
	@$(SETUP) style
	@"$(PY)" -m ruff check --fix $(PYTHON_SOURCES)
	@"$(PY)" -m ruff format $(PYTHON_SOURCES)
	@$(CXX_SOURCES) | while IFS= read -r file; do $(CLANG_FORMAT) -i "$$file" || exit 1; done

clean:
	@rm -rf build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks "$(VENV)/.build"
	@rm -f src/convnextv2_fast/*.so src/convnextv2_fast/_build_info.json
	@find benchmarks src examples tests tools -type d -name __pycache__ -prune -exec rm -rf {} +
