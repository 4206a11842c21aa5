"""`python -m benchmarks.gpu.workload`: a few steps in one process, for tools that watch a program.

Without `--case` every operation once, forward and backward, at small sizes that reach all kernels. With it one step of
that case, warm; `--profile` shows the profiler this step and nothing else.
"""

import argparse
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

import multimix_kernels as mk
from benchmarks.cases import CASES, DTYPES, make_problem, our_loss

SMALL = ((5, 3, 10, 33), (17, 8, 300, 65))  # b, d, c, n: few classes, and more than one tile holds
SPATIAL = (2, 3)
SEED = 20231109


def main(arguments: list[str] | None = None) -> int:
    """Run; 1 if a result is not finite."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu.workload", description=__doc__)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args(arguments)
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    torch.manual_seed(SEED)
    if options.case is None:
        results = list(small(options.backend, device, dtype))
    else:
        results = [("one step", one_step(options, device, dtype))]
    wrong = [name for name, tensors in results if not all(bool(x.isfinite().all()) for x in tensors)]
    print(f"{len(results)} results, not finite: {', '.join(wrong) or 'none'}")
    return int(bool(wrong))


def small(backend: str, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Every operation by name, with what it returns."""
    for b, d, c, n in SMALL:
        options = dict(n=n, seed=SEED, backend=backend)
        z, maps, weight, bias = (
            torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
            for shape in ((b, d), (b, d, *SPATIAL), (c, d), (c,))
        )
        labels = torch.randint(c, (b,), device=device)
        soft = torch.rand(b, c, device=device).softmax(1).to(dtype)
        where = f"b {b}, c {c}"

        def step(loss, *operands):
            return (loss.detach(), *torch.autograd.grad(loss.sum(), operands))

        for kind, target in (("labels", labels), ("probabilities", soft)):
            for reduction in ("mean", "none"):
                loss = mk.multimix_cross_entropy(z, target, weight, bias, reduction=reduction, **options)
                yield f"loss, {kind}, {reduction}, {where}", step(loss, z, weight, bias)
        loss = mk.multimix_cross_entropy(z, labels, weight, bias, m=2, label_smoothing=0.1, **options)
        yield f"loss of subsets, {where}", step(loss, z, weight, bias)
        loss = mk.dense_multimix_cross_entropy(maps, labels, weight, bias, attention_grad=True, **options)
        yield f"dense loss, {where}", step(loss, maps, weight, bias)
        mixture = mk.multimix(z, **options)
        logits = torch.nn.functional.linear(mixture.embeddings, weight, bias)
        yield f"mixture, {where}", step(mixture.cross_entropy(logits, labels), z, weight, bias)
        yield f"weights, {where}", (mk.sample_dirichlet(n, b, device=device, seed=SEED, backend=backend),)


def one_step(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The loss of a case and its gradients, the second time."""
    problem = make_problem(CASES[options.case], options.n, "full", dtype, device)

    def step():
        loss = our_loss(problem, options.backend, seed=SEED)
        return (loss.detach(), *torch.autograd.grad(loss, problem.parameters))

    step()
    if not options.profile or device.type != "cuda":
        return step()
    torch.cuda.synchronize(device)
    torch.cuda.profiler.start()
    results = step()
    torch.cuda.synchronize(device)
    torch.cuda.profiler.stop()
    return results


if __name__ == "__main__":
    sys.exit(main())
