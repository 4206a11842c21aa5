"""Verdicts: what follows from results, what is kept, what a first call does, and what never happens again."""

import builtins
import errno
import json
import os
import warnings
from dataclasses import replace

import pytest
import torch

import multimix_kernels as mk
from multimix_kernels import __main__ as report
from multimix_kernels import backends
from multimix_kernels.backends.triton import NO_COMPILER
from multimix_kernels.backends.verdicts import checking, choice, kernels, plan, store
from multimix_kernels.verify.checks import precision

from ..support.verify_device import BACKEND, FAULT, Simulated
from .conftest import keep, results

CPU = torch.device("cpu")
LOSS = "mixed_cross_entropy"


def chosen(operation=LOSS, dtype=torch.float32):
    return backends.choose(None, CPU, dtype, operation).name


def warned(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(item.message) for item in caught]


# ---- what follows from results


def test_the_fastest_that_passed_is_chosen():
    found = {name: results()[BACKEND] for name in ("cuda", "triton")}
    times = {
        "cuda": {LOSS: {"float32": [1.0, 8.0], "bfloat16": [1.0, 1.0]}},
        "triton": {LOSS: {"float32": [2.0, 2.0], "bfloat16": [1.0, 2.0]}},
    }  # fmt: skip
    found["triton"]["mix_backward"]["float32"]["failed"] = "why"
    best = plan.choice(found, times, ["cuda", "triton"])
    assert best[LOSS] == {"float32": ["triton", "cuda"], "bfloat16": ["cuda", "triton"]}
    assert best["mix"] == {"float32": ["cuda"], "bfloat16": ["cuda", "triton"]}
    assert "its mix_backward for float32 failed: why" in plan.reason(found, "triton", "mix", "float32")
    del found["cuda"]["sample"]["float32"]
    assert plan.choice(found, times, ["cuda", "triton"])[LOSS]["float32"] == ["triton"]
    assert "its sample for float32 was not checked" in plan.reason(found, "cuda", LOSS, "float32")


def test_kinds_follow_the_precision_of_products():
    with precision("tf32"):
        assert plan.kind_of(torch.float32) == "tf32"
        assert plan.kind_of(torch.bfloat16) == "bfloat16"
    with precision("float32"):
        assert plan.kind_of(torch.float32) == "float32"


# ---- what is kept


def test_a_verdict_is_kept_for_what_it_is_about(simulated, monkeypatch):
    keep(simulated)
    assert store.load_choice(simulated) == store.load(simulated)["choice"]
    assert [file.suffix for file in store.folder().iterdir()] == [".json"]
    assert json.loads(store.path(simulated).read_text())["key"] == store.key(simulated)
    for name, value in (("name", "another GPU"), ("capability", "8.0"), ("driver", "1.2.4")):
        monkeypatch.setattr(Simulated, name, value)
        assert store.load_choice(simulated) is None
        monkeypatch.undo()
        monkeypatch.setenv("MULTIMIX_CACHE", str(store.folder()))


def test_other_kernels_need_another_verdict(simulated, monkeypatch):
    """Files that were written again, with the same or with other contents."""
    keep(simulated)
    before = store.path(simulated).read_text()
    monkeypatch.setattr(kernels, "mark", lambda: "another")
    assert store.load_choice(simulated) is not None
    assert store.path(simulated).read_text() != before, "the next process need not look again"
    monkeypatch.setattr(kernels, "mark", lambda: "a third")
    monkeypatch.setattr(kernels, "hashes", lambda: {"triton": "others", "cuda": "none"})
    assert store.load_choice(simulated) is None


