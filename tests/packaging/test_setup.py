"""What setup.py decides to build, and what it says when it cannot."""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
from setuptools import Distribution

FILE = Path(__file__).parents[2] / "setup.py"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="this is not a source tree")
VARIABLES = (
    "MULTIMIX_BUILD", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH", "MAX_JOBS", "NVCC_THREADS", "NVCC_CCBIN",
    "MULTIMIX_LOCAL_VERSION", "CXX",
)  # fmt: skip
# Knows 8.0, 9.0 and 9.0a.
NVCC = """#!/bin/sh
case "$*" in
  *--version*) echo "Cuda compilation tools, release {release}, V{release}.88";;
  *--list-gpu-code*) printf 'sm_80\\nsm_90\\n';;
  *compute_80,*|*compute_90,*|*compute_90a,*) exit 0;;
  *) exit 1;;
esac
"""


@pytest.fixture
def setup(monkeypatch):
    """setup.py as a module, in a clean environment, for a torch without CUDA, on a machine without nvcc."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("multimix_setup", FILE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "multimix_setup", module)  # dataclasses look there
    spec.loader.exec_module(module)
    module.found_toolkit_folders = module.toolkit_folders
    monkeypatch.setattr(module, "toolkit_folders", list)
    monkeypatch.setattr(module, "read_torch", lambda torch, name: {"__version__": "2.13.0+cpu"}.get(name))
    monkeypatch.setattr(module, "find_ninja", lambda: ["ninja"])
    monkeypatch.setattr(module, "find_compiler", lambda: ("c++", "c++ 12"))
    return module


@pytest.fixture
def nvcc(setup, monkeypatch, tmp_path):
    """A CUDA toolkit."""

    def install(release="13.0"):
        for name in ("bin/nvcc", "include/cuda_runtime.h", "lib/libcudart_static.a"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(NVCC.format(release=release))
        (tmp_path / "bin/nvcc").chmod(0o755)
        monkeypatch.setattr(setup, "toolkit_folders", lambda: [tmp_path])
        return tmp_path

    return install


def cuda_torch(setup, monkeypatch):
    monkeypatch.setattr(setup, "read_torch", lambda torch, name: "13.0")


@pytest.mark.parametrize(("text", "expected"), [
    ("8.0;9.0a", ["8.0", "9.0a"]),
    ("8.0 9.0+PTX", ["8.0", "9.0+PTX"]),
    (" 9.0a, 8.6; ", ["8.6", "9.0a"]),
    ("10.0;8.0;9.0", ["8.0", "9.0", "10.0"]),
    ("9.0+ptx 9.0 9.0+PTX", ["9.0+PTX"]),
    ("9.0A;10.0f", ["9.0a", "10.0f"]),
    ("a100,h100", ["8.0", "9.0a"]),
    ("H200", ["9.0a"]),
    ("rtx3090;a10", ["8.6"]),
    ("l4 rtx4090 b200 rtx5090", ["8.9", "10.0", "12.0"]),
    ("Hopper", ["9.0+PTX"]),
    ("Ampere;9.0a", ["8.0", "8.6+PTX", "9.0a"]),
])  # fmt: skip
def test_architectures(setup, text, expected):
    assert setup.parse_architectures(text) == expected


@pytest.mark.parametrize("text", ["h300", "9", "sm_90", "9.0b", "9.0a+SASS", "native", "8.0;nothing"])
def test_unknown_architecture_or_gpu(setup, text):
    with pytest.raises(setup.CannotBuild, match="TORCH_CUDA_ARCH_LIST: '") as error:
        setup.parse_architectures(text)
    assert text.split(";")[-1] in str(error.value)
    assert "9.0a" in str(error.value)
    assert "h100" in str(error.value)


def test_too_old_gpu(setup):
    with pytest.raises(setup.CannotBuild, match=r"7\.5.*8\.0 or later"):
        setup.parse_architectures("7.5+PTX")


def test_every_gpu_has_an_architecture(setup):
    for name in setup.GPUS:
        assert setup.parse_architectures(name)


def test_default_is_what_nvcc_knows_and_ptx_of_the_newest(setup, nvcc):
    nvcc()
    assert setup.architectures() == ["8.0", "9.0+PTX"]


def test_architecture_that_nvcc_does_not_know(setup, nvcc, monkeypatch):
    nvcc()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;12.0")
    with pytest.raises(setup.CannotBuild, match=r"nvcc 13.0.88 does not know 12.0; it knows 80, 90 .*CUDA_HOME"):
        setup.architectures()
    monkeypatch.setenv("MULTIMIX_BUILD", "cuda")
    with pytest.raises(SystemExit, match=r"does not know 12\.0"):
        setup.plan()


@pytest.mark.parametrize(("choice", "architectures"), [("cuda", ""), ("cuda", "9.0"), ("auto", "9.0"), ("", "a100")])
def test_no_nvcc_where_cuda_was_asked_for(setup, monkeypatch, choice, architectures):
    monkeypatch.setenv("MULTIMIX_BUILD", choice)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", architectures)
    with pytest.raises(SystemExit, match=r"there was no nvcc.*CUDA_HOME.*pip install.*MULTIMIX_BUILD=cpu"):
        setup.plan()


def test_cuda_home_without_nvcc(setup, monkeypatch, tmp_path):
    monkeypatch.setattr(setup, "toolkit_folders", setup.found_toolkit_folders)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(setup.CannotBuild, match=f"CUDA_HOME is {tmp_path}, where there is no bin/nvcc"):
        setup.find_toolkit()


def test_old_nvcc(setup, nvcc, monkeypatch):
    nvcc("12.4")
    monkeypatch.setenv("MULTIMIX_BUILD", "cuda")
    with pytest.raises(SystemExit, match=r"12\.4\.88, and 12\.8 or later is needed; CUDA_HOME"):
        setup.plan()


@pytest.mark.parametrize("missing", ["cuda_runtime.h", "libcudart_static.a"])
def test_half_a_toolkit(setup, nvcc, monkeypatch, missing):
    next(nvcc().rglob(missing)).unlink()
    monkeypatch.setenv("MULTIMIX_BUILD", "cuda")
    with pytest.raises(SystemExit, match=f"there is no {missing}"):
        setup.plan()


def test_auto_without_cuda(setup, nvcc):
    nvcc()
    assert setup.plan()["cpu"] is None
    assert "torch without CUDA, and TORCH_CUDA_ARCH_LIST was not set" in setup.plan()["cuda"]


def test_auto_with_cuda(setup, nvcc, monkeypatch):
    nvcc()
    cuda_torch(setup, monkeypatch)
    assert setup.plan() == {"cpu": None, "cuda": None}


def test_auto_with_architectures_and_a_torch_without_cuda(setup, nvcc, monkeypatch):
    nvcc()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0a")
    assert setup.plan() == {"cpu": None, "cuda": None}


def test_auto_without_nvcc(setup, monkeypatch):
    cuda_torch(setup, monkeypatch)
    assert setup.plan()["cpu"] is None
    assert "there was no nvcc" in setup.plan()["cuda"]


def test_cpu_and_none(setup, nvcc, monkeypatch):
    nvcc()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0a")
    monkeypatch.setenv("MULTIMIX_BUILD", "cpu")
    assert setup.plan() == {"cpu": None, "cuda": "it was built with MULTIMIX_BUILD=cpu"}
    setup.plan.cache_clear()
    monkeypatch.setenv("MULTIMIX_BUILD", "none")
    assert set(setup.plan().values()) == {"it was installed with MULTIMIX_BUILD=none"}


def test_no_compiler(setup, monkeypatch):
    def fail():
        raise setup.CannotBuild("there was no C++17 compiler")

    monkeypatch.setattr(setup, "find_compiler", fail)
    assert set(setup.plan().values()) == {"there was no C++17 compiler"}
    for choice in ("cpu", "cuda"):
        setup.plan.cache_clear()
        monkeypatch.setenv("MULTIMIX_BUILD", choice)
        with pytest.raises(SystemExit, match=f"MULTIMIX_BUILD={choice}: .*there was no C\\+\\+17 compiler"):
            setup.plan()


def test_unknown_choice(setup, monkeypatch):
    monkeypatch.setenv("MULTIMIX_BUILD", "gpu")
    with pytest.raises(SystemExit, match="MULTIMIX_BUILD: expected auto, cpu, cuda or none, got 'gpu'"):
        setup.plan()


def test_old_torch(setup, monkeypatch):
    monkeypatch.setattr(setup, "read_torch", lambda torch, name: "2.9.1+cu130")
    with pytest.raises(SystemExit, match=r"needs torch 2\.10 or later, and torch 2\.9\.1\+cu130 is installed"):
        setup.plan()


@pytest.mark.parametrize("version", ["59.6.0", "76.1.0.post20250101"])
def test_old_setuptools(monkeypatch, version):
    """Before it is asked for what it does not know."""
    spec = importlib.util.spec_from_file_location("multimix_setup", FILE)
    monkeypatch.setattr(setuptools, "__version__", version)
    with pytest.raises(SystemExit, match=f"77 or later, and this is {version}: pip install 'setuptools>=77'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_isolated_build_without_torch_ends_with_the_metadata(tmp_path, choice):
    """After these pip downloads torch: it has to fail in them, and not before, since an sdist needs no torch."""
    clone, alone, metadata = (tmp_path / name for name in ("clone", "alone", "metadata"))
    for folder in (clone, alone, metadata):
        folder.mkdir()
    for pattern in ("setuptools", "setuptools-*", "_distutils_hack", "pkg_resources"):
        for folder in Path(setuptools.__file__).parents[1].glob(pattern):
            (alone / folder.name).symlink_to(folder)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(FILE.parent / name, clone / name)
    shutil.copytree(FILE.parent / "multimix_kernels", clone / "multimix_kernels", ignore=shutil.ignore_patterns("lib"))
    code = f"""
