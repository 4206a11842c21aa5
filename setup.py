"""Builds the compiled libraries with ninja, against the torch that is installed.

docs/installation.md lists the variables: which libraries (MULTIMIX_BUILD), GPUs (TORCH_CUDA_ARCH_LIST), toolkit
(CUDA_HOME, CUDA_PATH), compilers (CXX, NVCC_CCBIN), jobs (MAX_JOBS, NVCC_THREADS), version (MULTIMIX_LOCAL_VERSION).
More flags: CXXFLAGS, LDFLAGS, NVCC_APPEND_FLAGS. CONTRIBUTING.md says why this is no CMake.
"""

import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import setuptools

if int(setuptools.__version__.split(".")[0]) < 77:  # before it meets what it does not know, here and in pyproject.toml
    raise SystemExit(
        f"multimix_kernels is built by setuptools 77 or later, and this is {setuptools.__version__}: "
        "pip install 'setuptools>=77'"
    )

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.dist_info import dist_info
from setuptools.command.egg_info import egg_info

ROOT = Path(__file__).resolve().parent
STABLE = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # the oldest torch whose stable ABI will do: 2.10
COMMON = "-std=c++17 -O3"
PREFIX_MAP = f"-fmacro-prefix-map={ROOT}/="  # no folder of the building machine in error messages
WARNINGS = ("-Wall", "-Wno-maybe-uninitialized", "-Wno-uninitialized", "-Wno-unknown-pragmas")
HOST_FLAGS = ("-fPIC", "-fvisibility=hidden", *WARNINGS, PREFIX_MAP)
# Object name -> flags: one compilation of kernels.cpp for each instruction set. The baseline comes first.
INSTRUCTION_SETS = {"baseline": ""}
if platform.machine().lower() in ("x86_64", "amd64"):
    avx2 = "-mavx2 -mfma -mf16c"
    avx512 = f"{avx2} -mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx512cd -mprefer-vector-width=512"
    INSTRUCTION_SETS |= {"avx2": avx2, "avx512": avx512}

DRY_RUN = ("--dryrun", "-c", "-x", "cu", os.devnull, "-o", os.devnull)  # of nvcc
MIN_TORCH = (2, 10)  # the first with that ABI
MIN_NVCC = (12, 8)  # the first that knows compute capability 12.0
DEFAULT_ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
GPUS = {
    "a100": "8.0", "a30": "8.0", "rtx3090": "8.6", "a10": "8.6", "a40": "8.6", "l4": "8.9", "l40s": "8.9",
    "rtx4090": "8.9", "h100": "9.0a", "h200": "9.0a", "gh200": "9.0a", "b200": "10.0", "rtx5090": "12.0",
    # PyTorch's names of generations.
    "ampere": "8.0;8.6+PTX", "ada": "8.9+PTX", "hopper": "9.0+PTX", "blackwell": "10.0;10.3;12.0;12.1+PTX",
}  # fmt: skip


class CannotBuild(Exception):
    """Why a library cannot be built here, in one clause."""


def run(*command: str | Path, **options) -> subprocess.CompletedProcess:
    """A program to its end, with what it says."""
    return subprocess.run(command, text=True, capture_output=True, **options)


