"""Files that are whole at any moment."""

import json
import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write beside it and rename: a reader, or a kill in between, finds the old text or the new one."""
    new = path.with_name(path.name + ".tmp")
    new.write_text(text)
    os.replace(new, path)


def write_json(path: Path, value: object) -> None:
    """A value as JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=1) + "\n")


def replace_section(text: str, section: str, name: str) -> str:
    """A document with another section between `<!-- name: begin -->` and `<!-- name: end -->`.

    Raises:
        ValueError: it does not have each mark once, in order.
    """
    begin, end = marks(name)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"expected {begin} and {end}, once each and in this order")
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{section}\n\n{end}{rest.split(end)[1]}"


def marks(name: str) -> tuple[str, str]:
    """What stands before and after a section that a command writes."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
