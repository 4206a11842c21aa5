# Two commands do everything on a fresh machine: `make demo` and `make test`. Both set up .venv first.
#
# PYTHON   the interpreter to make .venv from. If it has torch already, that one is used; otherwise torch is installed:
#          on a machine without an NVIDIA driver the CPU build, which is a tenth of the size.
PYTHON ?= python3
VENV ?= .venv
TORCH_VERSION ?= 2.13.0
CPU_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := setup.py pyproject.toml $(wildcard csrc/*.h csrc/*/*.h csrc/*/*.cpp)

.PHONY: setup demo test test-all test-sanitized lint bench gpu clean

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

# The C++ library's tests under AddressSanitizer and UBSan, from a build of their own.
SANITIZED := build/sanitized
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -g -O1
test-sanitized: setup
	CXXFLAGS="$(SANITIZERS)" $(BIN)/python setup.py -q build --build-lib $(SANITIZED) --build-temp build/temp.sanitized
	cp -r tests pyproject.toml $(SANITIZED)
	cd $(SANITIZED) && ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so)" \
	  $(abspath $(BIN))/python -m pytest tests/backends/test_cpu.py -k 'not instruction_sets' $(ARGS)

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror csrc/*.h csrc/*/*.h csrc/*/*.cpp

bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

# On a machine with a GPU, in the Python that is there: nothing is installed. Elsewhere it is a rehearsal.
gpu:
	$(PYTHON) -m benchmarks.gpu $(ARGS)

clean:
	rm -rf $(VENV) build dist out *.egg-info multimix_kernels/backends/lib