from setuptools import build_meta
print(build_meta.get_requires_for_build_wheel(), build_meta.get_requires_for_build_sdist())
print("metadata")
print(build_meta.prepare_metadata_for_build_wheel({str(metadata)!r}))
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=clone, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(alone), "MULTIMIX_BUILD": choice},
    )  # fmt: skip
    assert "metadata\n" in done.stdout, done.stderr
    if choice == "none":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        assert "there is none in this environment (an isolated build sees none): install torch first" in done.stderr
        assert "Traceback" not in done.stderr


def test_no_torch(setup, monkeypatch):
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"install torch first.*--no-build-isolation"):
        setup.plan()


@pytest.mark.parametrize(("environment", "expected"), [
    ({}, "cpu"),
    ({"MULTIMIX_BUILD": "none"}, ""),
    ({"TORCH_CUDA_ARCH_LIST": "9.0a"}, "cu130.sm90a"),
    ({"TORCH_CUDA_ARCH_LIST": "h100,a100"}, "cu130.sm80.sm90a"),
    ({"MULTIMIX_BUILD": "cuda"}, "cu130.sm80.sm90ptx"),
    ({"MULTIMIX_BUILD": "cuda", "MULTIMIX_LOCAL_VERSION": "none"}, ""),
    ({"MULTIMIX_BUILD": "cuda", "MULTIMIX_LOCAL_VERSION": "ours.1"}, "ours.1"),
], ids=str)  # fmt: skip
def test_local_version(setup, nvcc, monkeypatch, environment, expected):
    nvcc()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert setup.local_version() == expected


