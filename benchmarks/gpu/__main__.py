"""`python -m benchmarks.gpu`: build, tests, sanitizers, benchmarks and profiles, within a time budget."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
