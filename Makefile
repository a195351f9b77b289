# Everything works from a fresh clone with Python 3.10 or newer and a C++ compiler: each target first makes .venv.

PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= benchmarks/results
LIBRARY := kerneldna_ops/_C.abi3.so
CXX_SOURCES := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh')
# Another torch than the pinned one, and what else pip is told, where .venv is made: TORCH='torch==2.12.*' and, for
# PyTorch's builds without CUDA, PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'.
TORCH ?= torch
PIP_ARGS ?=
CONSTRAINTS := $(if $(filter torch,$(TORCH)),-c constraints.txt)
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q $(CONSTRAINTS) $(PIP_ARGS)
COMPILER ?= clang
# Beside which torch the library of `build` must work too: the oldest, and the newest that there is.
COMPAT_TORCH ?= torch==2.11.* torch
COMPAT_TESTS := tests/op/test_conv_forward.py tests/op/test_registrations.py tests/test_env.py
# The oldest Triton that the kernels support, beside the one that is installed.
OLDEST_TRITON := build/triton/3.6.0
# Where cuda-library builds; TORCH_CUDA_ARCH_LIST says for which GPUs.
CUDA_LIBRARY := build/cuda/lib
# What of tests/cuda runs under ThreadSanitizer, which is slow: all kernels, but few shapes.
RACES := any_order or whoever_goes_first
# glibc's allocator keeps its memory: see benchmarks/process.py.
KEEP_MEMORY := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184

TEST_PROCESSES ?= 2

# Small tensors on many threads are slower than on two.
export OMP_NUM_THREADS ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv build host-kernels demo test test-long compat another-compiler mutants host-sanitize sanitize-gpu bench networks frontier gpu-compile gpu-check cuda-library cuda-check cuda-figures lint format wheel clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo "With another torch: make demo TORCH='torch==2.12.*'; with PyTorch's builds for CPUs, in a checkout without .venv:"
	@echo "  make demo PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'"
	@echo "With a torch of your own, and without .venv (an NVIDIA card, say):"
	@echo "  pip install --no-build-isolation -e '.[test]' && python -m pytest tests"

venv: .venv/installed ## the virtual environment .venv, with torch as pinned in constraints.txt and the package installed editable

.venv/installed: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) 'setuptools>=77' ninja '$(TORCH)'
	$(PIP_INSTALL) --no-build-isolation -e '.[demo,test,bench,dev]' '$(TORCH)'
	touch $@ $(LIBRARY)

build: $(LIBRARY) ## the op library, recompiling only what changed

$(LIBRARY): .venv/installed $(filter csrc/%,$(CXX_SOURCES))
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@

host-kernels: build/cuda_host/made ## the CUDA kernels compiled for the CPU, for tests: build/cuda_host/

build/cuda_host/made: .venv/installed $(filter csrc/% tests/cuda/host_execution/%,$(CXX_SOURCES)) tests/cuda/build_host_kernels.py
	$(BIN)/python tests/cuda/build_host_kernels.py
	touch $@

demo: build ## train on real images three ways and write runs/demo/ (5 minutes)
	$(BIN)/python -m examples.demo

# Where there is an NVIDIA card, what runs on it has a run of its own: see tests/test_cpu.py.
test: build host-kernels ## all tests but test-long, in TEST_PROCESSES processes, on the CPU and on an NVIDIA card if there is one
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal --durations 15 --device cpu --without-long
	! $(BIN)/python -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || \
		OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal --device cuda

# In one process: a build takes all processors, and its tests share it.
test-long: build ## the tests that take minutes each: builds of the library, as a wheel and under sanitizers, and its numbers once more (15 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --device cpu -m long

compat: build ## tests of the same library beside the oldest torch and the newest on the index, in build/compat/ (downloads both)
	@set -ef; for torch in $(COMPAT_TORCH); do folder="build/compat/$${torch%.*}"; \
	  $(PYTHON) -m venv "$$folder"; \
	  "$$folder/bin/python" -m pip install --disable-pip-version-check -q -U $(PIP_ARGS) "$$torch" triton numpy pytest hypothesis; \
	  "$$folder/bin/python" -m kerneldna_ops.env | grep '^torch:'; \
	  OMP_NUM_THREADS=1 "$$folder/bin/python" -m pytest -q -p no:cacheprovider $(COMPAT_TESTS); \
	done

another-compiler: export KERNELDNA_NO_CUDA := 1
another-compiler: .venv/installed ## the library as clang compiles it (or COMPILER=gcc-11) in build/COMPILER/, and what tests its kernels
	CC=$(COMPILER) CXX=$(subst gcc,g++,$(subst clang,clang++,$(COMPILER))) \
		$(BIN)/python setup.py -q build --build-base build/$(COMPILER) --build-lib build/$(COMPILER)/lib
	for vector in avx512 avx2 portable; do KERNELDNA_CPU_VECTOR=$$vector OMP_NUM_THREADS=1 $(BIN)/pytest -q \
		-o pythonpath="build/$(COMPILER)/lib . tests/cuda" --device cpu --backend cpu tests/op/test_conv_forward.py || exit 1; done

mutants: build host-kernels ## whether a test fails for each of a list of mistakes in the CUDA kernels (5 minutes)
	$(BIN)/python tests/cuda/mutants.py

