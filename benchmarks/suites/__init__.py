"""Small hot pieces under pytest-benchmark: `pytest benchmarks`."""