def test_sdist_has_no_local_version(setup, monkeypatch, tmp_path):
    """pip holds what it builds to the version in the sdist's name."""
    (tmp_path / "PKG-INFO").touch()
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    assert setup.local_version() == ""
    monkeypatch.setenv("MULTIMIX_LOCAL_VERSION", "auto")
    assert setup.local_version() == "cpu"


def rules(setup, tmp_path, *names):
    return setup.ninja_file(tmp_path, {name: tmp_path / f"multimix_{name}.so" for name in names})


def test_rules(setup, nvcc, monkeypatch, tmp_path):
    nvcc()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0a+PTX")
    monkeypatch.setenv("NVCC_CCBIN", "g++-13")
    both = rules(setup, tmp_path, "cpu", "cuda")
    codes = [part for part in both.split() if part.startswith("-gencode=")]
    assert set(codes) == {
        f"-gencode=arch=compute_{code}" for code in ("80,code=sm_80", "90a,code=sm_90a", "90a,code=compute_90a")
    }
    assert "-ccbin g++-13" in both
    assert "-lcudart_static" in both
    # Only libtorch names the library that torch's streams are in; and only a torch with CUDA has that.
    assert "--no-as-needed -ltorch " in both
    assert "torch_cuda" not in both
    assert "nvcc" not in rules(setup, tmp_path, "cpu")


def test_sources_at_any_depth(setup, nvcc, monkeypatch, tmp_path):
    """Objects are named by the path of their source: equal names in two folders are two objects."""
    nvcc()
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    for name in ("top.cu", "mix/rows.cu", "soft/rows.cu"):
        (tmp_path / "csrc/cuda" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "csrc/cuda" / name).touch()
    built = [line.split()[1] for line in rules(setup, tmp_path, "cuda").splitlines() if ": nvcc " in line]
    assert built == [f"{tmp_path}/cuda/{name}.o:" for name in ("mix/rows", "soft/rows", "top")]


COMPILER = """#!{python}
import json, pathlib, shlex, sys
words = sys.argv[1:]
with open({log!r}, "a") as log:
    print(json.dumps(words), file=log)
pathlib.Path(words[words.index("-o") + 1]).touch()
"""


