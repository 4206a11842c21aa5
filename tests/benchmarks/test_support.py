"""The support table."""

import json

import pytest

from benchmarks.files import replace_section
from benchmarks.packaging import support
from benchmarks.results import RESULTS
from benchmarks.system import ROOT

ROW = {
    "python": "3.12.1",
    "torch": "2.14.1+cu130",
    "wheel": "w.whl",
    "date": "2026-01-02",
    "passed": True,
    "tests": "9",
}


def test_a_row_takes_the_place_of_its_elder(tmp_path):
    out = tmp_path / "support.json"
    support.record(ROW | {"python": "3.12.10"}, out)
    support.record(ROW | {"tests": "8"}, out)
    rows = support.record(ROW, out)
    assert [(row["python"], row["tests"]) for row in rows] == [("3.12.1", "9"), ("3.12.10", "9")]
    assert rows == json.loads(out.read_text())


def test_failures_are_shown():
    assert "FAILED: 1 failed" in support.render([ROW | {"passed": False, "tests": "1 failed, 8 passed"}])


def test_the_page_shows_the_results():
    page = (ROOT / "docs" / "installation.md").read_text()
    rows = json.loads((RESULTS / "support.json").read_text())
    assert page == replace_section(page, support.render(rows), support.SECTION)


@pytest.mark.parametrize("pair", ["2.13.0", "=2.13.0", "no-such-python=2.13.0"])
def test_a_pair_names_a_python_that_is_there(pair, capsys):
    with pytest.raises(SystemExit):
        support.main(["w.whl", "--with", pair])
    assert "expected PYTHON=TORCH" in capsys.readouterr().err