def find_torch() -> Path:
    """The folder of the installed torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "multimix_kernels is built against the torch that is installed, and there is none in this environment (an "
            "isolated build sees none): install torch first, then pip install ninja 'setuptools>=77', then pip install "
            "--no-build-isolation. MULTIMIX_BUILD=none installs without the compiled libraries"
        )
    torch = Path(spec.submodule_search_locations[0])
    version = read_torch(torch, "__version__") or "unknown"
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < MIN_TORCH:
        raise SystemExit(f"multimix_kernels needs torch 2.10 or later, and torch {version} is installed")
    return torch


def read_torch(torch: Path, name: str) -> str | None:
    """A string of torch.version, read from its file, as importing torch takes seconds."""
    found = re.search(rf"^{name}\b[^=\n]*= *['\"](.+)['\"]", (torch / "version.py").read_text(), re.MULTILINE)
    return found and found[1]


def find_ninja() -> list[str]:
    """The command that runs ninja."""
    if shutil.which("ninja"):
        return ["ninja"]
    if importlib.util.find_spec("ninja"):
        return [sys.executable, "-m", "ninja"]
    raise CannotBuild("there was no ninja when it was installed; pip install ninja")


@cache
def find_compiler() -> tuple[str, str]:
    """A C++17 compiler, and its version line."""
    for compiler in filter(None, [os.environ.get("CXX"), "c++", "g++", "clang++"]):
        if not shutil.which(compiler.split()[0]):
            continue
        test = (*compiler.split(), "-std=c++17", "-fsyntax-only", "-x", "c++", "-")
        if run(*test, input="#include <optional>\n").returncode == 0:
            return compiler, (run(*compiler.split(), "--version").stdout or compiler).splitlines()[0]
    raise CannotBuild("there was no C++17 compiler when it was installed; install g++ or clang++, or set CXX")


def parse_architectures(text: str) -> list[str]:
    """TORCH_CUDA_ARCH_LIST, sorted and without repetitions, e.g. ["8.0", "9.0a", "12.0+PTX"]."""
    found = set()
    for entry in re.split(r"[;,\s]+", text.strip(" ;,\t\n")):
        for item in GPUS.get(entry.lower(), entry).split(";"):
            match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", item, re.IGNORECASE)
            if match is None:
                raise CannotBuild(
                    f"TORCH_CUDA_ARCH_LIST: {entry!r} is neither an architecture such as 8.0, 9.0a or 12.0+PTX, "
                    f"nor one of {', '.join(GPUS)}"
                )
            if int(match[1]) < 8:
                raise CannotBuild(f"TORCH_CUDA_ARCH_LIST: {entry}: the kernels need compute capability 8.0 or later")
            found.add(f"{match[1]}.{match[2]}{match[3].lower()}{'+PTX' if match[4] else ''}")
    found -= {item.removesuffix("+PTX") for item in found if item.endswith("+PTX")}
    return sorted(found, key=lambda item: (int(item.split(".")[0]), item))


def nvcc_target(architecture: str) -> str:
    """9.0a+PTX -> 90a."""
    return architecture.removesuffix("+PTX").replace(".", "")


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit, or the part of one that PyPI's packages install."""

    home: Path
    version: str  # of nvcc

    def folder_of(self, file: str) -> Path:
        """Where a header or library of it is."""
        machine = {"aarch64": "sbsa"}.get(platform.machine(), platform.machine())
        for folder in ("include", "lib64", "lib", f"targets/{machine}-linux/include", f"targets/{machine}-linux/lib"):
            if (self.home / folder / file).exists():
                return self.home / folder
        raise CannotBuild(f"there is no {file} in {self.home}; install the whole CUDA toolkit, or set CUDA_HOME")

    def knows(self, architecture: str) -> bool:
        """Whether nvcc can compile for it."""
        target = nvcc_target(architecture)
        code = f"-gencode=arch=compute_{target},code=sm_{target}"
        return run(self.home / "bin" / "nvcc", code, *DRY_RUN).returncode == 0


