"""`python -m benchmarks.gpu` with steps made up for it: outcomes are kept, the budget holds, nothing needs a GPU."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import files
from benchmarks.gpu import command, metrics, session
from benchmarks.gpu.machine import FILE, Machine
from benchmarks.gpu.parts import PYTHON, Part, Step
from benchmarks.gpu.steps import STEPS
from benchmarks.gpu.summary import read_summary

ROOT = Path(__file__).resolve().parents[2]
GPU = {"gpu": "a GPU", "capability": "9.0", "torch": "2.10.0"}
NAMES = [step.name for step in STEPS]


def part(name, code, **fields):
    return Part(name, (PYTHON, "-c", code), **{"least": 1.0} | fields)


def step(name, *parts, weight=1.0, rehearsal=None):
    return Step(name, f"what {name} does", weight, lambda machine, folder: list(parts), rehearsal)


def report(facts=GPU):
    """The first step, which finds these facts."""

    def parts(machine, folder):
        return [part("report", f"open({str(folder / FILE)!r}, 'w').write({json.dumps(facts)!r})")]

    return Step("report", "", 1.0, parts)


@pytest.fixture
def visit(tmp_path):
    """Runs made-up steps; returns the exit code and the rows of the summary by part."""

    def visit(*steps, arguments=(), minutes=1.0):
        code = command.main(["--out", str(tmp_path), "--minutes", str(minutes), *arguments], list(steps))
        return code, rows_of(tmp_path)

    return visit


def rows_of(folder):
    return {row["part"]: row for record in read_summary(folder)["steps"] for row in record["parts"]}


def status(rows):
    return {name: row["status"] for name, row in rows.items()}


def test_outcomes_are_kept_when_steps_die(visit, tmp_path, capsys):
    dies = "import os, signal; print('before', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    code, rows = visit(
        report(),
        step("a", part("a/fails", "print('what it said'); raise SystemExit(3)"), part("a/dies", dies)),
        step("b", Part("b/absent", ("/nonexistent/program",)), part("b/ok", "print('all of 7 passed')", note=r"\d.*")),
    )
    assert code == 1
    assert status(rows) == {
        "report": "ok", "a/fails": "failed", "a/dies": "failed", "b/absent": "failed", "b/ok": "ok",
    }  # fmt: skip
    assert rows["a/fails"]["exit_code"] == 3
    assert rows["a/fails"]["note"] == "what it said"
    assert rows["a/dies"]["exit_code"] == -signal.SIGKILL
    assert rows["b/ok"]["note"] == "7 passed"
    assert "before" in (tmp_path / rows["a/dies"]["log"]).read_text()
    assert all(rows[name]["seconds"] >= 0 and rows[name]["command"] for name in ("a/fails", "b/ok"))
    summary = read_summary(tmp_path)
    assert (summary["exit_code"], summary["rehearsal"]) == (1, False)
    assert [record["status"] for record in summary["steps"]] == ["ok", "failed", "failed"]
    assert "all of" not in (tmp_path / "summary.txt").read_text()
    assert "7 passed" in capsys.readouterr().out


def test_a_part_that_hangs_is_ended_in_peace_first(visit, tmp_path):
    kept = tmp_path / "kept"
    saves = f"import time\ntry:\n time.sleep(60)\nexcept KeyboardInterrupt:\n open({str(kept)!r}, 'w').write('x')"
    stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    start = time.monotonic()
    slow = step("slow", part("slow/saves", saves, weight=2), part("slow/stubborn", stubborn))
    code, rows = visit(report(), slow, step("b", part("b/ok", "")), minutes=0.15)
    assert time.monotonic() - start < 60 * 0.15
    assert code == 1
    assert status(rows) == {"report": "ok", "slow/saves": "timed out", "slow/stubborn": "timed out", "b/ok": "ok"}
    assert kept.read_text() == "x"
    assert all(row["seconds"] <= row["limit"] + 0.5 for name, row in rows.items() if "slow" in name)


def test_no_process_of_a_part_is_left(visit, tmp_path):
    child = "import time; time.sleep(60)"
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid)"
    visit(report(), step("a", part("a/leaves", code)))
    pid = int((tmp_path / "logs" / "a-leaves.log").read_text().splitlines()[-1])
    for _ in range(50):  # it is killed, and somebody else's to bury
        if not alive(pid):
            break
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_what_there_is_no_time_for_is_said(visit, monkeypatch):
    monkeypatch.setattr(session, "SHORTEST", 100.0)
    code, rows = visit(step("a", part("a/must", "", required=True), part("a/may", "")))
    assert code == 1
    assert status(rows) == {"a/must": "failed", "a/may": "no time"}
    assert rows["a/must"]["note"] == "no time was left for it"


def test_time_that_is_not_used_is_handed_on(visit):
    code, rows = visit(report(), step("a", part("a/1", ""), part("a/2", "", weight=3)), step("b", part("b", "")))
    assert code == 0
    assert rows["a/1"]["limit"] < rows["a/2"]["limit"] < rows["b"]["limit"]
    assert rows["b"]["limit"] > 50


def test_an_important_part_is_given_more_than_its_share(visit):
    _, rows = visit(report(), step("a", part("a", "", least=40.0), weight=0.01), step("b", part("b", "")))
    assert rows["a"]["limit"] == 40
    _, rows = visit(report(), step("a", part("a", "", least=400.0)))
    assert 50 < rows["a"]["limit"] < 60  # but no more than there is


def test_a_missing_tool_is_no_failure_unless_it_is_required(visit):
    code, rows = visit(report(), step("a", part("a/1", "", missing="there is no such tool")))
    assert (code, status(rows)["a/1"], rows["a/1"]["note"]) == (0, "unavailable", "there is no such tool")
    code, rows = visit(report(), step("a", part("a/1", "", missing="no pytest", required=True)))
    assert (code, status(rows)["a/1"]) == (1, "failed")


@pytest.mark.parametrize(("trial", "expected"), [("raise SystemExit('refused')", "unavailable"), ("", "failed")])
def test_a_tool_that_works_nowhere_here_is_told_from_a_fault(visit, trial, expected):
    parts = [part(f"a/{i}", "raise SystemExit(9)", trial=(PYTHON, "-c", trial)) for i in range(2)]
    code, rows = visit(report(), step("a", *parts))
    assert code == int(expected == "failed")
    assert status(rows) == {"report": "ok", "a/0": expected, "a/1": expected}
    assert ("refused" in rows["a/1"]["note"]) == (expected == "unavailable")


def test_a_step_that_cannot_be_planned_leaves_the_others(visit):
    def plan(machine, folder):
        raise ValueError("no plan")

    code, rows = visit(report(), Step("a", "", 1.0, plan), step("empty"), step("b", part("b", "")))
    assert code == 1
    assert status(rows) == {"report": "ok", "a": "failed", "empty": "unavailable", "b": "ok"}


def test_interruption_keeps_what_is_finished(visit, tmp_path, capsys):
    interrupts = "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(60)"
    code, rows = visit(report(), step("a", part("a/1", ""), part("a/2", interrupts)), step("b", part("b", "")))
    assert code == 130
    assert status(rows) == {"report": "ok", "a/1": "ok", "a/2": "interrupted"}
    assert [record["status"] for record in read_summary(tmp_path)["steps"]] == ["ok", "interrupted", "pending"]
    assert "Interrupted" in capsys.readouterr().out


def test_a_kill_leaves_the_summary_of_what_was_finished(tmp_path):
    program = f"""
