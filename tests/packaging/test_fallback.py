"""Where the reference is used because something better is missing, one warning says why and what mends it."""

import json
import os
import shlex
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import multimix_kernels as mk
from multimix_kernels import backends
from multimix_kernels.backends import TABLE, choose, fallback, native

CPU = torch.device("cpu")


def loss(**options):
    return mk.mixed_cross_entropy(torch.randn(3, 2), torch.tensor([0, 1, 1]), n=4, seed=1, **options)


@pytest.fixture
def unbuilt(monkeypatch, tmp_path):
    """A package in tmp_path / "here" without libraries, which has not warned yet; with why, if it is installed."""

    def install(reason=None):
        folder = tmp_path / "here" / "multimix_kernels" / "backends" / "lib"
        folder.mkdir(parents=True)
        if reason:
            (folder / "build.json").write_text(json.dumps({"cpu": {"reason": reason}, "cuda": {"reason": reason}}))
        else:
            (tmp_path / "here" / "setup.py").touch()
        monkeypatch.setattr(native, "DIRECTORY", folder)
        monkeypatch.setattr(native, "SOURCE", tmp_path / "here")
        built = [entry for entry in sys.path if (Path(entry) / "multimix_kernels/backends/lib").exists()]
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in built])
        clear()
        return tmp_path / "here"

    def clear():
        native.missing.cache_clear()
        native.build_info.cache_clear()
        fallback.warned.clear()

    yield install
    monkeypatch.undo()
    clear()


def warned(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    ours = [item for item in caught if "multimix_kernels" in str(item.message)]  # a torch may warn of itself
    assert all(item.category is UserWarning for item in ours)
    return ours


@pytest.mark.parametrize("call", [
    loss,
    lambda: mk.sample_dirichlet(3, 2),
    lambda: mk.MultiMixHead(2, 2)(torch.randn(3, 2), torch.tensor([0, 1, 1])),
], ids=["function", "sample", "module"])  # fmt: skip
def test_one_warning_at_the_line_that_called(unbuilt, call):
    unbuilt("there was no ninja when it was installed; pip install ninja")
    (warning,) = warned(call)
    text = str(warning.message)
    assert warning.filename == __file__
    assert "there was no ninja when it was installed; pip install ninja" in text
    assert "MULTIMIX_BUILD=cpu pip install --no-build-isolation --no-deps --force-reinstall . in a clone" in text
    assert "MULTIMIX_BACKEND=reference" in text
    assert warned(call) == []


@pytest.mark.parametrize("options", [{"backend": "reference"}, {}], ids=["argument", "variable"])
def test_whoever_names_the_reference_is_not_warned(unbuilt, monkeypatch, options):
    unbuilt("there was no compiler")
    if not options:
        monkeypatch.setenv("MULTIMIX_BACKEND", "reference")
    assert warned(lambda: loss(**options)) == []


def test_compiled_without_breaking_the_graph(unbuilt):
    torch.compile(torch.neg, backend="eager")(torch.ones(1))  # imports what it needs, while the path is whole
    unbuilt("there was no compiler")
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, y: mk.mixed_cross_entropy(x, y, n=4, seed=1), fullgraph=True, backend="eager")
    operands = torch.randn(3, 2), torch.tensor([0, 1, 1])
    (warning,) = warned(lambda: compiled(*operands))
    assert "there was no compiler" in str(warning.message)
    assert warned(lambda: compiled(*operands)) == []


def test_source_tree(unbuilt):
    folder = unbuilt()
    (warning,) = warned(loss)
    assert f"this is the source tree {folder});" in str(warning.message)
    assert f"pip install --no-build-isolation --no-deps --editable {shlex.quote(str(folder))}" in str(warning.message)


def test_source_tree_that_hides_the_installed_package(unbuilt, monkeypatch, tmp_path):
    unbuilt()
    library = tmp_path / "there" / "multimix_kernels" / "backends" / "lib" / "multimix_cpu.so"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.syspath_prepend(tmp_path / "there")
    (warning,) = warned(loss)
    assert f"which hides the package installed in {tmp_path / 'there' / 'multimix_kernels'}" in str(warning.message)
    assert "start Python in another folder" in str(warning.message)


def on_gpu(monkeypatch, **reasons):
    """As if the GPU backends were there, or not there for a reason."""
    rows = {name: replace(TABLE[name], devices=("cuda",), missing=lambda i, r=r: r) for name, r in reasons.items()}
    monkeypatch.setattr(backends, "TABLE", {**TABLE, **rows})
    monkeypatch.setattr(fallback, "warned", set())
    return warned(lambda: choose(None, torch.device("cuda", 0), torch.float16))


def test_gpu_backends_that_are_not_verified(monkeypatch):
    (warning,) = on_gpu(monkeypatch, cuda="there was no nvcc", triton=None)
    text = str(warning.message)
    assert "backend 'cuda' is not available: there was no nvcc" in text
    assert "backend 'triton' is not used: it has not been verified" in text
    assert "python -m multimix_kernels verify" in text


def test_gpu_backends_that_are_missing(monkeypatch):
    (warning,) = on_gpu(monkeypatch, cuda="there was no nvcc", triton="pip install triton")
    assert "'cuda' is not available: there was no nvcc; backend 'triton' is not available: pip install triton" in str(
        warning.message
    )


def test_nothing_better_is_missing(monkeypatch):
    """No backend for GPUs takes float64, and none is for other devices."""
    monkeypatch.setattr(fallback, "warned", set())
    assert warned(lambda: choose(None, torch.device("cuda", 0), torch.float64)) == []
    assert warned(lambda: choose(None, torch.device("meta"), torch.float32)) == []


def test_a_new_process_says_it_once_and_the_report_names_the_folder(tmp_path):
    """A copy of the package without its libraries, in a folder with a space."""
    folder = tmp_path / "a folder"
    package = Path(mk.__file__).parent
    for path in package.rglob("*.py"):
        copy = folder / path.relative_to(package.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    (folder / "setup.py").touch()
    code = "import torch, multimix_kernels as mk\nfor _ in range(3): mk.sample_dirichlet(2, 2)"
    environment = os.environ | {"PYTHONPATH": str(folder)}

    def run(*arguments):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done

    assert run("-c", code).stderr.count("UserWarning") == 1
    report = run("-m", "multimix_kernels")
    assert report.stderr == ""
    assert f"in {folder / 'multimix_kernels'}\n" in report.stdout
    assert "order      cuda (where verified), triton (where verified), cpu, reference" in report.stdout