def test_hashes_and_marks_see_every_kernel(monkeypatch, tmp_path):
    folder = tmp_path / "triton"
    (folder / "mixed").mkdir(parents=True)
    (folder / "mixed" / "large.py").write_text("a")
    monkeypatch.setattr(kernels, "_TRITON", folder)
    monkeypatch.setattr(kernels.native, "DIRECTORY", tmp_path)
    take = kernels.mark.__wrapped__
    found = [(kernels.hashes(), take())]
    (folder / "mixed" / "large.py").write_text("bb")
    found.append((kernels.hashes(), take()))
    (tmp_path / "multimix_cuda.so").write_text("c")
    found.append((kernels.hashes(), take()))
    assert found[0][0]["triton"] != found[1][0]["triton"]
    assert found[0][0]["cuda"] == "none" != found[2][0]["cuda"]
    assert len({mark for _, mark in found}) == 3


@pytest.mark.parametrize("spoil", [
    lambda text: "", lambda text: "\x00" * 100, lambda text: text[: len(text) // 2], lambda text: text[:40] + "\n}\n",
    lambda text: "[]\n", lambda text: text.replace('"format":1', '"format":0'), lambda text: text.replace(":[", ":", 1),
], ids=["empty", "zeros", "cut", "cut inside", "list", "format", "syntax"])  # fmt: skip
def test_a_spoilt_file_is_no_verdict(spoil, simulated):
    keep(simulated)
    file = store.path(simulated)
    file.write_text(spoil(file.read_text()))
    assert store.load_choice(simulated) is None
    keep(simulated)
    assert store.load_choice(simulated) is not None


def test_cache_folders(monkeypatch, tmp_path):
    monkeypatch.delenv("MULTIMIX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.folder() == tmp_path / "multimix_kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.folder() == tmp_path / ".cache" / "multimix_kernels"


# ---- what a call does


def test_a_verdict_decides_by_operation(simulated, starts):
    keep(simulated, mix="why it failed")
    assert (chosen(), chosen("sample"), chosen(LOSS, torch.bfloat16)) == (BACKEND,) * 3
    (text,) = warned(lambda: mk.multimix(torch.randn(3, 2), n=2))
    assert f"backend '{BACKEND}' is not used: its mix for float32 failed: why it failed" in text
    assert "python -m multimix_kernels verify" in text
    assert chosen("mix") == chosen(LOSS, torch.float64) == "reference"
    assert warned(lambda: mk.multimix(torch.randn(3, 2), n=2)) == []
    assert starts() == 0


def test_a_tf32_failure_is_not_covered_by_float32(simulated, monkeypatch):
    found = results()
    found[BACKEND][LOSS]["tf32"] = {"cases": 1, "failed": "why"}
    for operator in ("sample", f"{LOSS}_backward"):
        found[BACKEND][operator]["tf32"] = {"cases": 1, "failed": None}
    choices = plan.choice(found, {}, [BACKEND])
    monkeypatch.setattr(choice, "_known", {("cpu", None): choice.Standing(choices, None)})
    with precision("tf32"):
        assert (chosen(), chosen("sample")) == ("reference", BACKEND)
    with precision("float32"):
        assert chosen() == BACKEND


def test_a_warm_verdict_is_read_once(simulated, monkeypatch):
    """Later calls touch no file."""
    keep(simulated)
    assert chosen() == BACKEND

    def refuse(*_, **__):
        raise AssertionError("a file is looked at")

    for module, name in ((builtins, "open"), (os, "open"), (os, "stat"), (os, "read")):
        monkeypatch.setattr(module, name, refuse)
    try:
        names = {chosen(operation) for operation in plan.OPERATIONS}
    finally:
        monkeypatch.undo()
    assert names == {BACKEND}


@pytest.mark.parametrize("value", ["off", "require"])
def test_no_check_is_started(value, simulated, starts, monkeypatch):
    monkeypatch.setenv("MULTIMIX_VERIFY", value)
    if value == "off":
        (text,) = warned(lambda: mk.sample_dirichlet(2, 2))
        assert "have not been verified on this a simulated GPU yet, and MULTIMIX_VERIFY is off" in text
        assert chosen() == "reference"
    else:
        for _ in range(2):
            with pytest.raises(
                RuntimeError, match=r"MULTIMIX_VERIFY=require.*verified.*python -m multimix_kernels verify"
            ):
                mk.sample_dirichlet(2, 2)
        assert chosen(LOSS, torch.float64) == "reference", "no GPU backend is for float64"
        assert mk.sample_dirichlet(2, 2, backend="reference").shape == (2, 2)
    assert starts() == 0
    keep(simulated, mix="why it failed")
    choice._known.clear()
    assert chosen() == BACKEND
    if value == "require":
        with pytest.raises(RuntimeError, match="its mix for float32 failed: why it failed"):
            chosen("mix")


def test_nothing_is_checked_for_what_no_backend_takes(simulated, starts):
    assert warned(lambda: mk.sample_dirichlet(2, 2, dtype=torch.float64)) == []
    assert starts() == 0
    assert choice._known == {}


def test_what_the_variable_may_be(simulated, monkeypatch):
    monkeypatch.setenv("MULTIMIX_VERIFY", "always")
    with pytest.raises(ValueError, match="MULTIMIX_VERIFY: expected auto, off or require, got 'always'"):
        mk.sample_dirichlet(2, 2)


def test_nothing_changes_for_the_cpu(monkeypatch):
    monkeypatch.setenv("MULTIMIX_VERIFY", "require")
    assert mk.sample_dirichlet(2, 2).shape == (2, 2)


def read_only(path, flags, *_, right=os.open, **__):
    """A file system where nothing can be written, also not by root."""
    if flags & os.O_CREAT:
        raise OSError(errno.EROFS, "Read-only file system", path)
    return right(path, flags)


@pytest.mark.parametrize("error", ["a file", "read-only"])
def test_a_folder_that_cannot_be_written(error, simulated, starts, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    if error == "a file":
        monkeypatch.setenv("MULTIMIX_CACHE", str(tmp_path / "file" / "cache"))
    else:
        monkeypatch.setattr(os, "open", read_only)
    texts = warned(lambda: [mk.sample_dirichlet(2, 2) for _ in range(3)])
    assert len(texts) == 1
    assert "no verdict can be kept in" in texts[0]
    assert "set MULTIMIX_CACHE to a folder that can be written" in texts[0]
    assert chosen() == "reference"
    assert starts() == 0


def test_a_verdict_in_a_folder_that_cannot_be_written(simulated, monkeypatch):
    keep(simulated)
    monkeypatch.setattr(store.Lock, "open", None)
    assert chosen() == BACKEND


def test_what_is_missing_is_not_checked(simulated, starts, monkeypatch):
    """No child is started to find out that a backend is not available."""
    rows = {**backends.TABLE, BACKEND: replace(backends.TABLE[BACKEND], missing=lambda index: NO_COMPILER)}
    monkeypatch.setattr(backends, "TABLE", rows)
    (text,) = warned(lambda: mk.sample_dirichlet(2, 2))
    assert f"is not available: {NO_COMPILER}" in text
    assert starts() == 0
    assert store.load(simulated) is None


def test_compiled_without_breaking_the_graph(simulated):
    keep(simulated)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, y: mk.mixed_cross_entropy(x, y, n=4, seed=1), fullgraph=True, backend="eager")
    operands = torch.randn(3, 2), torch.tensor([0, 1, 1])
    assert torch.equal(compiled(*operands), mk.mixed_cross_entropy(*operands, n=4, seed=1, backend=BACKEND))


def test_the_report_says_what_is_used(simulated, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    lines = "\n".join([*report.verdicts(), *report.choices()])
    assert "a simulated GPU: not verified; python -m multimix_kernels verify --device 0" in lines
    assert f"{BACKEND} (where verified), reference" in lines
    keep(simulated, mix="why it failed")
    lines = "\n".join([*report.verdicts(), *report.choices()])
    assert f"a simulated GPU: {BACKEND}: 12 of 14 passed, {store.today()[:10]}" in lines
    assert f"{BACKEND} (sample) {BACKEND} ({LOSS}) reference (mix) for float32, bfloat16" in lines
    assert choice._known == {}, "to report is not to look for good"


# ---- what a child finds


def checked(device, *operators, limit=200.0):
    return checking.run(device, [plan.Part(BACKEND, name, "float32") for name in operators], limit)


def failures(outcome):
    found = outcome.results.get(BACKEND, {})
    return {operator: by_kind["float32"]["failed"] for operator, by_kind in found.items()}


def test_a_crash_fails_its_part_and_no_other(simulated, starts, monkeypatch):
    monkeypatch.setenv(FAULT, "crash:mix")
    outcome = checked(simulated, "sample", "mix", "mix_backward")
    assert failures(outcome) == {"sample": None, "mix": "embeddings: was ended by SIGSEGV", "mix_backward": None}
    assert outcome.problems == {}
    assert starts() == 2


def test_a_hang_fails_its_part_and_no_other(simulated, starts, monkeypatch):
    monkeypatch.setenv(FAULT, "hang:mix")
    monkeypatch.setattr(checking, "SILENCE", 30.0)
    outcome = checked(simulated, "sample", "mix", "mix_backward")
    assert failures(outcome) == {"sample": None, "mix": "embeddings: did not end within 30 s", "mix_backward": None}
    assert starts() == 2


def test_an_illegal_address_fails_its_part_and_no_other(simulated, starts, monkeypatch):
    """The process in which it happened is of no more use."""
    monkeypatch.setenv(FAULT, "lose:mix")
    found = failures(checked(simulated, "sample", "mix", "mix_backward"))
    assert found["mix"] == "embeddings: RuntimeError: CUDA error: an illegal memory access was encountered"
    assert found["sample"] is found["mix_backward"] is None
    assert starts() == 2


def test_an_error_fails_its_part_and_no_other(simulated, starts, monkeypatch):
    monkeypatch.setenv(FAULT, "raise:mix,wrong:mix_backward")
    found = failures(checked(simulated, "sample", "mix", "mix_backward"))
    assert found["mix"] == "embeddings: RuntimeError: PassManager::run failed"
    assert "embeddings: output 0 has error" in found["mix_backward"]
    assert found["sample"] is None
    assert starts() == 1


@pytest.mark.parametrize(("fault", "backend", "said"), [
    ("killed:mix", "", "the process that checks was ended by SIGKILL"), ("compiler:mix", BACKEND, "gcc or clang"),
    ("memory", "", "too little memory is free"), ("exclusive", "", "exclusive compute mode"),
])  # fmt: skip
def test_what_is_not_the_kernels_fault_is_no_failure(fault, backend, said, simulated, monkeypatch):
    monkeypatch.setenv(FAULT, fault)
    outcome = checked(simulated, "mix", "mix_backward")
    assert list(outcome.problems) == [backend]
    assert said in outcome.problems[backend]
    assert failures(outcome) == {}
    assert checking.verdict(simulated, outcome, [BACKEND]) is None


@pytest.mark.slow
def test_the_time_limit(simulated, monkeypatch):
    monkeypatch.setenv(FAULT, "hang:mix")
    outcome = checked(simulated, "sample", "mix", limit=30.0)
    assert failures(outcome) == {"sample": None}
    assert outcome.problems == {BACKEND: "not all of it was checked: there were 30 s for it"}


def test_another_backend_keeps_its_verdict(simulated):
    keep(simulated)
    outcome = checking.Outcome()
    outcome.enter(plan.Part("cuda", "sample", "float32"), 1, None)
    found = checking.verdict(simulated, outcome, ["cuda", BACKEND])
    assert set(found["results"]) == {"cuda", BACKEND}
    assert found["choice"]["sample"]["float32"] == ["cuda", BACKEND]
    assert found["choice"][LOSS]["float32"] == [BACKEND]
