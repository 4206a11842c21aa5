"""First calls as users make them: in processes that know nothing yet, several at once, forked, and the command."""

import os
import traceback
from importlib.util import find_spec

import pytest
import torch

from multimix_kernels import backends
from multimix_kernels.backends.verdicts import choice, store

from ..ptx import machine
from ..ptx.cuda import build
from ..support.verify_device import BACKEND, FAULT
from .conftest import run

KEPT = "kept in "


def forked(count, tmp_path):
    """What processes that are forked from this one choose, all at once, and what they warn of."""
    pids = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                name = backends.choose(None, torch.device("cpu"), torch.float32).name
                problem = choice._known["cpu", None].problem
                (tmp_path / f"{number}.txt").write_text(f"{name}: {problem}")
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return [(tmp_path / f"{number}.txt").read_text() for number in range(count)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks where threads are
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_eight_processes_at_once(simulated, starts, tmp_path, capfd):
    """After a fork, too: one checks, and the others wait for its verdict."""
    assert forked(8, tmp_path) == [f"{BACKEND}: None"] * 8
    assert starts() == 1
    said = capfd.readouterr().err
    assert said.count("multimix_kernels: verifying triton on a simulated GPU, once, in a process of its own") == 1
    assert forked(2, tmp_path) == [f"{BACKEND}: None"] * 2
    assert starts() == 1
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_who_waited_does_not_try_what_could_not_be_done(simulated, starts, tmp_path, monkeypatch):
    monkeypatch.setenv(FAULT, "exclusive")
    found = forked(4, tmp_path)
    assert len(set(found)) == 1
    assert "exclusive compute mode" in found[0]
    assert found[0].startswith("reference")
    assert starts() == 1
    assert store.load(simulated) is None


def test_a_wrong_kernel_is_not_used(simulated, starts, monkeypatch):
    """A new process says what it does, uses the reference for what failed, and remembers."""
    monkeypatch.setenv(FAULT, "wrong:mixed_cross_entropy_backward,crash:soft_cross_entropy")
    first, second = run("choose"), run("choose")
    assert (first.stdout, second.stdout) == ("reference\n", "reference\n"), first.stderr
    assert first.stderr.count("MULTIMIX_VERIFY=off skips it") == 1
    assert "verifying" not in second.stderr
    for done in (first, second):
        assert done.stderr.count("UserWarning") == 1
        assert "its mixed_cross_entropy_backward for float32 failed: few classes: output 0 has error" in done.stderr
    assert starts() == 3, "the check goes on after a crash, one for each precision"
    kept = store.load(simulated)["results"][BACKEND]
    assert "was ended by SIGSEGV" in kept["soft_cross_entropy"]["bfloat16"]["failed"]
    assert kept["soft_cross_entropy_backward"]["bfloat16"]["failed"] is None


def test_the_command(simulated, tmp_path):
    file = tmp_path / "table.txt"
    done = run("verify", "--table", str(file))
    assert done.returncode == 0, done.stderr
    assert "14/14" in done.stdout
    table = file.read_text()
    assert table.strip() in done.stdout
    assert "triton mixed_cross_entropy_backward   9 passed   9 passed" in table
    assert "float32, the paper's order" in table
    assert f"mixed_cross_entropy: bfloat16 {BACKEND}, float32 {BACKEND}" in table
    assert f"{KEPT}{store.path(simulated)}" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tests.ptx") is None, reason="there is no virtual GPU")
@pytest.mark.parametrize("architecture", [80, 90])
def test_triton_on_the_virtual_gpu(architecture, simulated):
    """Its kernels as they are compiled pass."""
    virtual = {"MULTIMIX_TEST_RUNS": f"virtual {architecture}", "MULTIMIX_TEST_KINDS": "bfloat16"}
    done = run("verify", seconds=3600, MULTIMIX_TEST_SILENCE="1200", **virtual)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(build.missing() is not None, reason=f"the CUDA kernels: {build.missing()}")
@pytest.mark.parametrize("target", [pytest.param("sm_80", marks=pytest.mark.slow), "sm_90a"])
def test_cuda_on_the_virtual_gpu(target, simulated):
    """Its kernels as nvcc's PTX pass."""
    build.build(machine.build())
    kinds = "bfloat16 float16 float32 tf32"
    done = run("verify", seconds=900, MULTIMIX_TEST_RUNS=f"virtual {target}", MULTIMIX_TEST_KINDS=kinds)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_says_what_failed(simulated, monkeypatch):
    monkeypatch.setenv(FAULT, "unsteady:mix,compiler:soft_cross_entropy_backward")
    done = run("verify", "--backend", BACKEND)
    assert done.returncode == 1
    assert "triton mix float32: FAILED: embeddings: a second run gave other bits" in done.stdout
    assert "triton could not be checked: Triton needs a C compiler" in done.stderr
    assert "not checked: triton: Triton needs a C compiler" in done.stdout


def test_the_command_without_a_device(monkeypatch, capsys):
    from multimix_kernels.verify import command

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert command.main([]) == 2
    assert "PyTorch sees no GPU here: there is nothing to verify" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--backend", "reference"])
