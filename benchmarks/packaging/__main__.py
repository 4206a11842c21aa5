"""`python -m benchmarks.packaging dist/*.whl`: prints what is in wheels; 1 if one is not what it says it is.

Checked: the tag and the version, with auditwheel that the system it names is the one that is needed; that of torch only
the stable ABI of 2.10 is used; that no CUDA library is looked for at load; that GPU code is for exactly the
architectures asked for.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from ..compiled import tools
from .audit import audit


def main(arguments: list[str] | None = None) -> int:
    """Audits the wheels named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packaging", description=__doc__.splitlines()[0])
    parser.add_argument("wheels", nargs="+", type=Path)
    wrong = 0
    for path in parser.parse_args(arguments).wheels:
        print(path.name)
        try:
            findings = audit(path.resolve(strict=True))
        except (OSError, ValueError, tools.Missing, subprocess.CalledProcessError) as error:
            print(f"  WRONG: {error} {getattr(error, 'stderr', '')}")
            wrong += 1
            continue
        print("\n".join([f"  {fact}" for fact in findings.facts] + [f"  WRONG: {text}" for text in findings.wrong]))
        wrong += len(findings.wrong)
    print(f"{wrong} complaints")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
