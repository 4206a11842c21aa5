"""The C functions of torch's stable ABI, and the least torch that has each, from the headers of the installed torch.

No package lists them.
"""

import importlib.util
import re
from pathlib import Path

from ..compiled import tools

Version = tuple[int, ...]

HEADERS = ("torch/csrc/stable/c/shim.h", "torch/csrc/inductor/aoti_torch/c/shim.h")
FIRST = (2, 10)  # what the headers do not date was there in 2.10 at the latest: compared with the headers of 2.10.0


def written(version: Version) -> str:
    """(2, 10) -> 2.10."""
    return ".".join(map(str, version))


def torch_headers() -> Path:
    """The include folder of the installed torch, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise tools.Missing("there is no torch, whose headers list the stable ABI")
    return Path(spec.submodule_search_locations[0]) / "include"


def parse(text: str) -> dict[str, Version]:
    """The functions that a header declares: the least version of torch of each."""
    found: dict[str, Version] = {}
    conditions: list[Version] = []
    for line in text.splitlines():
        if re.match(r"\s*#\s*if", line):
            dated = re.search(r"TORCH_FEATURE_VERSION >= TORCH_VERSION_(\d+)_(\d+)", line)
            conditions.append((int(dated[1]), int(dated[2])) if dated else FIRST)
        elif re.match(r"\s*#\s*endif", line):
            conditions.pop()
        else:
            for name in re.findall(r"\b((?:aoti_)?torch_[a-z]\w*)\s*\(", line):
                found.setdefault(name, max([FIRST, *conditions]))
    return found


def table(include: Path | None = None) -> dict[str, Version]:
    """Every function of the stable ABI: the least version of torch that has it."""
    include = include or torch_headers()
    return {name: version for header in HEADERS for name, version in parse((include / header).read_text()).items()}