from benchmarks.gpu.command import main
from benchmarks.gpu.parts import PYTHON, Part, Step
def parts(machine, folder):
    return [Part("report", (PYTHON, "-c", "")), Part("slow", (PYTHON, "-c", "import time; time.sleep(3)"))]
main(["--out", {str(tmp_path)!r}], [Step("report", "", 1, parts)])
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL)
    for _ in range(200):
        if (tmp_path / "summary.json").exists() and status(rows_of(tmp_path)).get("slow") == "running":
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert status(rows_of(tmp_path)) == {"report": "ok", "slow": "running"}


def test_files_are_written_atomically(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_json(path, 1)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_json(path, 2)
    assert path.read_text() == "1\n"


def test_the_summary_is_whole_while_a_part_runs(visit, tmp_path):
    reads = (
        f"import json; print(json.load(open({str(tmp_path / 'summary.json')!r}))['steps'][1]['parts'][-1]['status'])"
    )
    _, rows = visit(report(), step("a", part("a", reads, note="^running$")))
    assert rows["a"]["note"] == "running"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_rehearsal_says_every_step_and_does_not_fail(tmp_path, monkeypatch, capsys):
    facts = {"torch": "2.10.0", "packages": ["pytest", "setuptools"]}
    steps = [report(facts), *STEPS[1:]]
    monkeypatch.setattr(session, "run_child", ran := Children(fail="build/cpu", real=session.run_child))
    assert command.main(["--out", str(tmp_path)], steps) == 0
    rows = rows_of(tmp_path)
    assert [record["step"] for record in read_summary(tmp_path)["steps"]] == NAMES
    assert {name.split("/")[0] for name in rows} == set(NAMES)
    said = {name for name, row in rows.items() if row["status"] == "would run"}
    assert {name.split("/")[0] for name in said} == {"verify", "tests", "sanitize", "bench", "profile"}
    assert {"sanitize/triton-racecheck", "bench/imagenet-r50-bf16", "profile/table"} <= said
    assert not any("cuda" in word for command in ran.commands for word in command)
    output = capsys.readouterr().out
    assert "a rehearsal" in output
    assert rows["build/cpu"]["status"] == "failed"
    assert read_summary(tmp_path)["rehearsal"] is True


class Children:
    """Stands in for child processes: only the report is one."""

    def __init__(self, fail, real):
        self.fail, self.real, self.commands = fail.replace("/", "-"), real, []

    def __call__(self, arguments, log, limit, environment=None):
        if log.name == "report.log":
            return self.real(arguments, log, limit, environment)
        self.commands.append(arguments)
        log.write_text("")
        return session.Outcome("failed" if log.name == f"{self.fail}.log" else "ok", 0.0, 0)


def test_the_plan_for_a_gpu(tmp_path):
    backends = {
        "cuda": {"available": False, "devices": ["cuda"], "reason": "not built"},
        "triton": {"available": True, "devices": ["cuda"], "reason": None},
        "cpu": {"available": True, "devices": ["cpu"], "reason": None},
        "reference": {"available": True, "devices": ["any"], "reason": None},
    }
    machine = Machine(**GPU, cores=16, backends=backends, packages=["pytest", "xdist"], tools={"ncu": "/opt/ncu"})
    assert machine.gpu_backends == ["triton"]
    parts = {p.name: p for s in STEPS for p in s.parts(machine, tmp_path)}
    assert NAMES.index("verify") == NAMES.index("build") + 1
    assert parts["verify"].command[1:] == ("-m", "multimix_kernels", "verify", "--table", str(tmp_path / "verify.txt"))
    assert "--backends=triton" in parts["tests/triton"].command
    assert parts["tests/triton"].command[-2:] == ("-n", "8")
    assert parts["sanitize/triton-memcheck"].missing == "there is no compute-sanitizer"
    assert parts["profile/triton-imagenet-r50"].command[0] == "/opt/ncu"
    assert [name for name in parts if name.startswith("bench")][:2] == [
        "bench/imagenet-r50-bf16", "bench/cifar100-r18-bf16",
    ]  # fmt: skip
    backends["triton"] |= {"available": False, "reason": "no such package"}
    (none,) = STEPS[NAMES.index("tests")].parts(machine, tmp_path)
    assert none.required
    assert "triton: no such package" in none.missing


@pytest.mark.parametrize(
    "arguments", [("--only", "nothing"), ("--skip", "nothing"), ("--skip", "report"), ("--minutes", "0")]
)
def test_wrong_arguments_are_errors(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        command.main([*arguments, "--out", "never/made"])
    assert error.value.code == 2
    assert "error: " in capsys.readouterr().err
    assert not Path("never").exists()


def test_listing_and_choosing(visit, tmp_path, capsys):
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == NAMES
    steps = report(), step("a", part("a", "")), step("b", part("b", "")), step("c", part("c", ""))
    _, rows = visit(*steps, arguments=("--only", "a", "b", "--skip", "b"))
    assert set(rows) == {"report", "a"}
    assert [record["status"] for record in read_summary(tmp_path)["steps"]] == ["ok", "ok", "not chosen", "not chosen"]


def test_the_parent_imports_no_torch():
    code = "import sys; import benchmarks.gpu.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_metrics_of_kernels(tmp_path, capsys):
    path = tmp_path / "ncu.csv"
    head = '"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"'
    rows = [
        ("0", "losses", "Speed", "Duration", "us", "12.5"), ("0", "losses", "Speed", "Memory Throughput", "%", "61"),
        ("0", "losses", "Memory", "Memory Throughput", "Gbyte/s", "2,900"),
        ("1", "reduce", "Launch", "Registers Per Thread", "register/thread", "32"),
    ]  # fmt: skip
    text = "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows)
    path.write_text(f"==PROF== Connected to process 1\n{head}\n{text}\n==PROF== Disconnected\n")
    assert metrics.read_kernels(path) == [
        {"kernel": "losses", "time": "12.5 us", "memory %": "61"}, {"kernel": "reduce", "registers": "32"},
    ]  # fmt: skip
    assert metrics.main([str(path)]) == 0
    assert metrics.main([str(tmp_path / "absent.csv")]) == 1
    assert "2 kernels" in capsys.readouterr().out


def test_only_the_named_backend_and_no_missing_package(tmp_path):
    (tmp_path / "test_made_up.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('backend', ['one', 'two'])\n"
        "def test_it(backend): assert backend == 'one'\n"
        "def test_other(): assert False\n"
    )
    (tmp_path / "test_one.py").write_text("def test_own(): pass\n")
    (tmp_path / "test_lacks.py").write_text("import no_such_package\n")
    (tmp_path / "conftest.py").write_text("")
    arguments = ["-p", "benchmarks.gpu.selection", "--backends=one", "-p", "no:cacheprovider", "-rs", "-c", os.devnull]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert "2 passed, 1 skipped, 2 deselected" in result.stdout
    assert "no_such_package is not installed" in result.stdout