def toolkit_folders() -> list[Path]:
    """Where a CUDA toolkit may be, best first."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(name):
            if not (Path(home) / "bin" / "nvcc").exists():
                raise CannotBuild(f"{name} is {home}, where there is no bin/nvcc")
            return [Path(home)]
    folders = []
    if shutil.which("nvcc"):
        # Not the program's own folder: it may be a script that calls another.
        top = re.search(r"^#\$ TOP=(.+)$", run("nvcc", *DRY_RUN).stderr, re.MULTILINE)
        folders += [Path(top[1])] if top else []
    nvidia = importlib.util.find_spec("nvidia")
    for place in nvidia.submodule_search_locations if nvidia else []:
        folders += sorted(Path(place).glob("cu[0-9]*"), reverse=True)
    return [*folders, Path("/usr/local/cuda")]


@cache
def find_toolkit() -> Toolkit:
    """The CUDA toolkit."""
    if platform.system() != "Linux":
        raise CannotBuild("the CUDA library is built on Linux only")
    home = next((folder.resolve() for folder in toolkit_folders() if (folder / "bin" / "nvcc").exists()), None)
    if home is None:
        raise CannotBuild(
            "there was no nvcc when it was installed; set CUDA_HOME to a CUDA toolkit of 12.8 or later, or pip install "
            "'cuda-toolkit[nvcc,cudart]==13.0.*'"
        )
    done = run(home / "bin" / "nvcc", "--version")
    version = re.search(r"V(\d+\.\d+\.\d+)", done.stdout)
    if version is None:
        raise CannotBuild(f"{home}/bin/nvcc does not run: {done.stderr.strip() or done.stdout.strip()}")
    if tuple(int(part) for part in version[1].split(".")[:2]) < MIN_NVCC:
        raise CannotBuild(f"nvcc of {home} is {version[1]}, and 12.8 or later is needed; CUDA_HOME names another")
    return Toolkit(home, version[1])


@cache
def architectures() -> list[str]:
    """What TORCH_CUDA_ARCH_LIST asks for, or the default."""
    toolkit, asked = find_toolkit(), os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    if not asked:
        known = [item for item in DEFAULT_ARCHITECTURES if toolkit.knows(item)]
        return [*known[:-1], f"{known[-1]}+PTX"]
    wanted = parse_architectures(asked)
    for item in wanted:
        if not toolkit.knows(item):
            known = ", ".join(re.findall(r"\bsm_(\w+)", run(toolkit.home / "bin" / "nvcc", "--list-gpu-code").stdout))
            raise CannotBuild(
                f"TORCH_CUDA_ARCH_LIST: nvcc {toolkit.version} does not know {item}; it knows {known} (90 is 9.0), "
                "some also with a or f; CUDA_HOME names another nvcc"
            )
    return wanted


@cache
def plan() -> dict[str, str | None]:
    """The libraries: None if it is to be built, otherwise why not. SystemExit if what was asked for cannot be built."""
    choice = os.environ.get("MULTIMIX_BUILD") or "auto"
    if choice not in ("auto", "cpu", "cuda", "none"):
        raise SystemExit(f"MULTIMIX_BUILD: expected auto, cpu, cuda or none, got {choice!r}")
    if choice == "none":
        return dict.fromkeys(("cpu", "cuda"), "it was installed with MULTIMIX_BUILD=none")
    torch, asked = find_torch(), bool(os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip())
    try:
        find_ninja(), find_compiler()
    except CannotBuild as error:
        if choice != "auto" or asked:
            raise SystemExit(f"MULTIMIX_BUILD={choice}: the C++ library cannot be built: {error}") from None
        return dict.fromkeys(("cpu", "cuda"), str(error))
    if choice == "cpu":
        return {"cpu": None, "cuda": "it was built with MULTIMIX_BUILD=cpu"}
    if choice == "auto" and not asked and read_torch(torch, "cuda") is None:
        return {"cpu": None, "cuda": "it was built for a torch without CUDA, and TORCH_CUDA_ARCH_LIST was not set"}
    try:
        architectures(), find_toolkit().folder_of("cuda_runtime.h"), find_toolkit().folder_of("libcudart_static.a")
    except CannotBuild as error:
        if choice == "cuda" or asked:
            text = f"the CUDA library cannot be built: {error}. MULTIMIX_BUILD=cpu builds without it"
            raise SystemExit(text) from None
        return {"cpu": None, "cuda": str(error)}
    return {"cpu": None, "cuda": None}


def local_version() -> str:
    """What follows + in the version: which libraries are in the wheel."""
    chosen = os.environ.get("MULTIMIX_LOCAL_VERSION") or ("none" if (ROOT / "PKG-INFO").exists() else "auto")
    if chosen not in ("auto", "none"):
        return chosen
    if chosen == "none" or importlib.util.find_spec("torch") is None or plan()["cpu"] is not None:
        return ""
    if plan()["cuda"] is not None:
        return "cpu"
    names = (f"sm{nvcc_target(item)}{'ptx' * ('+' in item)}" for item in architectures())
    return ".".join(["cu" + "".join(find_toolkit().version.split(".")[:2]), *names])


def at_least_one(name: str, default: int) -> int:
    """A number from the environment."""
    text = os.environ.get(name) or str(max(1, default))
    if not text.isdecimal() or int(text) < 1:
        raise SystemExit(f"{name}: expected a number of at least 1, got {text!r}")
    return int(text)


def max_jobs() -> int:
    """How many compilations at a time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return at_least_one("MAX_JOBS", cores or 1)


