"""In the capture of a CUDA graph nothing is compiled: what is cold says what to warm up, what is warm goes through."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is not installed"
)
COLD = {
    "few": "of mixed_cross_entropy .* warm_up(32, c=10, n=1000, dtype=torch.float32)",
    "many": "of mixed_cross_entropy .* warm_up(33, c=700, n=100, dtype=torch.float32)",
    "dense": "of mixed_cross_entropy .* warm_up(16, c=10, spatial=(4,), n=50, dtype=torch.float32)",
    "mix": "of mix .* warm_up(16, d=24, n=50, dtype=torch.float32)",
}


@pytest.mark.parametrize("case", COLD)
def test_after_warm_up_a_capture_compiles_nothing(case, request):
    """In a process of its own, as one that compiled kernels keeps them."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.triton.captured", case],
        env=dict(os.environ, TRITON_INTERPRET="0", PYTHONPATH=str(request.config.rootpath)),
        cwd=request.config.rootpath, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    beginning, call = COLD[case].split(".*")
    assert beginning.strip() in found["cold"]
    assert call.strip() in found["cold"]
    assert "has not been compiled" in found["cold"]
    assert found["launched"] == 0
    assert found["asked"], "somebody else's hook is kept"
    assert found["restored"]
    assert found["warmed"] > 1
    assert found["after"] == 0
    assert found["waits"] == []
    assert found["operations"]
