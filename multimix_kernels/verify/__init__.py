"""Verifies GPU backends on the GPU at hand: every operator against float64, and their times.

`command` is `python -m multimix_kernels verify`, `child` the process in which everything runs. What is kept of it, and
what follows from it, is in `backends.verdicts`.
"""
