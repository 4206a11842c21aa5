"""The mutants of the Triton kernels, under the short list of their tests; run by test_mutations.py.

MULTIMIX_MUTANTS names the file that each is written to, as a line of JSON.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from ..backends.triton.compiled import *  # noqa: F403
from ..backends.triton.compiled import device, operand, virtual  # noqa: F401
from .mutations import mutated

SEEN: set[tuple[str, str]] = set()


@pytest.fixture(autouse=True)
def mutants():
    """Of every kernel that is launched in a test, once for each text."""
    with mutated(SEEN) as found:
        yield
    with Path(os.environ["MULTIMIX_MUTANTS"]).open("a") as file:
        file.writelines(json.dumps(asdict(mutant)) + "\n" for mutant in found)