host-sanitize: build ## the tests of the CUDA kernels on the CPU under the address, undefined-behaviour and thread sanitizers
	$(BIN)/python tests/sanitizers/host_kernels.py address,undefined tests/cuda -k "not sanitizers"
	$(BIN)/python tests/sanitizers/host_kernels.py thread tests/cuda -k "$(RACES)"

sanitize-gpu: ## on a machine with an NVIDIA card: a sample of the tests there under NVIDIA's compute-sanitizer
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tests/sanitizers/gpu.py

bench: build ## all measurements on the CPU and their report in benchmarks/results/ (half an hour on an idle machine)
	mkdir -p $(RESULTS)
	$(KEEP_MEMORY) $(BIN)/python -m pytest benchmarks/bench_latency.py -q --benchmark-json=$(RESULTS)/latency.json
	$(BIN)/python -m benchmarks.memory --json $(RESULTS)/memory.json
	$(BIN)/python -m benchmarks.modulated --results $(RESULTS)
	$(BIN)/python -m benchmarks.modulated_up --results $(RESULTS)
	$(BIN)/python -m benchmarks.mixtures --results $(RESULTS)
	$(BIN)/python -m benchmarks.import_time
	$(BIN)/python -m benchmarks.report $(RESULTS)

networks: build ## the published networks on the CPU, time and memory, and those of others' layers, in benchmarks/results/ (10 minutes)
	$(BIN)/python -m benchmarks.networks --json $(RESULTS)/networks.json
	$(BIN)/python -m benchmarks.networks --json $(RESULTS)/dynamic_networks.json --layouts nchw \
		--networks odconv_resnet18,odconv4_resnet18,condconv4_mobilenet_v2 --rounds 7

frontier: build ## accuracy against size and time on Fashion-MNIST in benchmarks/results/frontier/ (2 hours; SHORT=1: 10 minutes; DEVICE=cuda; DATA=folder)
	$(BIN)/python -m benchmarks.frontier $(if $(SHORT),--short) $(if $(DEVICE),--device $(DEVICE)) $(if $(DATA),--data $(DATA))

gpu-compile: build ## the tables of compiled Triton kernels in benchmarks/results/compile/ (10 minutes, no GPU)
	$(BIN)/python -m benchmarks.compile_matrix
	test -d $(OLDEST_TRITON) || $(PIP_INSTALL) --no-deps --target $(OLDEST_TRITON) triton==$(notdir $(OLDEST_TRITON))
	PYTHONPATH=$(OLDEST_TRITON) $(BIN)/python -m benchmarks.compile_matrix

gpu-check: ## on a machine with an NVIDIA GPU and the package installed: its tests, then its benchmarks, in benchmarks/results/gpu/ (MINUTES=9)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu_check $(if $(MINUTES),--minutes $(MINUTES))

cuda-library: .venv/installed ## the op library with its CUDA kernels, in build/cuda/lib/ (needs nvcc, no GPU)
	KERNELDNA_FORCE_CUDA=1 $(BIN)/python setup.py -q build_ext --build-lib $(CUDA_LIBRARY)

cuda-check: cuda-library ## the tests of that library: what it needs, that it loads without a GPU, its machine code
	KERNELDNA_CUDA_LIBRARY=$(CUDA_LIBRARY) $(BIN)/python -m pytest tests/packaging/test_cuda_library.py

cuda-figures: export TORCH_CUDA_ARCH_LIST :=
cuda-figures: cuda-library ## the table of that library's machine code in benchmarks/results/compile/
	$(BIN)/python -m benchmarks.cuda_figures $(CUDA_LIBRARY)

lint: .venv/installed ## ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

format: .venv/installed ## let ruff and clang-format rewrite the files
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

# With CUDA kernels where there is an nvcc, whichever torch is installed.
NVCC = $(shell command -v nvcc 2>/dev/null) $(wildcard $(CUDA_HOME)/bin/nvcc /usr/local/cuda/bin/nvcc)
wheel: export KERNELDNA_FORCE_CUDA ?= $(if $(filter-out 0,$(KERNELDNA_NO_CUDA)),0,$(if $(strip $(NVCC)),1,0))
wheel: .venv/installed ## a wheel and a source archive in dist/ (with CUDA kernels where there is an nvcc, without by KERNELDNA_NO_CUDA=1)
	rm -rf dist build/wheel build/lib* build/bdist* build/cuda/lib* build/cuda/bdist*
	$(BIN)/python -m pip wheel --disable-pip-version-check -q --no-build-isolation --no-deps -w build/wheel .
	PATH="$(CURDIR)/$(BIN):$$PATH" auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' -w dist build/wheel/*.whl
	$(BIN)/python -m zipfile -e dist/*.whl build/wheel/unpacked
	test "$$KERNELDNA_FORCE_CUDA" != 1 || KERNELDNA_CUDA_LIBRARY=build/wheel/unpacked $(BIN)/python -m pytest -q tests/packaging/test_cuda_library.py
	$(BIN)/python -c "from setuptools.build_meta import build_sdist; build_sdist('dist')"
	@ls -l dist

clean: ## remove everything made here
	rm -rf .venv build dist runs *.egg-info kerneldna_ops/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -prune -exec rm -rf {} +
