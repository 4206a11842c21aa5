"""How long the mixing step takes, how much memory, and whether the loss is the same: `python -m benchmarks`."""
