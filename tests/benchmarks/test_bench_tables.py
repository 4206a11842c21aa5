"""Numbers and tables as people read them."""

import pytest

from benchmarks import tables


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (12.34, "12.3 s"),
        (1.0, "1.00 s"),
        (0.1234, "123 ms"),
        (0.00456, "4.56 ms"),
        (7.89e-5, "78.9 µs"),
        (2e-8, "0.02 µs"),
    ],
)
def test_duration(seconds, text):
    assert tables.duration(seconds) == text


@pytest.mark.parametrize(("n", "text"), [(500, "500"), (1000, "1000"), (10**4, "10⁴"), (25 * 10**4, "2.5·10⁵")])
def test_number(n, text):
    assert tables.number(n) == text


@pytest.mark.parametrize(("count", "text"), [(2048, "2 KiB"), (7.5 * 2**20, "7.5 MiB"), (3 * 2**40, "3.07e+03 GiB")])
def test_size(count, text):
    assert tables.size(count) == text


def test_ratio():
    assert [tables.ratio(x) for x in (None, 0.512, 9.5, 12.3)] == ["-", "0.51x", "9.50x", "12x"]


def test_table():
    assert tables.table(["a", "b", "note"], [["long name", "1", "x"], ["s", "22", ""]]) == (
        "a           b  note\n---------  --  ----\nlong name   1  x\ns          22"
    )


def test_markdown_table():
    assert tables.table(["a", "bb"], [["x", "1"]], markdown=True) == "| a | bb |\n| - | -: |\n| x |  1 |"


def test_a_step_table_says_what_is_missing_and_what_loses():
    common = {"case": "cifar10-r18", "n": 1000, "mode": "full", "dtype": "float32", "device_name": "box", "loss": 2.5}
    times = {"q1_s": 0.9e-3, "q3_s": 1.1e-3, "status": "ok"}
    rows = [
        common | {"peer": "paper", "ours": False, "status": "out of memory"},
        common | times | {"peer": "scores", "ours": False, "median_s": 1e-3, "ratios": {"cpu": 2.0}},
        common
        | times
        | {"peer": "cpu", "ours": True, "median_s": 2e-3, "ratios": {"scores": 0.5}, "floor_fraction": 0.4},
    ]
    title, _, _, paper, scores, ours, verdict = tables.step_table(rows).splitlines()
    assert title == "cifar10-r18 (b 128, d 512, c 10), n 1000, forward + backward, float32, box"
    assert paper.split() == ["paper", *"------", "out", "of", "memory"]
    assert scores.split() == ["scores", "1.00", "ms", "20%", "-", "1.00x", "-", "2.5000"]
    assert ours.split() == ["cpu", "2.00", "ms", "10%", "-", "0.50x", "40%", "2.5000", "multimix_kernels"]
    assert verdict == "cpu LOSES: the fastest peer (scores) is 2.00x as fast"
