"""The training demonstration: `python -m benchmarks.demo`."""

from importlib.util import find_spec

_MISSING = [name for name in ("matplotlib", "mnist1d", "sklearn") if find_spec(name) is None]
if _MISSING:
    raise ImportError(f"the demonstration needs {', '.join(_MISSING)}: pip install 'multimix_kernels[demo]'")
