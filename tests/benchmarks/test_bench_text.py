"""Numbers and tables as people read them."""

import pytest

from benchmarks import text


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (12.34, "12.3 s"),
        (1.0, "1.00 s"),
        (0.1234, "123 ms"),
        (0.00456, "4.56 ms"),
        (7.89e-5, "78.9 µs"),
        (2e-8, "0.02 µs"),
    ],
)
def test_duration(seconds, expected):
    assert text.duration(seconds) == expected


@pytest.mark.parametrize(("n", "expected"), [(500, "500"), (1000, "1000"), (10**4, "10⁴"), (25 * 10**4, "2.5·10⁵")])
def test_number(n, expected):
    assert text.number(n) == expected


@pytest.mark.parametrize(("count", "expected"), [(2048, "2 KiB"), (7.5 * 2**20, "7.5 MiB"), (2**42, "4.1e+03 GiB")])
def test_size(count, expected):
    assert text.size(count) == expected


def test_ratio():
    assert [text.ratio(x) for x in (None, 0.512, 9.5, 12.3)] == ["-", "0.51x", "9.50x", "12x"]


@pytest.mark.parametrize(("markdown", "rule"), [(False, "---------"), (True, "|:---")])
def test_table(markdown, rule):
    lines = text.table(["a", "b", "note"], [["long name", "1", "x"], ["s", "22", ""]], markdown).splitlines()
    assert [line.replace("|", " ").split() for line in lines[2:]] == [["long", "name", "1", "x"], ["s", "22"]]
    assert lines[1].startswith(rule)
    assert lines[2].index("1") == lines[3].index("22") + 1  # numbers to the right


def test_table_without_tabulate(monkeypatch):
    monkeypatch.setattr(text, "tabulate", None)
    assert text.table(["a", "b"], [["c", "1"]]) == "a | b\nc | 1"
