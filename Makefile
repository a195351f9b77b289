# Everything works from a fresh clone with Python 3.10 or newer and a C++ compiler: each target first makes .venv.

PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= benchmarks/results
LIBRARY := kerneldna_ops/_C.abi3.so
CXX_SOURCES := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh')
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
# The oldest Triton that the kernels support, beside the one that is installed.
OLDEST_TRITON := build/triton/3.6.0
# glibc's allocator keeps its memory: see benchmarks/process.py.
KEEP_MEMORY := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184

# Small tensors on many threads are slower than on two.
export OMP_NUM_THREADS ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv build demo test bench gpu-compile gpu-check lint format wheel clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: .venv/installed ## the virtual environment .venv, with torch as pinned in constraints.txt and the package installed editable

.venv/installed: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) 'setuptools>=77' ninja torch
	$(PIP_INSTALL) --no-build-isolation -e '.[demo,test,bench,dev]'
	touch $@ $(LIBRARY)

build: $(LIBRARY) ## the op library, recompiling only what changed

$(LIBRARY): .venv/installed $(filter csrc/%,$(CXX_SOURCES))
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@

demo: build ## train on real images three ways and write runs/demo/ (5 minutes)
	$(BIN)/python -m kerneldna_ops.demo

test: build ## all tests
	$(BIN)/python -m pytest

bench: build ## all measurements and their report in benchmarks/results/ (a quarter of an hour on an idle machine)
	mkdir -p $(RESULTS)
	$(KEEP_MEMORY) $(BIN)/python -m pytest benchmarks/bench_latency.py -q --benchmark-json=$(RESULTS)/latency.json
	$(BIN)/python -m benchmarks.memory --json $(RESULTS)/memory.json
	$(BIN)/python -m benchmarks.odconv_resnet18 --json $(RESULTS)/odconv_resnet18.json
	$(BIN)/python -m benchmarks.import_time
	$(BIN)/python -m benchmarks.report $(RESULTS)

gpu-compile: build ## the tables of compiled Triton kernels, and the predicted times, in benchmarks/results/compile/ (half an hour, no GPU)
	$(BIN)/python -m benchmarks.compile_matrix
	test -d $(OLDEST_TRITON) || $(PIP_INSTALL) --no-deps --target $(OLDEST_TRITON) triton==$(notdir $(OLDEST_TRITON))
	PYTHONPATH=$(OLDEST_TRITON) $(BIN)/python -m benchmarks.compile_matrix
	$(BIN)/python -m benchmarks.compile_matrix.predictions

gpu-check: ## on a machine with an NVIDIA GPU, torch and triton: is all right and how fast, in benchmarks/results/gpu/ (10 minutes)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu_check

lint: .venv/installed ## ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

format: .venv/installed ## let ruff and clang-format rewrite the files
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

wheel: .venv/installed ## a wheel and a source archive in dist/
	rm -rf build/lib* build/bdist*
	$(BIN)/python -m pip wheel -q --no-build-isolation --no-deps -w dist .
	$(BIN)/python -c "from setuptools.build_meta import build_sdist; build_sdist('dist')"
	@ls dist

clean: ## remove everything made here
	rm -rf .venv build dist runs *.egg-info $(LIBRARY) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -prune -exec rm -rf {} +
