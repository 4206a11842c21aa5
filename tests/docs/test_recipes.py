"""Every recipe runs as a program of its own, learns something, and is left out only where a package is missing."""

import difflib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

import multimix_kernels

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
CASES = {
    "plain.py": (),
    "two_lines.py": (),
    "manifold_mixup.py": (),
    "vit_tokens.py": (),
    "ddp.py": ("torch.distributed",),
    "ddp.py --all-ranks": ("torch.distributed",),
    "with_lightning.py": ("lightning",),
    "with_transformers.py": ("transformers", "accelerate"),
    "with_timm.py": ("timm", "torchvision"),
    "with_torchvision.py": ("torchvision",),
}
pytestmark = pytest.mark.skipif(not RECIPES.exists(), reason="the documents are not beside the tests")


def python(*arguments: str) -> subprocess.CompletedProcess:
    package = Path(multimix_kernels.__file__).parents[1]
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600)


def require(package: str) -> None:
    """Skips where it is not installed, or does not import beside this torch."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    if package in ("timm", "torchvision"):
        done = python("-c", f"import {package}")
        if done.returncode:
            pytest.skip(f"{package} does not import beside this torch: {done.stderr.strip().splitlines()[-1]}")


@pytest.mark.parametrize("command", CASES)
def test_it_runs_and_learns(command):
    pytest.importorskip("sklearn")
    if "torch.distributed" in CASES[command] and not dist.is_available():
        pytest.skip("this torch has no distributed package")
    for package in CASES[command]:
        if package != "torch.distributed":
            require(package)
    name, *arguments = command.split()
    done = python(*(TORCHRUN if name == "ddp.py" else ()), str(RECIPES / name), *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    accuracies = re.findall(r"accuracy (0\.\d+|1\.0+)", done.stdout)
    assert accuracies, done.stdout
    assert float(accuracies[-1]) > 0.3, done.stdout  # ten classes
    if name == "with_transformers.py":
        found, plain = re.search(r"test loss (\S+) \(plain (\S+)\)", done.stdout).groups()
        assert found == plain


def test_every_recipe_is_run_and_listed():
    scripts = {path.name for path in RECIPES.glob("*.py")} - {"digits.py"}
    assert scripts == {command.split()[0] for command in CASES}
    listed = (RECIPES / "README.md").read_text()
    assert all(f"({name})" in listed for name in scripts)


def test_two_lines_change():
    """Beside the docstring: an import, and the loss."""
    before, after = ((RECIPES / name).read_text().split('"""')[2] for name in ("plain.py", "two_lines.py"))
    changes = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-" and line[2:]]
    assert changes == [
        "+ from multimix_kernels import mixed_cross_entropy",
        "-         loss = F.cross_entropy(model(x), y)",
        "+         loss = mixed_cross_entropy(model(x), y, n=1000)",
    ]


@pytest.mark.parametrize("name", sorted({command.split()[0] for command in CASES} - {"plain.py"}))
def test_each_shows_the_same_lines(name):
    text = (RECIPES / name).read_text()
    assert re.search(r"^from multimix_kernels import ", text, re.MULTILINE)
    assert re.search(r"(criterion|train_loss_fn|head) = MultiMix(Loss|Head)\(|loss = mixed_cross_entropy\(", text)
