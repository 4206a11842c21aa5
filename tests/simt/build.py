"""Builds shared objects in which kernels run on the CPU, from .cu files (with kernels) and .cpp files (without)."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
COMMON = ["-std=c++17", "-O2", "-g1", "-fPIC", "-ffp-contract=off", "-Wall", "-pthread"]
KERNELS = [
    *("-x", "c++", "-fsanitize=thread,alignment", "-fno-tree-vectorize"),
    *("-fno-builtin-memcpy", "-fno-builtin-memmove", "-fno-builtin-memset", "-Wno-unknown-pragmas"),
]
# Some compilers leave calls of these to a library that replaces them at run time.
RENAME = [f"--redefine-sym={name}=__tsan_{name}" for name in ("memcpy", "memmove", "memset")]
CLANG = ["-mllvm", "-tsan-instrument-read-before-write=1"]  # of `x += 1`, too, the read is checked
HARNESS = ["-O3", "-fvisibility-inlines-hidden"]
LINK = ["-shared", "-pthread", "-Wl,-Bsymbolic", "-Wl,-z,defs", "-ldl"]


def find_compiler() -> str | None:
    """A C++ compiler of this machine."""
    return next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def file_digest(path: str) -> str | None:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def dependencies(text: str) -> list[str]:
    """The files that a make rule names, after its target."""
    return text.replace("\\\n", " ").split(":", 1)[1].split()


def compile_one(command: list[str], source: Path, folder: Path) -> Path:
    """An object in `folder`, unless one is there that was made from the same files by the same command."""
    name = digest(*command, str(source))
    target, record = folder / f"{source.stem}-{name}.o", folder / f"{source.stem}-{name}.json"
    if target.exists() and record.exists():
        known = json.loads(record.read_text())
        if all(file_digest(path) == content for path, content in known.items()):
            return target
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made, rule = Path(scratch, "object.o"), Path(scratch, "object.d")
        run([*command, "-MD", "-MF", str(rule), "-c", str(source), "-o", str(made)])
        if source.suffix == ".cu":
            run(["objcopy", *RENAME, str(made)])
        known = {path: file_digest(path) for path in dependencies(rule.read_text())}
        Path(scratch, "record").write_text(json.dumps(known))
        made.replace(target)
        Path(scratch, "record").replace(record)
    return target


def compile(
    sources: Iterable[Path | str],
    includes: Iterable[Path | str],
    out: Path | str,
    defines: Iterable[str] = (),
    extra: Iterable[str] = (),
    *,
    cache: Path | str | None = None,
    link: Iterable[str] = (),
    jobs: int = 2,
) -> Path:
    """One shared object at `out`: .cu files instrumented, .cpp files not, and the harness.

    `extra` goes to every compilation but the harness's, `link` to the linker. Objects are kept in
    `cache` (beside `out` by default).
    """
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("no C++ compiler: install g++ or clang++, or set CXX")
    out = Path(out).resolve()
    folder = Path(cache).resolve() if cache else out.parent / "objects"
    folder.mkdir(parents=True, exist_ok=True)
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    kernels = [*KERNELS, *(CLANG if "clang" in version else [])]
    base = [compiler, *COMMON, f"-DSIMT_COMPILER={digest(version)}", f"-I{HERE}", *(f"-D{d}" for d in defines)]
    user = [*(f"-I{Path(i).resolve()}" for i in includes), *extra]
    primitives = f"-I{HERE.parent.parent / 'csrc'}"
    # Kernels come first: of an inline function that several objects have, the linker keeps the first.
    sources = sorted((Path(s).resolve() for s in sources), key=lambda s: s.suffix != ".cu")
    tasks = [([*base, *(kernels if s.suffix == ".cu" else []), *user], s) for s in sources]
    tasks += [([*base, *HARNESS, primitives], s) for s in sorted(HERE.glob("*.cpp"))]
    with ThreadPoolExecutor(jobs) as pool:
        objects = [str(o) for o in pool.map(lambda task: compile_one(*task, folder), tasks)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        made = Path(scratch, out.name)
        run([compiler, *objects, "-o", str(made), *LINK, *link])
        made.replace(out)
    return out
