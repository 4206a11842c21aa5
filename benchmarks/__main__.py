"""`python -m benchmarks`: times, memory, and whether the loss is the same."""

import sys

from .speed.command import main

if __name__ == "__main__":
    sys.exit(main())
