"""Verdicts on the GPU backends, one for each kind of GPU: what they say, where they are kept, how one is come by.

`verify` above the operators holds the backends to the reference; here its results are started, kept and read, as the
choice of a backend needs them. Importing this package initialises no CUDA.
"""