def word(text: str | Path) -> str:
    """A word of a command in a ninja file: quoted for the shell, then for ninja."""
    return shlex.quote(str(text)).replace("$", "$$")


def target(path: str | Path) -> str:
    """A path in a build line of a ninja file."""
    return re.sub(r"([$ :])", r"$\1", str(path))


def ninja_file(folder: Path, libraries: dict[str, Path]) -> str:
    """The rules for the libraries."""
    torch, (compiler, version) = find_torch(), find_compiler()
    extra, link_extra = os.environ.get("CXXFLAGS", ""), os.environ.get("LDFLAGS", "")
    # Half-precision conversions from the static libgcc: the shared one has them only from GCC 12 on.
    libgcc = "" if "clang" in version else "-lgcc"
    compiler, extra, link_extra = (text.replace("$", "$$") for text in (compiler, extra, link_extra))
    stable = f"{STABLE} -isystem {word(torch / 'include')} {word(f'-fmacro-prefix-map={torch.parent}/=')}"
    compiled = f"-I {word(ROOT / 'csrc')} $flags -MMD -MF $out.d -c $in -o $out"
    host_flags = " ".join(map(word, HOST_FLAGS))
    rules = {
        "compile": f"{compiler} {COMMON} {host_flags} -ffp-contract=fast {extra} {compiled}",
        "link": f"{compiler} -shared {extra} $in -o $out {link_extra} -L{word(torch / 'lib')} $flags {libgcc}",
    }
    objects: dict[str, list[tuple]] = {}  # of a library: rule, object, source, flags
    linked = {"cpu": "-ltorch -ltorch_cpu"}
    if "cpu" in libraries:
        source = ROOT / "csrc" / "cpu"
        x86 = "-DMULTIMIX_X86" if "avx2" in INSTRUCTION_SETS else ""
        objects["cpu"] = [
            *(("compile", f"kernels_{name}.o", source / "kernels.cpp", f) for name, f in INSTRUCTION_SETS.items()),
            ("compile", "dispatch.o", source / "dispatch.cpp", x86),
            ("compile", "operators.o", source / "operators.cpp", stable),
        ]
    if "cuda" in libraries:
        toolkit, source = find_toolkit(), ROOT / "csrc" / "cuda"
        kernels = sorted(source.rglob("*.cu"))
        host = os.environ.get("NVCC_CCBIN") or next(word for word in compiler.split() if "ccache" not in word)
        threads = at_least_one("NVCC_THREADS", min(len(architectures()), max_jobs() // len(kernels)))
        to_host = word(f"-Xcompiler={','.join(map(shlex.quote, HOST_FLAGS))}")  # nvcc hands it to a shell of its own
        nvcc = word(toolkit.home / "bin" / "nvcc")
        rules["nvcc"] = f"{nvcc} {COMMON} --threads {threads} -ccbin {word(host)} {to_host} {compiled}"
        machine = [(nvcc_target(item), "sm") for item in architectures()]
        ptx = [(nvcc_target(item), "compute") for item in architectures() if item.endswith("+PTX")]
        codes = " ".join(f"-gencode=arch=compute_{target},code={kind}_{target}" for target, kind in machine + ptx)
        flags = f"{stable} -DUSE_CUDA -isystem {word(toolkit.folder_of('cuda_runtime.h'))}"
        objects["cuda"] = [("nvcc", path.relative_to(source).with_suffix(".o"), path, codes) for path in kernels]
        objects["cuda"].append(("compile", "operators.o", source / "operators.cpp", flags))
        # The stream of torch is in a library that only libtorch names, and only in a torch with CUDA.
        linked["cuda"] = (
            "-s -Wl,--no-as-needed -ltorch -ltorch_cpu -Wl,--as-needed -Wl,--exclude-libs,ALL "
            f"-L{word(toolkit.folder_of('libcudart_static.a'))} -lcudart_static -lpthread -ldl -lrt"
        )
    lines = []
    for name, command in rules.items():
        lines += [f"rule {name}", f"  command = {command}", *["  depfile = $out.d", "  deps = gcc"] * (name != "link")]
    for name, library in libraries.items():
        builds = [(rule, folder / name / item, target(source), flags) for rule, item, source, flags in objects[name]]
        builds.append(("link", library, " ".join(target(item) for _, item, *_ in builds), linked[name]))
        for rule, item, sources, flags in builds:
            lines += [f"build {target(item)}: {rule} {sources}", f"  flags = {flags}"]
    return "\n".join([*lines, ""])


class BuildLibraries(build_ext):
    """Builds what MULTIMIX_BUILD asks for, and writes build.json beside it."""

    def run(self):
        """Builds, or records why not."""
        folder = Path(self.get_ext_fullpath(self.extensions[0].name)).resolve().parent
        folder.mkdir(parents=True, exist_ok=True)
        libraries = {name: folder / f"multimix_{name}.so" for name in plan()}
        self.outputs = [folder / "build.json"]
        for name, reason in plan().items():
            if reason is None:
                self.outputs.append(libraries[name])
            else:
                libraries.pop(name).unlink(missing_ok=True)  # of an earlier build
                print(f"multimix_kernels: no {name} library: {reason}", file=sys.stderr)
        if libraries:
            self.build(libraries)
        info = {name: {"reason": reason} if reason else self.describe(name) for name, reason in plan().items()}
        self.outputs[0].write_text(json.dumps(info, indent=1) + "\n")

    def build(self, libraries: dict[str, Path]):
        """Runs ninja."""
        folder = Path(self.build_temp).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(ninja_file(folder, libraries))
        if subprocess.run([*find_ninja(), "-C", str(folder), "-j", str(max_jobs())]).returncode:
            cuda = (
                "; CUDA_HOME chooses another nvcc, NVCC_CCBIN another compiler for it, TORCH_CUDA_ARCH_LIST other "
                "GPUs; MAX_JOBS=1 and NVCC_THREADS=1 need least memory; MULTIMIX_BUILD=cpu leaves the CUDA library out"
            )
            raise SystemExit(
                f"multimix_kernels: a library failed to compile (see above); CXX chooses another compiler"
                f"{cuda if 'cuda' in libraries else ''}, MULTIMIX_BUILD=none installs without any"
            )

    def describe(self, name: str) -> dict:
        """What a library was built with."""
        info = {"torch": read_torch(find_torch(), "__version__"), "compiler": find_compiler()[1]}
        if name == "cpu":
            return info | {"instruction_sets": list(INSTRUCTION_SETS)}
        return info | {"nvcc": find_toolkit().version, "architectures": architectures()}

    def get_outputs(self):
        """The files that belong into the wheel."""
        return [str(path) for path in self.outputs]


class LocalVersion(egg_info):
    """Wheels are told apart by their version; an sdist is for all of them."""

    def finalize_options(self):
        """Adds what was chosen."""
        local = "" if "sdist" in self.distribution.commands else local_version()
        self.tag_build = f"+{local}" if local else self.tag_build
        super().finalize_options()


class Metadata(dist_info):
    """What pip asks for first: what cannot be built is said before pip downloads torch for it."""

    def finalize_options(self):
        """Decides what to build."""
        plan()
        super().finalize_options()


class PlatformWheel(bdist_wheel):
    """One wheel for all Python versions."""

    def get_tag(self):
        """py3-none-<platform>."""
        return "py3", "none", super().get_tag()[2]


if __name__ == "__main__":
    setup(
        ext_modules=[Extension("multimix_kernels.backends.lib.multimix_cpu", sources=[])],
        cmdclass={
            "build_ext": BuildLibraries,
            "dist_info": Metadata,
            "egg_info": LocalVersion,
            "bdist_wheel": PlatformWheel,
        },
    )
