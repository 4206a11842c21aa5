"""What a wheel promises, held against what is in it."""

import json
import re
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from ..compiled import kernels
from . import elf, shims

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = "multimix_kernels/backends/lib"
MIN_TORCH = (2, 10)
# Of torch and of every Linux; the CUDA runtime is inside, and the driver is looked for when it is needed.
NEEDED = re.compile(r"lib(torch|torch_cpu|c10|stdc\+\+|gcc_s|m|c|pthread|dl|rt)\.so(\.\d+)?|ld-linux.*")
# What RHEL 9, Debian 12 and Ubuntu 22.04 have: manylinux_2_34.
HIGHEST = {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13), "GCC": (11,)}


@dataclass
class Findings:
    """What there is to know of a wheel, and what is wrong with it."""

    facts: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def check(self, holds: bool, complaint: str) -> None:
        """Notes a complaint."""
        if not holds:
            self.wrong.append(complaint)


def local_version(info: dict) -> str:
    """What build.json makes the version of a wheel end with."""
    if "architectures" not in info["cuda"]:
        return "cpu" if "compiler" in info["cpu"] else ""
    names = [kernels.target(item) + "ptx" * ("+PTX" in item) for item in info["cuda"]["architectures"]]
    return ".".join(["cu" + "".join(info["cuda"]["nvcc"].split(".")[:2]), *(name.replace("_", "") for name in names)])


def check_needs(name: str, needs: elf.Needs, stable: dict[str, elf.Version], findings: Findings) -> None:
    """What a library needs: of torch only the stable ABI, of the system not too new a one."""
    foreign = [library for library in needs.libraries if not NEEDED.fullmatch(library)]
    findings.check(not foreign, f"{name} needs {', '.join(foreign)}")
    findings.check(not needs.search_paths, f"{name} searches {', '.join(needs.search_paths)}")
    unstable = [symbol for symbol in needs.symbols if symbol not in stable]
    findings.check(not unstable, f"{name} uses symbols outside the stable ABI: {', '.join(unstable)}")
    least = max([MIN_TORCH, *(stable[symbol] for symbol in needs.symbols if symbol in stable)])
    newer = [symbol for symbol in needs.symbols if stable.get(symbol, MIN_TORCH) > MIN_TORCH]
    findings.check(not newer, f"{name} needs torch {elf.written(least)}: {', '.join(newer)}")
    for library, version in needs.floors.items():
        highest = HIGHEST.get(library, version)
        complaint = f"{name} needs {library} {elf.written(version)}, newer than {elf.written(highest)}"
        findings.check(version <= highest, complaint)
    floors = ", ".join(f"{library} {elf.written(version)}" for library, version in sorted(needs.floors.items()))
    findings.facts.append(f"{name}: torch {elf.written(least)} or later; {floors}; loads {', '.join(needs.libraries)}")


def check_architectures(library: Path, asked: list[str], findings: Findings) -> None:
    """The machine code and PTX in the CUDA library are what was asked for, in every compiled file."""
    binary, ptx = kernels.architectures(library)
    findings.facts.append(f"{library.name}: machine code for {', '.join(binary)}; PTX for {', '.join(ptx) or 'none'}")
    for kind, found, wanted in (
        ("machine code", binary, {kernels.target(item) for item in asked}),
        ("PTX", ptx, {kernels.target(item) for item in asked if "+PTX" in item}),
    ):
        complaint = (
            f"{library.name} has {kind} for {sorted(found) or 'nothing'}, asked for was {sorted(wanted) or 'nothing'}"
        )
        findings.check(set(found) == wanted, complaint)
        findings.check(len(set(found.values())) <= 1, f"{library.name}: some files lack {kind}: {found}")


def audit(path: Path) -> Findings:
    """Everything that can be said of a wheel without installing it."""
    findings = Findings()
    name, version, *tag = path.stem.split("-", 4)
    findings.check(
        tag[:2] == ["py3", "none"] and tag[2] != "any", f"its tag is {'-'.join(tag)}, not py3-none-<platform>"
    )
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as wheel:
        wheel.extractall(folder)
        files = {info.filename: info.file_size for info in wheel.infolist()}
        findings.facts.append(f"{path.stat().st_size / 2**20:.2f} MiB, {sum(files.values()) / 2**20:.2f} MiB installed")
        strange = [file for file in files if not re.match(rf"{name}(/|-[^/]+\.dist-info/)", file)]
        strange += [file for file in files if file.endswith((".cpp", ".cu", ".h", ".o"))]
        findings.check(not strange, f"it has {', '.join(strange)}")
        if f"{LIBRARIES}/build.json" not in files:
            findings.wrong.append("it has no build.json")
            return findings
        info = json.loads((Path(folder) / LIBRARIES / "build.json").read_text())
        expected = local_version(info)
        findings.check(
            version.partition("+")[2] == expected, f"its version is {version}, and it was built as {expected}"
        )
        stable = shims.table()
        for kind in ("cpu", "cuda"):
            library = Path(folder) / LIBRARIES / f"multimix_{kind}.so"
            built = "reason" not in info[kind]
            findings.check(library.exists() == built, f"{library.name}: build.json says {info[kind]}")
            if library.exists():
                check_needs(library.name, elf.read(library), stable, findings)
                folders = (ROOT, shims.torch_headers())
                inside = [str(item) for item in folders if str(item).encode() in library.read_bytes()]
                findings.check(
                    not inside, f"{library.name} names a folder of the building machine: {', '.join(inside)}"
                )
            if library.exists() and kind == "cuda":
                check_architectures(library, info[kind].get("architectures", []), findings)
    return findings
