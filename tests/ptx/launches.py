"""How many kernels one step of the CUDA backend launches, on an H200 by its numbers, without executing any.

`python -m tests.ptx.launches`: a loss with the gradient by scores in bfloat16, b 128, by case and n, as a table in
Markdown. Kernels of the backend only, not those of PyTorch around them.
"""

import os
from collections import Counter

import torch

import multimix_kernels as mk

TARGET, PROCESSORS = "sm_90a", 132
B = 128
ROWS = (10**3, 10**6)
CASES = {
    "cifar10": (10, ()),
    "cifar100": (100, ()),
    "imagenet": (1000, ()),
    "dense-cifar100": (100, (4, 4)),
    "dense-imagenet": (1000, (7, 7)),
}


def launches(c: int, spatial: tuple[int, ...], n: int) -> Counter:
    """By kernel."""
    from .cuda import plugin, table

    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(B, c, *spatial, generator=generator).bfloat16().requires_grad_()
    labels = torch.randint(c, (B,), generator=generator)
    plugin.reports()
    with plugin.recorded(PROCESSORS, scratch=0):
        mk.mixed_cross_entropy(scores, labels, n=n, seed=1, backend="cuda").backward()
    found = [name for name, _ in plugin.reports()]
    names = table.demangled(found)
    return Counter(names[name] for name in found)


def main() -> None:
    """Prints the table."""
    os.environ["MULTIMIX_PTX_TARGET"] = TARGET
    print(f"cuda, {TARGET}, {PROCESSORS} multiprocessors, bfloat16, b {B}: launches of a loss with its gradient\n")
    print("| case | classes | locations | n | launches | kernels |\n|---|---|---|---|---|---|")
    for name, (c, spatial) in CASES.items():
        for n in ROWS:
            found = launches(c, spatial, n)
            kernels = ", ".join(f"{count} `{kernel}`" for kernel, count in found.items())
            places = torch.Size(spatial).numel()
            print("|", " | ".join(map(str, (name, c, places, f"{n:,}", f"{found.total():,}", kernels))), "|")


if __name__ == "__main__":
    main()
