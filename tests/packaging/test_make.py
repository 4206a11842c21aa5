"""What make does first, with interpreters that only write down what they are asked for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not ((ROOT / "Makefile").exists() and shutil.which("make")), reason="this is not a source tree, or there is no make"
)
# Makes virtual environments that are copies of itself; has torch if TORCH is set.
INTERPRETER = """#!/bin/sh
printf '%s\\n' "$*" >> "$LOG"
case "$*" in
  "-c import torch") test -n "$TORCH";;
  *"import importlib.util"*) exec {real} -S "$@";;
  "-m venv"*) for folder; do :; done; mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python";;
esac
"""


class Clone:
    """The files that make looks at, in a folder with a space in its name."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "log"
        for name in ("Makefile", "setup.py", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "csrc").mkdir()
        (folder / "a python").write_text(INTERPRETER.format(real=sys.executable))
        (folder / "a python").chmod(0o755)

    def make(self, *arguments, **variables):
        """The exit status, what make prints, and what the interpreters were asked for."""
        self.log.write_text("")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        environment |= {"LOG": str(self.log), "GPU": "", "BACKEND": "", "ARGS": "", "TORCH": "", **variables}
        command = ["make", *arguments]
        if not any(argument.startswith("PYTHON=") for argument in arguments):
            command.append(f"PYTHON={self.folder / 'a python'}")
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, done.stdout + done.stderr, self.log.read_text()


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "a clone").mkdir()
    return Clone(tmp_path / "a clone")


def test_help_comes_first_and_runs_nothing(clone):
    status, said, asked = clone.make()
    assert (status, asked) == (0, "")
    for target in ("demo", "test", "wheel", "audit", "gpu", "lint"):
        assert f"make {target} " in said
    assert "minutes" in said
    assert clone.make("help")[1] == said


@pytest.mark.parametrize(("arguments", "complaint"), [
    (["wheel"], "make wheel GPU=...: cpu, all, or one or more of a100 "),
    (["wheel", "GPU=h300"], "make wheel GPU=...: h300: neither an architecture such as 9.0a"),
    (["wheel", "GPU=H200,nothing;9.0a"], "make wheel GPU=...: nothing: neither"),
    (["audit"], "make audit: there is no wheel in dist/; make wheel GPU=... builds one"),
    (["kernel-test"], "make kernel-test BACKEND=...: one of triton cuda cpu reference"),
    (["test", "VENV=my env"], "VENV: make cannot use a folder with a space in its name: my env"),
], ids=str)  # fmt: skip
def test_what_is_missing_is_said_before_anything_is_installed(clone, arguments, complaint):
    status, said, asked = clone.make(*arguments)
    assert status != 0
    assert complaint in said
    assert asked == ""
    assert not (clone.folder / ".venv").exists()


def test_gpu_without_torch(clone):
    status, said, asked = clone.make("gpu")
    assert status != 0
    assert "make gpu installs nothing" in said
    assert "has no torch: make gpu PYTHON=..." in said
    assert "benchmarks.gpu" not in asked


@pytest.mark.parametrize("gpu", ["cpu", "all", "a100,H100", "8.0;9.0a", "Hopper"])
def test_wheels_that_can_be_asked_for(clone, gpu):
    status, said, asked = clone.make("wheel", "LINUX=", f"GPU={gpu}")
    assert status == 0, said
    assert asked.splitlines()[-1] == "-m build --wheel --no-isolation --outdir dist"


def installed(asked):
    return [line.split(" install ")[1] for line in asked.splitlines() if " install " in line]


def test_demo_installs_what_it_needs(clone):
    status, said, asked = clone.make("demo", "ARGS=--quick")
    assert status == 0, said
    assert asked.splitlines()[-1] == "-m benchmarks.demo --quick"
    torch, *others = [item for item in installed(asked) if "setuptools" not in item]
    assert "torch==" in torch
    assert others == ["--no-build-isolation --editable .", "multimix_kernels[demo]"]
    assert "installing torch" in said
    assert "minute" in said.splitlines()[-2]
    clone.log.write_text("")
    assert clone.make("demo")[2] == "-m benchmarks.demo\n"


def test_tests_need_no_linters(clone):
    status, said, asked = clone.make("test")
    assert status == 0, said
    assert asked.splitlines()[-1] == "-m pytest"
    assert installed(asked)[-2:] == ["multimix_kernels[demo]", "multimix_kernels[test]"]
    assert "minutes" in said.splitlines()[-2]
    assert installed(clone.make("lint")[2]) == ["multimix_kernels[dev]"]


def test_programs_that_the_other_environment_has(clone):
    """pip installs none of them a second time."""
    for name in ("ruff", "mypy", "clang-format"):
        (clone.folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "$LOG"\n')
        (clone.folder / name).chmod(0o755)
    status, said, asked = clone.make("lint", TORCH="yes")
    assert status == 0, said
    assert [line.split()[0] for line in asked.splitlines()[-4:]] == ["ruff", "ruff", "mypy", "clang-format"]


def test_torch_that_is_there_is_used(clone):
    status, said, asked = clone.make("setup", TORCH="yes")
    assert status == 0, said
    assert "-m venv --system-site-packages .venv" in asked.splitlines()
    assert not any("torch==" in item for item in installed(asked))


def test_environment_made_from_another_python(clone):
    shutil.copy(clone.folder / "a python", clone.folder / "another")
    assert "was made from" not in clone.make("setup")[1] + clone.make("setup")[1]
    status, said, _ = clone.make("setup", "PYTHON=./another")
    assert status == 0
    assert f".venv was made from {clone.folder / 'a python'}, and is kept: make clean removes it" in said
    assert "was made from" not in clone.make("gpu", "PYTHON=./another")[1]


def test_torch_of_a_virtual_environment(clone):
    """One made from it sees the interpreter below both, and its packages only by the file that make writes."""
    other = clone.folder / "other env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", other], check=True, timeout=120)
    (packages,) = other.glob("lib/python*/site-packages")
    (packages / "torch.py").touch()
    status, said, _ = clone.make(".venv/torch", f"PYTHON={other}/bin/python", "PIP=:", "LOUD_PIP=false")
    assert status == 0, said
    assert "with the torch of" in said
    code = "import torch; print(torch.__file__)"
    done = subprocess.run([clone.folder / ".venv/bin/python", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(packages / "torch.py"), done.stderr
