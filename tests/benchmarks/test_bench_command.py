"""`python -m benchmarks` end to end on tiny sizes: refusals, slow kernels, interruption."""

import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import system
from benchmarks.results import RESULTS, read
from benchmarks.speed import command, steps
from benchmarks.speed.floors import Rates
from benchmarks.speed.timing import Budget
from multimix_kernels.ops import OPERATORS

LOSSES = ("mixed_cross_entropy", "soft_cross_entropy")


@pytest.fixture
def run(monkeypatch, tmp_path, backend, device):
    """Runs the command on one small group; returns its exit code and its rows."""
    monkeypatch.setattr(command, "measure_rates", lambda *_: Rates(1e11, 1e9, 1e8))
    monkeypatch.setattr(command, "QUICK", replace(command.QUICK, budget=Budget(0.0, 3, 3)))

    def run(*arguments, n=("40",)):
        code = command.main([
            "--quick", "--steps", "--cases", "cifar10-r18", "--n", *n, "--peers", "paper", "scores",
            "--backend", backend, "--device", device.type, "--out", str(tmp_path), "--threads", "1", *arguments,
        ])  # fmt: skip
        return code, read(tmp_path / "quick.jsonl")

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


def plant(monkeypatch, backend, change):
    """Replace the loss operators of a backend by change(operator)."""
    for name in LOSSES:
        monkeypatch.setitem(OPERATORS[backend], name, change(OPERATORS[backend][name]))


def ours(rows):
    return [row for row in rows if row["kind"] == "step" and row["ours"]]


def test_a_run(run, backend, capsys):
    code, rows = run()
    assert code == 0
    assert {row["kind"] for row in rows} == {"floor", "check", "step"}
    (row,) = ours(rows)
    assert row["status"] == "ok"
    assert row["floor_fraction"] == pytest.approx(sum(row["floor_parts_s"].values()) / row["median_s"])
    (paper,) = (r for r in rows if r.get("peer") == "paper")
    assert row["ratios"]["paper"] == pytest.approx(paper["median_s"] / row["median_s"])
    assert all(row[field] for field in ("device_name", "torch", "python", "library", "date", "threads"))
    assert {"commit", "dirty", "triton", "driver"} <= row.keys()
    output = capsys.readouterr().out
    assert f"{backend}, float32" in output
    assert "the same" in output


@pytest.mark.parametrize("part", [0, 1], ids=["loss", "gradient"])
def test_a_wrong_kernel_is_refused(run, monkeypatch, backend, capsys, part):
    def scaled(operator):
        def wrong(*arguments):
            results = list(operator(*arguments))
            results[part] = results[part] * 1.01
            return tuple(results)

        return wrong

    plant(monkeypatch, backend, scaled)
    code, rows = run()
    assert code == 1
    (row,) = ours(rows)
    assert row["status"].startswith("WRONG")
    assert "median_s" not in row
    assert "ratios" not in row
    assert all(backend not in r.get("ratios", {}) for r in rows)
    captured = capsys.readouterr()
    assert "as fast" not in captured.out
    assert "WRONG" in captured.err


def test_a_kernel_that_is_wrong_only_for_many_rows_is_refused(run, monkeypatch, backend):
    def truncated(operator):
        def wrong(*arguments):
            loss, *rest = operator(*arguments)
            n = next(a for a in arguments[-5:] if isinstance(a, int))
            return (loss * 1.5 if n > 600 else loss), *rest

        return wrong

    plant(monkeypatch, backend, truncated)
    code, rows = run(n=("700",))
    assert code == 1
    assert "the loss is" in ours(rows)[0]["status"]


def test_a_slow_kernel_shows(run, monkeypatch, backend, capsys):
    def slowed(operator):
        def slow(*arguments):
            time.sleep(0.05)
            return operator(*arguments)

        return slow

    plant(monkeypatch, backend, slowed)
    code, rows = run()
    assert code == 0
    (row,) = ours(rows)
    assert row["median_s"] > 0.05
    assert row["ratios"]["scores"] < 1
    assert f"{backend} LOSES" in capsys.readouterr().out


def test_an_interrupted_run_keeps_what_is_finished(run, monkeypatch, capsys):
    calls = []

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments)

    measure = steps.measure
    monkeypatch.setattr(steps, "measure", interrupted)
    code, rows = run(n=("40", "50"))
    assert code == 130
    assert {row["n"] for row in rows if row["kind"] == "step"} == {40}
    assert len([row for row in rows if row["kind"] == "step"]) == 3
    output = capsys.readouterr().out
    assert "Interrupted; the finished rows are kept." in output
    assert "quick.jsonl" in output


