"""What a wheel promises, held against what is in it."""

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from packaging.utils import parse_wheel_filename
from packaging.version import Version

from ..compiled import kernels
from . import elf, shims

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = "multimix_kernels/backends/lib"
MIN_TORCH = (2, 10)
# Beyond the libraries of every Linux; the CUDA runtime is inside, and the driver is looked for when it is needed.
TORCH_LIBRARIES = {"libtorch.so", "libtorch_cpu.so", "libc10.so"}
NEWEST = (2, 34)  # manylinux_2_34: RHEL 9, Debian 12, Ubuntu 22.04


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


def show(path: Path) -> dict:
    """What auditwheel finds: its command prints JSON, while its Python modules promise no interface."""
    command = [sys.executable, "-m", "auditwheel", "show", "--json", "--allow-pure-python-wheel", path]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def check_system(shown: dict, platforms: set[str], findings: Findings) -> None:
    """The system that the tag names is the one that the libraries need."""
    platform = shown["sym_tag"]
    findings.check(platform in platforms, f"its tag says {', '.join(sorted(platforms))}, its libraries {platform}")
    version = re.match(r"manylinux_(\d+)_(\d+)_", platform)
    old = version is not None and (int(version[1]), int(version[2])) <= NEWEST
    findings.check(old, f"its libraries need {platform}, newer than manylinux_{'_'.join(map(str, NEWEST))}")
    foreign = sorted(shown["external_libs"].keys() - TORCH_LIBRARIES)
    findings.check(not foreign, f"it needs {', '.join(foreign)}")
    numbers = [name.rsplit("_", 1) for names in shown["versioned_symbols"].values() for name in names]
    newest = dict(sorted(numbers, key=lambda pair: Version(pair[1])))
    needs = ", ".join(f"{library} {number}" for library, number in sorted(newest.items()))
    findings.facts.append(f"{platform} ({needs}); loads {', '.join(shown['external_libs'])}")


def check_needs(name: str, needs: elf.Needs, stable: dict[str, shims.Version], findings: Findings) -> None:
    """What a library needs of torch: only the stable ABI."""
    findings.check(not needs.search_paths, f"{name} searches {', '.join(needs.search_paths)}")
    unstable = [symbol for symbol in needs.symbols if symbol not in stable]
    findings.check(not unstable, f"{name} uses symbols outside the stable ABI: {', '.join(unstable)}")
    least = shims.written(max([MIN_TORCH, *(stable[symbol] for symbol in needs.symbols if symbol in stable)]))
    newer = [symbol for symbol in needs.symbols if stable.get(symbol, MIN_TORCH) > MIN_TORCH]
    findings.check(not newer, f"{name} needs torch {least}: {', '.join(newer)}")
    findings.facts.append(f"{name}: torch {least} or later")


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
    _, version, _, tags = parse_wheel_filename(path.name)
    name, platforms = path.name.split("-")[0], {tag.platform for tag in tags}
    for_any_python = {(tag.interpreter, tag.abi) for tag in tags} == {("py3", "none")} and "any" not in platforms
    findings.check(for_any_python, f"its tag is {', '.join(map(str, tags))}, not py3-none-<platform>")
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
        findings.check((version.local or "") == expected, f"its version is {version}, and it was built as {expected}")
        shown, stable = show(path), shims.table()
        if not shown["pure"]:
            check_system(shown, platforms, findings)
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
