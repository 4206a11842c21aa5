"""Builds the CUDA backend as a library for CPU tensors: by nvcc with the flags of setup.py, but to PTX, and linked to
the stand-in for the CUDA runtime that is in this folder.

Ninja builds again what changed, in build/ptx; the kernels alone are most of the time.
"""

import fcntl
import importlib.util
import os
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent
CUDA = ROOT / "csrc" / "cuda"
FOLDER = ROOT / "build" / "ptx" / "cuda"
TARGETS = {"sm_80": "80", "sm_90a": "90a"}  # as nvcc writes them in -gencode
LONGEST = ("sample", "small")  # to compile: they begin
# What torch.cpp puts between the backend and torch, and overrides.cpp between its operators and launchers.
WRAPPED = (
    "aoti_torch_library_init_impl",
    "aoti_torch_device_type_cuda",
    "aoti_torch_create_device_guard",
    "aoti_torch_delete_device_guard",
    "aoti_torch_get_current_cuda_stream",
    "torch_call_dispatcher",
    "aoti_torch_get_data_ptr",
    "_ZN8multimix12fits_on_chipERKNS_7ContextERKNS_7LossJobE",
    "_ZN8multimix13scratch_bytesEv",
)


@cache
def load_setup():
    """setup.py as a module: where nvcc and the compiler are, and their flags. None without a source tree."""
    path = ROOT / "setup.py"
    if not path.exists():
        return None
    spec = importlib.util.spec_from_file_location("multimix_setup", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["multimix_setup"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@cache
def missing() -> str | None:
    """Why the backend cannot be built here, in one clause; None if it can."""
    setup = load_setup()
    if setup is None:
        return "there is no source tree"
    try:
        setup.find_ninja(), setup.find_compiler(), setup.find_toolkit().folder_of("cuda_runtime.h")
    except setup.CannotBuild as error:
        return str(error)
    return None


def ninja_file(machine: Path) -> str:
    """The rules for the library, linked to that of the machine."""
    setup = load_setup()
    word, target = setup.word, setup.target
    toolkit, (compiler, _) = setup.find_toolkit(), setup.find_compiler()
    include = Path(torch.__file__).parent / "include"
    codes = " ".join(f"-gencode=arch=compute_{x},code=compute_{x}" for x in TARGETS.values())
    flags = " ".join(map(word, setup.HOST_FLAGS))
    to_host = word(f"-Xcompiler={','.join(map(shlex.quote, setup.HOST_FLAGS))}")
    host = os.environ.get("NVCC_CCBIN") or next(part for part in compiler.split() if "ccache" not in part)
    common = f"{setup.COMMON} -I {word(ROOT / 'csrc')} -MMD -MF $out.d -c $in -o $out"
    compiled = f"{flags} {setup.STABLE} -DUSE_CUDA -isystem {word(include)}"
    compiled += f" -isystem {word(toolkit.folder_of('cuda_runtime.h'))}"
    nvcc = f"{word(toolkit.home / 'bin' / 'nvcc')} --no-compress -ccbin {word(host)} {to_host}"
    wrapped = " ".join(f"-Wl,--wrap={name}" for name in WRAPPED)
    torch_libraries = f"-L{word(include.parent / 'lib')} -ltorch -ltorch_cpu"
    rules = {
        "nvcc": f"{nvcc} {codes} {common}",
        "compile": f"{compiler} {compiled} {common}",
        "link": f"{compiler} -shared $in -o $out {wrapped} {torch_libraries} -Wl,-z,defs {word(machine)}",
    }
    kernels = sorted(CUDA.rglob("*.cu"), key=lambda path: (path.stem not in LONGEST, path))
    sources = [*kernels, CUDA / "operators.cpp", *sorted(HERE.glob("*.cpp"))]
    objects = {FOLDER / f"{source.parent.name}_{source.stem}.o": source for source in sources}
    lines = []
    for name, command in rules.items():
        lines += [f"rule {name}", f"  command = {command}", *["  depfile = $out.d", "  deps = gcc"] * (name != "link")]
    for item, source in objects.items():
        lines.append(f"build {target(item)}: {'nvcc' if source.suffix == '.cu' else 'compile'} {target(source)}")
    library = FOLDER / "multimix_cuda.so"
    lines.append(f"build {target(library)}: link {' '.join(map(target, objects))} | {target(machine)}")
    return "\n".join([*lines, ""])


def find_ninja(setup) -> list[str]:
    """Python's own first: another ninja, of another version, would build everything again."""
    return [sys.executable, "-m", "ninja"] if importlib.util.find_spec("ninja") else setup.find_ninja()


def build(machine: Path) -> Path:
    """The library, built if it is not there or something changed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (FOLDER / "build.ninja").write_text(ninja_file(machine))
        setup = load_setup()
        command = [*find_ninja(setup), "-C", str(FOLDER), "-j", str(setup.max_jobs())]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stdout[-8000:] + done.stderr[-2000:])
    return FOLDER / "multimix_cuda.so"
