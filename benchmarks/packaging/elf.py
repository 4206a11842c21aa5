"""What a shared library needs from the machine that loads it."""

import re
from dataclasses import dataclass
from pathlib import Path

from ..compiled import tools

Version = tuple[int, ...]


def written(version: Version) -> str:
    """(2, 10) -> 2.10."""
    return ".".join(map(str, version))


@dataclass(frozen=True)
class Needs:
    """What has to be there when it is loaded."""

    libraries: list[str]
    symbols: list[str]  # without a version: of torch, or of nobody
    floors: dict[str, Version]  # e.g. GLIBC: the newest version of a symbol that is used
    search_paths: list[str]


def read(library: Path) -> Needs:
    """Reads the dynamic section."""
    dynamic = tools.run("readelf", "-dW", library)
    symbols, floors = [], {}
    for line in tools.run("readelf", "-W", "--dyn-syms", library).splitlines():
        match = re.match(r"\s*\d+: [0-9a-f]+\s+\S+ \S+\s+(GLOBAL|WEAK)\s+\S+\s+UND (\S+)", line)
        if match is None:
            continue
        name, _, version = match[2].partition("@")
        if not version and match[1] == "GLOBAL":
            symbols.append(name)
        elif found := re.match(r"@?([A-Z]+)_([\d.]+)$", version):
            number = tuple(int(part) for part in found[2].split("."))
            floors[found[1]] = max(floors.get(found[1], (0,)), number)
    return Needs(
        re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic),
        symbols,
        floors,
        re.findall(r"\(R(?:UN)?PATH\).*\[(.+)\]", dynamic),
    )
