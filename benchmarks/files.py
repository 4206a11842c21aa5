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
