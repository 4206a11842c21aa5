"""What mixtures of few examples save on a GPU, in warp instructions that the virtual one executes.

`python -m tests.ptx.executed BACKEND TARGET`, such as cuda sm_90a or triton sm_90: of one loss with the gradient by
scores, b 128, by m and kernel, as a table in Markdown. These are counts, not times: a matrix instruction counts as one.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager

import torch

import multimix_kernels as mk

B, N = 128, 1024
CLASSES = (10, 100)
EXAMPLES = (2, 16, B)
OTHER = "others"
SHOWN = 4  # kernels with a column of their own


@contextmanager
def cuda(target: str):
    """The CUDA backend, whose PTX nvcc made; yields what has been executed since the last time."""
    os.environ["MULTIMIX_PTX_TARGET"] = target
    from .cuda import plugin, table

    def executed() -> Counter:
        found: Counter = Counter()
        for name, report in plugin.reports():
            found[name] += table.instructions(report)
        names = table.demangled(found)
        return sum((Counter({names[name]: count}) for name, count in found.items()), Counter())

    yield executed


@contextmanager
def triton(target: str):
    """The Triton backend."""
    from .triton_driver import Machine, virtual_gpu

    with virtual_gpu(int(target.removeprefix("sm_")), Machine()) as gpu:

        def executed() -> Counter:
            found = Counter({name: counts["executed"] for name, counts in gpu.counts.items()})
            gpu.counts.clear()
            return found

        yield executed


def counts(backend: str, c: int, m: int, executed: Callable[[], Counter]) -> Counter:
    """Warp instructions by kernel."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(B, c, generator=generator).bfloat16().requires_grad_()
    labels = torch.randint(c, (B,), generator=generator)
    executed()
    mk.mixed_cross_entropy(scores, labels, n=N, m=m, seed=1, backend=backend).backward()
    return executed()


def main(backend: str, target: str) -> None:
    """Prints the table."""
    with {"cuda": cuda, "triton": triton}[backend](target) as executed:
        rows = {(c, m): counts(backend, c, m, executed) for c in CLASSES for m in EXAMPLES}
    most = [name for name, _ in sum(rows.values(), Counter()).most_common(SHOWN)]
    print(f"{backend}, {target}, bfloat16, b {B}, n {N}: warp instructions\n")
    print("| classes | m | all | of m = b |", *(f" `{name}` |" for name in most), f" {OTHER} |", sep="")
    print("|---" * (5 + len(most)) + "|")
    for (c, m), found in rows.items():
        whole, shown = found.total(), [found[name] for name in most]
        share = whole / rows[c, B].total()
        cells = [c, m, f"{whole:,}", f"{share:.2f}", *(f"{x:,}" for x in (*shown, whole - sum(shown)))]
        print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    main(*sys.argv[1:])
