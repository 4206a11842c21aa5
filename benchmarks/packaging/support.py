"""`python -m benchmarks.packaging.support WHEEL --with python3.13=2.15.0 ...`: one wheel with many Pythons and torches.

For each, a fresh environment outside the source tree gets that torch and the wheel, and runs the tests of
`tests/installed.txt`; the outcome becomes a row of `benchmarks/results/support.json` and of the table in
docs/installation.md. Rows of other pairs stay. PyPI has CUDA builds of torch, several GB each: environments are made
in `--folder`, one at a time, and removed.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from .. import files
from ..results import RESULTS
from ..system import ROOT
from ..text import table

SECTION = "support"
_REQUIRED = ["numpy", "pytest", "scipy"]
_ASK = "import json, platform, torch; print(json.dumps([platform.python_version(), torch.__version__]))"


class Failed(Exception):
    """What went wrong before a test could run."""


def tried(wheel: Path, interpreter: str, torch: str, folder: Path) -> dict:
    """One row: the wheel with an interpreter and a release of torch."""
    environment, copy = folder / "environment", folder / "tests"
    try:
        _run([interpreter, "-m", "venv", str(environment)])
        python = str(environment / "bin" / "python")
        _run([python, "-m", "pip", "--quiet", "install", f"torch=={torch}", *_REQUIRED])
        _run([python, "-m", "pip", "--quiet", "install", "--no-deps", str(wheel)])
        versions = json.loads(_run([python, "-c", _ASK], folder))
        shutil.copytree(ROOT / "tests", copy / "tests")
        shutil.copy(ROOT / "pyproject.toml", copy)
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "@tests/installed.txt"]
        ran = subprocess.run(command, cwd=copy, text=True, capture_output=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    last = (ran.stdout.strip().splitlines() or ["nothing printed"])[-1]
    if ran.returncode:
        print(ran.stdout + ran.stderr, file=sys.stderr)
    return {
        "python": versions[0], "torch": versions[1], "wheel": wheel.name, "date": date.today().isoformat(),
        "passed": ran.returncode == 0, "tests": re.sub(r" in [\d.]+s.*| ?, \d+ warnings?", "", last).strip("= "),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Tries each pair, one after another, and writes the table after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packaging.support", description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--with", dest="pairs", nargs="+", required=True, metavar="PYTHON=TORCH", type=_pair)
    parser.add_argument("--folder", type=Path, help="where environments are made (default: a temporary one)")
    parser.add_argument("--results", type=Path, default=RESULTS / "support.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "installation.md")
    options = parser.parse_args(arguments)
    wheel, failed = options.wheel.resolve(strict=True), 0
    for interpreter, torch in options.pairs:
        print(f"{interpreter} with torch {torch}", flush=True)
        try:
            row = tried(wheel, interpreter, torch, Path(tempfile.mkdtemp(dir=options.folder)))
        except Failed as error:
            print(f"  not run: {error}", file=sys.stderr)
            failed += 1
            continue
        print(f"  {row['tests']}", flush=True)
        failed += not row["passed"]
        rows = record(row, options.results)
        page = files.replace_section(options.page.read_text(), render(rows), SECTION)
        files.write_atomically(options.page, page)
    return 1 if failed else 0


def record(row: dict, out: Path) -> list[dict]:
    """Adds a row to the file of rows, in the place of an older one of that Python and torch; returns all of them."""
    rows = json.loads(out.read_text()) if out.exists() else []
    rows = [old for old in rows if (old["python"], old["torch"]) != (row["python"], row["torch"])]
    rows = sorted([*rows, row], key=lambda r: [int(n) for n in re.findall(r"\d+", r["python"] + " " + r["torch"])])
    files.write_json(out, rows)
    return rows


def render(rows: list[dict]) -> str:
    """The table in Markdown."""
    body = [[r["python"], r["torch"], r["tests"] if r["passed"] else f"FAILED: {r['tests']}", r["date"]] for r in rows]
    return table(["Python", "torch", "tests of the installed wheel", "run on"], body, markdown=True)


def _pair(text: str) -> tuple[str, str]:
    interpreter, found, torch = text.rpartition("=")
    if not found or not interpreter or not shutil.which(interpreter):
        raise argparse.ArgumentTypeError(f"expected PYTHON=TORCH with a Python that is there, got {text!r}")
    return interpreter, torch


def _run(command: list[str], folder: Path | None = None) -> str:
    ran = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    if ran.returncode:
        raise Failed(f"{' '.join(command)}: {(ran.stderr.strip().splitlines() or ['no message'])[-1]}")
    return ran.stdout


if __name__ == "__main__":
    sys.exit(main())
