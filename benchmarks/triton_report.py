"""What the compiler makes of the Triton kernels, target by target: `python -m benchmarks.triton_report sm_90 gfx942`.

Compiled ahead of time: no GPU is needed, and nothing is run. `--few` compiles only the kernels that CI compiles.
"""

import argparse

from multimix_kernels.backends.triton import aot

LEGEND = """registers: of a thread. spilled: bytes of stack; on AMD vector registers in memory. local: instructions that
use local memory. lanes: on AMD, scalar registers kept in lanes of vector registers, not in memory. shared: bytes.
Loops are counted once. matrix: matrix instructions; IEEE float32 has none on NVIDIA GPUs.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", choices=[[], *aot.TARGETS], metavar="target", help="default: all")
    parser.add_argument("--few", action="store_true", help="representative kernels only")
    options = parser.parse_args()
    print(LEGEND)
    print(aot.HEADER)
    spilled = compiled = 0
    for target in options.targets or aot.TARGETS:
        for case in aot.cases(aot.family_of(target), aot.operands(target)):
            if case.representative or not options.few:
                report = aot.compile_case(case, target)
                print(aot.row(report), flush=True)
                compiled += 1
                spilled += report.spills > 0 or report.local > 0
    print(f"\n{compiled} compiled, {spilled} with spills to memory")


if __name__ == "__main__":
    main()
