"""`python -m benchmarks.demo`: watch networks train with MultiMix and without, and see what it changes."""

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path

import torch

from ..study.command import study
from .compare import compare
from .data import SIZES, Dataset, load
from .demonstration import demonstrate
from .folders import load_path
from .idx import NAMED, find
from .methods import DEFAULT, METHODS
from .picture import draw
from .results import Results, backend_name
from .settings import QUICK, Settings
from .variants import find_method

SIZES_OF_COST = (10**3, 10**4, 10**5)  # n of the steps whose time and memory are measured


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser("python -m benchmarks.demo", description=__doc__.split(": ", 1)[1])
    p.add_argument("--datasets", nargs="+", choices=list(SIZES), help="built-in data sets; default: all")
    p.add_argument("--data", type=Path,
                   help="fashion-mnist, where Debian or torchvision put it; or a folder: IDX files, CIFAR's pickles, "
                        "or train/CLASS/ and val/CLASS/ images")  # fmt: skip
    p.add_argument("--study", action="store_true",
                   help="with --data: the comparison of methods and the ablations, about two hours of two cores; one "
                        "that was cut short goes on where its file in --out ends")  # fmt: skip
    p.add_argument("--workers", type=_positive, default=1,
                   help="with --study: runs at a time, each on its share of the threads")  # fmt: skip
    p.add_argument("--image-size", type=int, default=32, help="to which the images of --data are resized")
    p.add_argument("--train-examples", type=int, nargs="+", help="training sizes, in place of each data set's own")
    p.add_argument("--methods", nargs="+", type=_method, default=list(DEFAULT), metavar="METHOD",
                   help=f"any of: {', '.join(METHODS)}, or variants such as dense:m=2,alpha=1,with=plain")  # fmt: skip
    p.add_argument("--steps", type=_positive, help="training steps of each run")
    p.add_argument("--seeds", type=_positive, help="runs of each method")
    p.add_argument("--n", type=_positive, help="mixed examples in a step")
    p.add_argument("--batch-size", type=_positive)
    p.add_argument("--backend", help="of the mixing: reference, cpu, triton, cuda; default: the best available")
    p.add_argument("--device", help="such as cpu (the default) or cuda")
    p.add_argument("--out", type=Path, default=Path("out/demo"), help="directory for results.json and demo.png")
    p.add_argument("--quick", action="store_true", help="fewer and shorter runs, under a minute")
    p.add_argument("--redraw", type=Path, metavar="FILE", help="draw demo.png again from a results.json, nothing else")
    p.add_argument("--compare-backends", nargs=2, metavar=("A", "B"), help="train with both and compare, nothing else")
    return p


def main(arguments: list[str] | None = None) -> int:
    """Runs the demonstration and returns the exit status."""
    p = parser()
    args = p.parse_args(arguments)
    if args.redraw:
        args.out.mkdir(parents=True, exist_ok=True)
        draw(Results.load(args.redraw), {}, args.out / "demo.png")
        return 0
    given = {f.name: getattr(args, f.name, None) for f in fields(Settings)}
    settings = Settings(**(QUICK if args.quick else {}) | {k: v for k, v in given.items() if v is not None})
    try:
        torch.empty(0, device=settings.device)
        for backend in args.compare_backends or [settings.backend]:
            backend_name(Settings(backend=backend, device=settings.device))
        cases = _cases(args)
        if args.study and not args.data:
            raise ValueError("study: name the images with --data")
    except (ValueError, RuntimeError, AssertionError) as error:
        p.error(str(error))
    if args.compare_backends:
        methods = ["multimix", "dense"] if args.methods == list(DEFAULT) else args.methods
        data, examples = cases[0]
        print(compare(data.subset(examples, 0).to(settings.device), methods, args.compare_backends, settings))
        return 0
    if args.study:
        return study(cases[0][0], replace(settings, augment=True), args.out, args.quick, args.workers)
    return demonstrate(cases, args.methods, settings, args.out, SIZES_OF_COST[: 2 if args.quick else None])


def _cases(args: argparse.Namespace) -> list[tuple[Dataset, int]]:
    """Data sets and training sizes."""
    names = args.datasets or ([] if args.data else list(SIZES))
    loaded = [(load(name), SIZES[name][: 1 if args.quick else None]) for name in names]
    if args.data:
        path = find(str(args.data)) if str(args.data) in NAMED else args.data
        data = replace(load_path(path, args.image_size), name=args.data.name)
        loaded.append((data, (len(data.y),)))
    cases = [(data, size) for data, sizes in loaded for size in args.train_examples or sizes]
    for data, size in cases:
        data.subset(size, 0)  # refuses a size now, not after the first runs
    return cases


def _method(name: str) -> str:
    try:
        find_method(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("expected at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
