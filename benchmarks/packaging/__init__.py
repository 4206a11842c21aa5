"""What is in the wheels and the compiled libraries: `python -m benchmarks.packaging dist/*.whl` checks it."""