@pytest.mark.skipif(not shutil.which("ninja"), reason="there is no ninja")
def test_folders_of_any_name(setup, nvcc, monkeypatch, tmp_path):
    """Ninja and the shell hand every path to the compilers as one word."""
    nvcc()
    root, torch = tmp_path / "a $clone & more", tmp_path / "an env" / "torch"
    log, built = tmp_path / "log", tmp_path / "built: here"
    for name in ("cpu/kernels.cpp", "cpu/dispatch.cpp", "cpu/operators.cpp", "cuda/operators.cpp", "cuda/mix/rows.cu"):
        (root / "csrc" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "csrc" / name).touch()
    for program in (tmp_path / "c++", tmp_path / "a toolkit" / "bin" / "nvcc"):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(COMPILER.format(python=sys.executable, log=str(log)))
        program.chmod(0o755)
    folder_of = {
        "cuda_runtime.h": tmp_path / "a toolkit" / "include",
        "libcudart_static.a": tmp_path / "a toolkit" / "lib",
    }
    monkeypatch.setattr(setup.Toolkit, "folder_of", lambda self, file: folder_of[file])
    monkeypatch.setattr(setup, "find_toolkit", lambda: setup.Toolkit(tmp_path / "a toolkit", "13.0.88"))
    monkeypatch.setattr(setup, "architectures", lambda: ["9.0a"])
    monkeypatch.setattr(setup, "find_compiler", lambda: (str(tmp_path / "c++"), "c++ 12"))
    monkeypatch.setattr(setup, "find_torch", lambda: torch)
    monkeypatch.setattr(setup, "ROOT", root)
    prefix = f"-fmacro-prefix-map={root}/="
    monkeypatch.setattr(setup, "HOST_FLAGS", ("-fPIC", prefix))
    built.mkdir()
    libraries = {name: built / f"multimix_{name}.so" for name in ("cpu", "cuda")}
    (built / "build.ninja").write_text(setup.ninja_file(built, libraries))
    done = subprocess.run(["ninja", "-C", built], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert all(path.exists() for path in libraries.values())
    compiled = {tuple(words[words.index("-o") + 1 :]): words for words in map(json.loads, log.read_text().splitlines())}
    rows = compiled[(str(built / "cuda/mix/rows.o"),)]
    assert rows[rows.index("-I") + 1] == str(root / "csrc")
    assert rows[rows.index("-c") + 1] == str(root / "csrc/cuda/mix/rows.cu")
    (to_host,) = [text for text in rows if text.startswith("-Xcompiler=")]
    assert shlex.split(to_host.replace(",", " ")) == ["-Xcompiler=-fPIC", prefix]
    operators = compiled[(str(built / "cuda/operators.o"),)]
    assert prefix in operators
    isystem = [operators[i + 1] for i, text in enumerate(operators) if text == "-isystem"]
    assert isystem == [str(torch / "include"), str(tmp_path / "a toolkit" / "include")]
    assert any(f"-L{torch / 'lib'}" in words for words in compiled.values())


@pytest.mark.parametrize(("jobs", "threads", "expected"), [("1", "", 1), ("64", "", 2), ("64", "5", 5), ("1", "3", 3)])
def test_nvcc_threads(setup, nvcc, monkeypatch, tmp_path, jobs, threads, expected):
    """By default no more than there are architectures, and no more than MAX_JOBS in all."""
    nvcc()
    monkeypatch.setenv("MAX_JOBS", jobs)
    monkeypatch.setenv("NVCC_THREADS", threads)
    assert f"--threads {expected} " in rules(setup, tmp_path, "cuda")


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_jobs_that_are_no_number(setup, monkeypatch, text):
    monkeypatch.setenv("MAX_JOBS", text)
    with pytest.raises(SystemExit, match="MAX_JOBS: expected a number of at least 1"):
        setup.max_jobs()


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_failed_build_says_what_to_set(setup, nvcc, monkeypatch, tmp_path, name):
    nvcc()
    command = setup.BuildLibraries(Distribution())
    command.build_temp = str(tmp_path)
    monkeypatch.setattr(setup.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, "", ""))
    monkeypatch.setattr(setup, "ninja_file", lambda *a: "")
    with pytest.raises(SystemExit, match="failed to compile") as error:
        command.build({name: tmp_path / "library.so"})
    variables = {"CUDA_HOME", "NVCC_CCBIN", "TORCH_CUDA_ARCH_LIST", "MAX_JOBS", "NVCC_THREADS", "MULTIMIX_BUILD=cpu"}
    assert all(variable in str(error.value) for variable in ("CXX", "MULTIMIX_BUILD=none"))
    assert {variable for variable in variables if variable in str(error.value)} == (
        variables if name == "cuda" else set()
    )


def test_libraries_of_an_earlier_build_are_removed(tmp_path):
    libraries = tmp_path / "multimix_kernels/backends/lib"
    libraries.mkdir(parents=True)
    (libraries / "multimix_cuda.so").touch()
    command = [sys.executable, FILE.name, "-q", "build_ext", "--build-lib", tmp_path, "--build-temp", tmp_path / "temp"]
    environment = os.environ | {"MULTIMIX_BUILD": "none"}
    done = subprocess.run(command, cwd=FILE.parent, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in libraries.iterdir()] == ["build.json"]
    assert json.loads((libraries / "build.json").read_text())["cuda"]["reason"].endswith("MULTIMIX_BUILD=none")
