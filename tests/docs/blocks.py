"""The python blocks of a markdown file.

A comment before a block says what is special about it:

    <!-- not run: the reason -->
    <!-- before: python code that the reader has already, over as many lines as it needs -->
"""

import re
from dataclasses import dataclass
from pathlib import Path

_PART = re.compile(
    r"^<!-- *(?P<kind>not run|before): *(?P<text>.*?) *-->$"
    r"|^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """Code that starts in the given line (the first is 1) of its file; `before` runs first."""

    line: int
    code: str
    before: str = ""
    not_run: str = ""


def python_blocks(text: str) -> list[Block]:
    """The fenced blocks whose language is python, in their order."""
    blocks, marks = [], {}
    for part in _PART.finditer(text):
        if part["kind"]:
            marks[part["kind"].replace(" ", "_")] = part["text"]
            continue
        if part["language"] in ("python", "py"):
            indent = len(part["indent"])
            code = "".join(line[indent:] or "\n" for line in part["code"].splitlines(keepends=True))
            blocks.append(Block(text.count("\n", 0, part.start("code")) + 1, code, **marks))
        marks = {}
    return blocks


def run(path: Path, text: str, names: dict) -> int:
    """Executes the blocks in one namespace, with the file's own line numbers; the number of blocks that were run."""
    count = 0
    for block in python_blocks(text):
        if block.not_run:
            continue
        exec(compile(block.before, f"<before line {block.line} of {path.name}>", "exec"), names)
        exec(compile("\n" * (block.line - 1) + block.code, str(path), "exec"), names)
        count += 1
    return count
