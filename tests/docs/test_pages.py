"""Pages that must agree with the code: the functions, the changelog, the citation."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import multimix_kernels as mk
from multimix_kernels.backends.reference import stream

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the documents are not beside the tests")


def test_the_page_of_the_functions_is_up_to_date():
    done = subprocess.run([sys.executable, "docs/api.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_has_every_public_name():
    text = (ROOT / "docs" / "api.md").read_text()
    for name in set(mk.__all__) - {"__version__"} | {"distributed.gather", "distributed.share"}:
        assert f"\n### {name}\n" in text


def test_a_docstring_becomes_markdown():
    api = runpy.run_path(str(ROOT / "docs" / "api.py"))
    found = api["prose"](
        "Computes.\n\n    x = 1\n    y = 2\n\nArgs:\n    a, b: one\n        two.\n    c: three: four.\n"
    )
    assert found == "Computes.\n\n    x = 1\n    y = 2\n\n**Args**\n\n- `a`, `b`: one two.\n- `c`: three: four."


def test_the_changelog_names_the_weight_stream():
    version = re.search(r"weight stream, version (\d+)", stream.__doc__)[1]
    assert f"**weight stream {version}**" in (ROOT / "CHANGELOG.md").read_text()


def test_the_versions_agree():
    assert f"version: {mk.__version__.split('+')[0]}\n" in (ROOT / "CITATION.cff").read_text()
    assert mk.__version__.split("+")[0] in (ROOT / "CHANGELOG.md").read_text()


def test_the_tests_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for name in set(re.findall(r"`(?:\w+\.py::)?(test_\w+)(?:\[[^`]*\])?`", text)):
        assert f"def {name}(" in sources, name
