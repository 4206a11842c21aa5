"""Which tests of executed.py are fast ones: as few as launch every kernel, in every variant, that all of them launch.

python -m tests.backends.cuda.selection FILE chooses them again, from a file that MULTIMIX_PTX_COUNTS named.
"""

import sys
from collections import defaultdict

from tests.ptx.cuda.table import instructions, read

FAST: tuple[str, ...] = ()


def choose(rows: list[dict]) -> list[str]:
    """Greedily: next the test with the most new variants for its instructions."""
    launched, costs = defaultdict(set), defaultdict(int)
    for row in rows:
        launched[row["test"]].add(row["kernel"])
        costs[row["test"]] += instructions(row)
    missing, chosen = set().union(*launched.values()), []
    while missing:
        best = max(launched, key=lambda test: len(launched[test] & missing) / (costs[test] + 1e6))
        missing -= launched[best]
        chosen.append(best)
    return chosen


if __name__ == "__main__":
    print(*(f'    "{test.split("::", 1)[1]}",' for test in choose(read(sys.argv[1]))), sep="\n")
