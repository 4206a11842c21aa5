"""tqdm's progress bar; a line a minute where there is no terminal; lines alone where nothing can be installed."""

import sys

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

LINE = "{n_fmt} of {total_fmt} after {elapsed}{postfix}\n"


class Progress:
    """How far a run is, on stderr: `with Progress(total) as progress`."""

    def __init__(self, total: int, unit: str = "it") -> None:
        self._terminal = sys.stderr.isatty()
        how = dict(dynamic_ncols=True, leave=False) if self._terminal else dict(mininterval=60, bar_format=LINE)
        self._bar = tqdm(total=total, unit=unit, **how) if tqdm else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, steps: int = 1) -> None:
        """Some steps are done."""
        if self._bar is not None:
            self._bar.update(steps)

    def say(self, text: str) -> None:
        """What is being done now."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=self._terminal)

    def print(self, text: str) -> None:
        """A result, on stdout, above the bar."""
        if self._bar is not None and self._terminal:
            self._bar.write(text, file=sys.stdout)
        else:
            print(text)
        sys.stdout.flush()
