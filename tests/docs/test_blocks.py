"""The python code of README.md and docs/ runs as it stands, given what a reader has already."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import multimix_kernels as mk

from .blocks import python_blocks, run

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [*FILES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
pytestmark = pytest.mark.skipif(not FILES[0].exists(), reason="the documents are not beside the tests")


def reader() -> dict:
    """What the documents take for granted: a model in two parts, its data, its optimiser, and PyTorch's names."""
    torch.manual_seed(0)
    b, d, c = 16, 512, 100
    images, labels = torch.randn(b, 3, 8, 8), torch.randint(c, (b,))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(192, d), nn.ReLU())
    backbone = nn.Sequential(nn.Conv2d(3, d, 3, padding=1), nn.ReLU())  # feature maps (b, d, 8, 8)
    head = nn.Linear(d, c)
    model = nn.Sequential(encoder, head)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return dict(
        torch=torch, nn=nn, F=F, b=b, d=d, c=c, n=100, images=images, labels=labels, x=images, y=labels,
        encoder=encoder, backbone=backbone, head=head, model=model, optimizer=optimizer, optimiser=optimizer,
        mlp=nn.Sequential(nn.Linear(d, 64), nn.ReLU(), nn.Linear(64, c)), z=encoder(images),
        maps=backbone(images), tokens=torch.randn(b, 1 + 16, d), prefix=1, loader=[(images, labels)] * 2,
        **{name: getattr(mk, name) for name in mk.__all__},
    )  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_run(path):
    text = path.read_text()
    blocks = python_blocks(text)
    if not blocks:
        pytest.skip("no python in it")
    assert run(path, text, reader()) == sum(not block.not_run for block in blocks)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    """Files and headings of this repository; pages of others are not asked for."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, heading = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path.name}: no {target}"
        if heading:
            assert heading in headings(file.read_text()), f"{path.name}: no heading {target}"


def headings(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    titles = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


EXAMPLE = """
<!-- before: start = 1 -->
```python
if start:
    total = start + 1
```
<!-- not run: it needs a GPU -->
```python
raise SystemExit
```
```sh
exit 1
```
- in a list
  ```python
  total += 1
  ```
"""


def test_a_file_is_read_as_marked():
    blocks = python_blocks(EXAMPLE)
    assert [(block.line, block.before, block.not_run) for block in blocks] == [
        (4, "start = 1", ""), (9, "", "it needs a GPU"), (16, "", ""),
    ]  # fmt: skip
    names = {}
    assert run(Path("EXAMPLE"), EXAMPLE, names) == 2
    assert names["total"] == 3


def test_what_fails_is_told_with_its_line():
    with pytest.raises(ZeroDivisionError) as failure:
        run(Path("EXAMPLE"), EXAMPLE.replace("total += 1", "1 / 0"), {})
    assert failure.traceback[-1].lineno + 1 == 16
