"""The README's performance section from a made-up file of results."""

import json

import pytest

from benchmarks import readme, results
from benchmarks.files import marks

BEGIN, END = marks(readme.SECTION)

COMMON = {
    "device_name": "Box, 2 threads", "device": "cpu", "driver": None, "threads": 2, "python": "3.11", "torch": "2.13",
    "triton": None, "library": "0.1", "commit": "0123456789abcdef", "dirty": False, "date": "2025-01-02T03:04:05",
    "dtype": "float32", "load": 0.1, "cores": 2,
}  # fmt: skip


def step(peer, seconds, **fields):
    row = COMMON | {
        "kind": "step",
        "case": "cifar10-r18",
        "n": 1000,
        "mode": "full",
        "peer": peer,
        "ours": peer == "cpu",
    }
    if seconds is None:
        return row | fields
    times = {"median_s": seconds, "q1_s": seconds, "q3_s": seconds, "loss": 2.3, "status": "ok"}
    return row | times | {"ratios": {p: t / seconds for p, t in TIMES.items() if p != peer}} | fields


TIMES = {"paper": 8e-3, "scores": 1e-3, "cpu": 2e-3}
ROWS = [
    step("paper", 8e-3),
    step("scores", 1e-3),
    step("scores-compiled", None, status="failed: no compiler"),
    step("cpu", 2e-3, floor_fraction=0.25),
    step("paper", None, status="out of memory", n=10**6),
    step("cpu", 2.0, n=10**6),
    step("cpu", None, status="WRONG: loss: error 1e-2", case="vit-s"),
    COMMON | {"kind": "memory", "case": "cifar100-r18", "n": 1000, "mode": "full", "peer": "cpu", "ours": True,
              "status": "ok", "peak_bytes": 2**20},
]  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """A README and results; returns the command and the README."""
    results = tmp_path / "results" / "box-2-threads"
    results.mkdir(parents=True)
    (results / "standard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (results / "overview.png").touch()
    text = tmp_path / "README.md"
    text.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")

    def run(*arguments):
        return readme.main(["--readme", str(text), "--results", str(tmp_path / "results"), *arguments])

    return run, text


def test_writes_between_the_marks_and_nowhere_else(files):
    run, text = files
    assert run("--check") == 1
    assert "old" in text.read_text()
    assert run() == 0
    written = text.read_text()
    assert written.startswith(f"# Title\n\n{BEGIN}\n\nMeasured by")
    assert written.endswith(f"{END}\n\nAfter.\n")
    assert "old" not in written
    assert run("--check") == 0
    assert run() == 0
    assert text.read_text() == written


def test_shows_what_is_lost_wrong_and_missing(files):
    run, text = files
    run()
    written = text.read_text()
    (row,) = (line for line in written.splitlines() if line.startswith("| CIFAR-10, ResNet-18 (10 classes) | 1000 |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["CIFAR-10, ResNet-18 (10 classes)", "1000", "2.00 ms (cpu)", "8.00 ms", "not measured",
                     "not measured", "1.00 ms", "failed", "4.00x", "0.50x (slower)", "25%"]  # fmt: skip
    assert "out of memory" in written
    assert (
        "Slower than the fastest peer in 1 of 2 rows: CIFAR-10, ResNet-18 (10 classes) at n 1000 (cpu), "
        "where `scores` is 2.00x as fast." in written
    )
    assert "Wrong, and so without a time: ImageNet, ViT-S (1000 classes) at n 1000 (cpu)." in written
    assert "- GPU (`triton` and `cuda`): not measured yet." in written
    assert "ImageNet, ViT-S (1000 classes) at n 10⁴" in written
    assert "scores of 10 classes at n 10⁵, m 2, 4, 16, 128" in written
    assert "1 MiB" in written
    assert "torch 2.13; Python 3.11; multimix_kernels 0.1; commit 0123456789; 2 threads; 2025-01-02." in written
    assert "](results/box-2-threads/overview.png)" in written


def test_few_examples_are_a_table_of_their_own(files, tmp_path):
    run, text = files
    where = {"case": "scores-10", "n": 10**5, "b": 128}
    rows = [
        step("pairs", 40e-3, **where, m=2), step("scores", 80e-3, **where, m=2), step("cpu", 4e-3, **where, m=2),
        step("cpu", 20e-3, **where, m=16), step("cpu", 30e-3, **where, m=128),
    ]  # fmt: skip
    (tmp_path / "results" / "box-2-threads" / "few.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    run()
    lines = [line for line in text.read_text().splitlines() if line.startswith("| scores of 10 classes")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [
        ["scores of 10 classes", "10⁵", "2", "4.00 ms (cpu)", "40.0 ms", "not measured", "80.0 ms", "not measured",
         "10x", "7.50x", "-"],
        ["scores of 10 classes", "10⁵", "16", "20.0 ms (cpu)", "-", "-", "not measured", "not measured",
         "-", "1.50x", "-"],
        ["scores of 10 classes", "10⁵", "128", "30.0 ms (cpu)", "-", "-", "not measured", "not measured",
         "-", "1.00x", "-"],
    ]  # fmt: skip


def test_rows_without_m_mix_all_examples():
    old, new = step("cpu", 1.0, b=128), step("cpu", 1.0, b=128, m=128)
    assert results.group(old) == results.group(new) != results.group(step("cpu", 1.0, b=128, m=2))


def test_pictures_are_drawn_again(files, tmp_path):
    pytest.importorskip("matplotlib")
    run, _ = files
    assert run("--pictures") == 0
    assert (tmp_path / "results" / "box-2-threads" / "overview.png").stat().st_size > 10_000


def test_of_two_files_the_latest_group_counts(files, tmp_path):
    run, text = files
    newer = [
        row | {"date": "2026-01-01T00:00:00", "median_s": 3e-3} if "median_s" in row else row
        for row in ROWS[:2] + ROWS[3:4]
    ]
    (tmp_path / "results" / "box-2-threads" / "quick.jsonl").write_text("".join(json.dumps(r) + "\n" for r in newer))
    run()
    assert "3.00 ms (cpu)" in text.read_text()
    assert "2.00 ms (cpu)" not in text.read_text()


def test_nothing_measured_says_so():
    from pathlib import Path

    written = readme.render([], Path("results"), Path())
    assert "- CPU (`cpu`): not measured yet." in written
    assert "- GPU (`triton` and `cuda`): not measured yet." in written


@pytest.mark.parametrize("content", ["", BEGIN, f"{END}{BEGIN}"])
def test_a_readme_without_marks_is_left_alone(files, content, capsys):
    run, text = files
    text.write_text(content)
    assert run() == 2
    assert text.read_text() == content
    assert "expected" in capsys.readouterr().err