def test_a_peer_that_needs_too_much_memory_is_shown(run, monkeypatch):
    monkeypatch.setattr(steps, "available_bytes", lambda device: 0)
    _, rows = run()
    status = {row["peer"]: row["status"] for row in rows if row["kind"] == "step"}
    assert status["paper"] == status["scores"] == "out of memory"


def test_a_peer_that_would_take_too_long_is_shown(run, monkeypatch):
    monkeypatch.setattr(steps.StepRunner, "_estimate", lambda self, peer, problem: 1000.0 if not peer.ours else 0.0)
    _, rows = run()
    status = {row["peer"]: row["status"] for row in rows if row["kind"] == "step"}
    assert status["paper"] == "too slow (est. 1000 s)"


def test_the_time_of_a_step_is_foreseen(run, monkeypatch, backend):
    level = replace(command.QUICK, limit=1e-5)
    monkeypatch.setattr(command, "QUICK", level)
    _, rows = run(n=("5000",))
    steps_ = [row["status"] for row in rows if row["kind"] == "step"]
    assert all(status.startswith("too slow (est. ") for status in steps_)


def test_a_peer_that_fails_says_why(run, monkeypatch):
    from benchmarks.speed import peers

    def broken(*_):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(peers, "draw", broken)
    code, rows = run()
    assert code == 0
    status = {row["peer"]: row["status"] for row in rows if row["kind"] == "step"}
    assert status["paper"] == "failed: RuntimeError: no such luck"
    assert ours(rows)[0]["status"] == "ok"


def test_busy_neighbours(run, tmp_path, monkeypatch):
    """A process keeps a core busy while steps are measured, and is gone afterwards; its rows are kept apart."""
    started = []

    def popen(*arguments, **options):
        started.append(subprocess.Popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(system, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": popen}))
    code, rows = run("--busy")
    assert (code, rows) == (0, [])
    rows = read(tmp_path / "quick-busy1.jsonl")
    assert ours(rows)
    assert {row["neighbours"] for row in rows} == {1}
    assert sum(process.returncode is not None for process in started) == len(started) >= 1


def test_busy_neighbours_are_not_recorded(capsys):
    assert command.main(["--record", "--busy", "2"]) == 2
    assert "--busy" in capsys.readouterr().err


def test_a_second_run_replaces_its_groups_only(run):
    run(n=("40", "50"))
    _, rows = run(n=("50",))
    assert sorted(row["n"] for row in ours(rows)) == [40, 50]


def test_few_examples(run, backend):
    code, rows = run("--cases", "scores-10", "cifar10-r18", "--m", "2", "128", "--peers", "scores", "pairs", "paper")
    assert code == 0
    steps = [row for row in rows if row["kind"] == "step"]
    assert all(row["status"] == "ok" for row in steps)
    measured = {(row["case"], row["m"]): set() for row in steps}
    for row in steps:
        measured[row["case"], row["m"]].add(row["peer"])
    assert measured == {
        ("scores-10", 2): {"scores", "pairs", backend},
        ("scores-10", 128): {"scores", backend},  # from scores the paper's order is no other
        ("cifar10-r18", 2): {"paper", "scores", "pairs", backend},
        ("cifar10-r18", 128): {"paper", "scores", backend},
    }
    assert {(row["case"], row["m"]) for row in rows if row["kind"] == "check"} == set(measured)


def test_a_wrong_kernel_of_few_examples_is_refused(run, monkeypatch, backend):
    def scaled(operator):
        def wrong(*arguments):
            loss, *rest = operator(*arguments)
            return loss * 1.01, *rest

        return wrong

    plant(monkeypatch, backend, scaled)
    code, rows = run("--cases", "scores-10", "--m", "2")
    assert code == 1
    assert ours(rows)[0]["status"].startswith("WRONG")


def test_few_selects_the_cases_from_scores():
    options = command._parser().parse_args(["--few"])
    chosen = command._Run(options)
    assert {(case.from_scores, m) for case, _, _, m in chosen.groups} == {(True, m) for m in (2, 4, 16, None)}
    assert chosen.parts == {"steps": True, "sampler": True, "memory": False}


def test_results_are_kept_outside_the_source_unless_asked():
    folders = [command._Run(command._parser().parse_args(a)).recorder.path.parent.parent for a in ([], ["--record"])]
    assert folders == [Path("out/bench"), RESULTS]


def test_more_examples_than_there_are_is_refused(capsys):
    assert command.main(["--m", "129"]) == 2
    assert "at most the 128 of cifar10-r18; got 129" in capsys.readouterr().err


def test_unknown_names_are_refused(capsys):
    assert command.main(["--cases", "nothing"]) == 2
    assert "there is no case 'nothing'" in capsys.readouterr().err
