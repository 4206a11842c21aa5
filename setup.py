"""Builds the compiled libraries with ninja, against the torch that is installed.

MULTIMIX_BUILD  auto (default): the C++ library for the CPU, if there is a C++17 compiler; the package installs without
                it and says why. cpu: that library, or fail. none: Python only.
CXX             the compiler; MAX_JOBS: compilations at a time.
"""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
TORCH_TARGET_VERSION = "0x020a000000000000"  # the oldest torch whose stable ABI will do: 2.10
FLAGS = (
    "-std=c++17 -O3 -fPIC -fvisibility=hidden -ffp-contract=fast -Wall -Wno-maybe-uninitialized "
    f"-fmacro-prefix-map={ROOT.resolve()}/="  # no folder of the building machine in error messages
)
# Object name -> flags: one compilation of kernels.cpp for each instruction set. The baseline comes first.
INSTRUCTION_SETS = {"baseline": ""}
if platform.machine().lower() in ("x86_64", "amd64"):
    avx2 = "-mavx2 -mfma -mf16c"
    avx512 = f"{avx2} -mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx512cd -mprefer-vector-width=512"
    INSTRUCTION_SETS |= {"avx2": avx2, "avx512": avx512}


class CannotBuild(Exception):
    """Why a library cannot be built here, in one clause."""


def find_torch() -> Path:
    """The folder of the installed torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "multimix_kernels is built against the torch that is installed, and there is none in this build "
            "environment: install torch first, then run pip install --no-build-isolation, or set MULTIMIX_BUILD=none"
        )
    return Path(spec.submodule_search_locations[0])


def torch_version(torch: Path) -> str:
    """Read from its metadata, as importing torch takes seconds."""
    text = (torch / "version.py").read_text()
    return next(line.split("'")[1] for line in text.splitlines() if line.startswith("__version__"))


def find_ninja() -> list[str]:
    """The command that runs ninja."""
    if shutil.which("ninja"):
        return ["ninja"]
    if importlib.util.find_spec("ninja"):
        return [sys.executable, "-m", "ninja"]
    raise CannotBuild("there was no ninja when it was installed; pip install ninja")


def find_compiler() -> tuple[str, str]:
    """A C++17 compiler, and its version line."""
    for compiler in filter(None, [os.environ.get("CXX"), "c++", "g++", "clang++"]):
        if not shutil.which(compiler.split()[0]):
            continue
        test = [*compiler.split(), "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
        if subprocess.run(test, input="#include <optional>\n", text=True, capture_output=True).returncode == 0:
            version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True).stdout
            return compiler, version.splitlines()[0] if version else compiler
    raise CannotBuild("there was no C++17 compiler when it was installed; install g++ or clang++, or set CXX")


def ninja_file(compiler: str, torch: Path, folder: Path, library: Path) -> str:
    """The rules for the CPU library."""
    source = ROOT / "csrc" / "cpu"
    x86 = "-DMULTIMIX_X86" if "avx2" in INSTRUCTION_SETS else ""
    stable = f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION} -isystem {torch / 'include'}"
    objects = [(f"kernels_{name}.o", "kernels.cpp", flags) for name, flags in INSTRUCTION_SETS.items()]
    objects += [("dispatch.o", "dispatch.cpp", x86), ("operators.o", "operators.cpp", stable)]
    extra = os.environ.get("CXXFLAGS", "")
    libraries = f"{os.environ.get('LDFLAGS', '')} -L{torch / 'lib'} -ltorch -ltorch_cpu"
    lines = [
        "rule compile",
        f"  command = {compiler} {FLAGS} {extra} $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {compiler} -shared {extra} $in -o $out {libraries}",
    ]
    for name, file, flags in objects:
        lines += [f"build {folder / name}: compile {source / file}", f"  flags = {flags}"]
    lines += [f"build {library}: link {' '.join(str(folder / name) for name, *_ in objects)}", ""]
    return "\n".join(lines)


class BuildLibraries(build_ext):
    """Builds what MULTIMIX_BUILD asks for, and writes build.json beside it."""

    def run(self):
        """Builds, or records why not."""
        choice = os.environ.get("MULTIMIX_BUILD", "auto")
        if choice not in ("auto", "cpu", "none"):
            raise SystemExit(f"MULTIMIX_BUILD: expected auto, cpu or none, got {choice!r}")
        self.library = Path(self.get_ext_fullpath(self.extensions[0].name)).resolve()
        self.library.parent.mkdir(parents=True, exist_ok=True)
        if choice == "none":
            info = {"reason": "it was installed with MULTIMIX_BUILD=none"}
        else:
            try:
                info = self.build_cpu()
            except CannotBuild as error:
                if choice == "cpu":
                    raise SystemExit(f"MULTIMIX_BUILD=cpu: the C++ library cannot be built: {error}") from None
                print(f"multimix_kernels: no C++ library: {error}", file=sys.stderr)
                info = {"reason": str(error)}
        self.info_file.write_text(json.dumps({"cpu": info}, indent=1) + "\n")

    @property
    def info_file(self) -> Path:
        """What was built."""
        return self.library.with_name("build.json")

    def build_cpu(self) -> dict:
        """The C++ library for the CPU; what it was built with."""
        torch, ninja, (compiler, version) = find_torch(), find_ninja(), find_compiler()
        folder = Path(self.build_temp).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(ninja_file(compiler, torch, folder, self.library))
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        if subprocess.run([*ninja, "-C", str(folder), *jobs]).returncode:
            raise SystemExit(
                "multimix_kernels: the C++ library failed to compile (see above); CXX chooses another compiler, "
                "MULTIMIX_BUILD=none installs without it"
            )
        return {"torch": torch_version(torch), "compiler": version, "instruction_sets": list(INSTRUCTION_SETS)}

    def get_ext_filename(self, fullname):
        """No Python in it, so no Python version in its name."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def get_outputs(self):
        """The files that belong into the wheel."""
        return [str(path) for path in (self.library, self.info_file) if path.exists()]

    def copy_extensions_to_source(self):
        """Nothing: with an editable installation they are built in place."""


class PlatformWheel(bdist_wheel):
    """One wheel for all Python versions."""

    def finalize_options(self):
        """There are compiled files."""
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        """py3-none-<platform>."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("multimix_kernels.backends.lib.multimix_cpu", sources=[])],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": PlatformWheel},
)
