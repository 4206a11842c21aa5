"""tqdm's progress bar, or where it is not installed nothing in its place."""

import sys

try:
    from tqdm import tqdm
except ImportError:

    class tqdm:  # type: ignore[no-redef]
        """What the benchmarks use of it: lines are printed, no bar is drawn."""

        def __init__(self, **_: object) -> None:
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self) -> None:
            """Nothing to move."""

        def set_postfix_str(self, text: str) -> None:
            """Nowhere to show it."""

        @staticmethod
        def write(text: str, file=None) -> None:
            """A line."""
            print(text, file=file or sys.stdout)
