"""Finds and loads the compiled libraries, and says in one sentence why one is missing."""


def cpu_reason() -> str | None:
    """Why the C++ library for the CPU is not available; None if it is."""
    return "the extension was not built"
