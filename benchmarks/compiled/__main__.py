"""`python -m benchmarks.compiled triton | cuda | model`: what compilers make of the kernels; -h after it for more."""

import sys
from importlib import import_module

REPORTS = {"triton": "triton_report", "cuda": "cuda_report", "model": "triton_model"}


def main(arguments: list[str]) -> int:
    """Runs the report that is named; 2 if there is no such report."""
    if not arguments or arguments[0] not in REPORTS:
        print(__doc__, file=sys.stderr)
        return 2
    # Each alone: the CUDA report needs no Triton, and the others no programs of NVIDIA's.
    return import_module(f".{REPORTS[arguments[0]]}", __package__).main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
