"""Times of the step: each case, n, m and mode, with all its peers interleaved in one group."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cases import Case, Problem, make_problem
from ..results import Recorder, ok
from ..system import available_bytes
from .checks import Check, check
from .floors import Rates
from .peers import Peer, Step, missing_reason
from .timing import Budget, Timing, describe_error, measure, once, peak_cuda_bytes, too_slow

_PILOT_ROWS = 1000


@dataclass
class StepRunner:
    """Measures groups of rows and adds them to the recorder."""

    recorder: Recorder
    peers: list[Peer]
    dtype: torch.dtype
    device: torch.device
    budget: Budget
    limit: float  # seconds that one step may take
    rates: Rates | None = None
    progress: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        self._checks: dict[tuple[str, int | None, str], Check | str] = {}  # by case, m and backend
        self._seconds: dict[tuple, tuple[int, float]] = {}  # by case, m, mode and peer: n and its time

    def check(self, case: Case, m: int | None, backend: str) -> Check | str:
        """The check of a backend on a case with this m, made once; a string says why it could not be made."""
        key = case.name, m, backend
        if key not in self._checks:
            self.progress(f"{case.name}: checking {backend}")
            problem = make_problem(case, 10**9, "full", self.dtype, self.device, m)
            result: Check | str
            try:
                result = check(problem, backend)
                status = "ok" if result.passed else "WRONG: " + "; ".join(result.failures)
                errors = {"errors": result.ours, "plain_errors": result.plain, "loss": result.loss}
            except Exception as error:  # a backend that raises is not right either
                result = "WRONG: " + describe_error(error)
                status, errors = result, {}
            self._checks[key] = result
            fields = {"case": case.name, "b": case.b, "m": m or case.b, "peer": backend, "status": status}
            self.recorder.add(kind="check", **fields, **self._fields(), **errors)
        return self._checks[key]

    def run(self, case: Case, n: int, mode: str, m: int | None = None) -> list[dict]:
        """Measure one group and return its rows. The peers that cannot run get rows that say why."""
        torch._dynamo.reset()  # compiled peers of earlier groups count against its limit
        problem = make_problem(case, n, mode, self.dtype, self.device, m)
        peers = [peer for peer in self.peers if peer.fits(case, m)]
        statuses: dict[str, str] = {}
        for peer in peers:
            statuses[peer.name] = self._obstacle(peer, problem) or "ok"
        steps: dict[str, Step] = {}
        losses: dict[str, Tensor] = {}
        for peer in peers:
            if statuses[peer.name] != "ok":
                continue
            try:
                steps[peer.name] = _remembering(peer.prepare(problem), peer.name, losses)
            except Exception as error:
                statuses[peer.name] = describe_error(error)
        where = f"{case.name} n={n:.0e} m={m or case.b} {mode}"
        timings = measure(steps, self.budget, self.device, lambda name: self.progress(f"{where}: {name}"))
        fields = {peer.name: self._result(peer, problem, timings, statuses, losses) for peer in peers}
        if self.device.type == "cuda":
            for name, step in steps.items():
                if fields[name]["status"] == "ok":
                    fields[name]["peak_bytes"] = peak_cuda_bytes(step, self.device)
            steps.clear()
            torch.cuda.empty_cache()
        return self._record(problem, peers, fields)

    def _obstacle(self, peer: Peer, problem: Problem) -> str | None:
        """Why a peer is not measured; None if it is."""
        case = problem.case
        missing = missing_reason(peer.name, self.device, self.dtype)
        if missing is not None:
            return f"unavailable: {missing}"
        if peer.backend is not None:
            result = self.check(case, problem.m, peer.backend)
            if isinstance(result, str):
                return result
            if not result.passed:
                return "WRONG: " + "; ".join(result.failures)
        if peer.bytes(problem) > available_bytes(self.device):
            return "out of memory"
        try:
            estimate = self._estimate(peer, problem)
        except Exception as error:
            return describe_error(error)
        return None if estimate <= self.limit else too_slow(estimate)

    def _estimate(self, peer: Peer, problem: Problem) -> float:
        """Seconds of a step, in proportion to the last n, or to a pilot; pilots grow as long as that says too slow."""
        rows = problem.n * problem.case.r
        n, seconds = self._seconds.get((problem.case.name, problem.m, problem.mode, peer.name), (0, 0.0))
        if n == 0 and rows <= 4 * _PILOT_ROWS:
            return 0.0
        growth = min(8.0, self.limit / seconds) if seconds else 8.0
        while n == 0 or (seconds * problem.n / n > self.limit and growth >= 2 and growth * n < problem.n):
            n = int(growth * n) or math.ceil(_PILOT_ROWS / problem.case.r)
            # What torch.compile gains is small beside the limit, and compiling the pilot is not worth it.
            step = replace(peer, compiled=False).prepare(replace(problem, n=n))
            seconds = once(step, self.device)
            # The next pilot may take as long as the limit, if nothing of this one's time was fixed.
            growth = min(8.0, self.limit / seconds)
        return seconds * problem.n / n

    def _result(
        self, peer: Peer, problem: Problem, timings: dict[str, Timing], statuses: dict[str, str], losses: dict
    ) -> dict:
        if statuses[peer.name] != "ok":
            return {"status": statuses[peer.name]}
        timing = timings[peer.name]
        if timing.error is not None:
            return {"status": timing.error}
        case, n, loss = problem.case, problem.n, losses[peer.name].item()
        checks = (c for (*key, _), c in self._checks.items() if key == [case.name, problem.m])
        expected = [c for c in checks if isinstance(c, Check)]
        if not all(c.expects(loss, n * case.r, self.dtype) for c in expected[:1]):
            kind = "WRONG" if peer.ours else "failed"
            return {"status": f"{kind}: the loss is {loss:.6g}, expected {expected[0].loss:.6g}"}
        self._seconds[case.name, problem.m, problem.mode, peer.name] = n, timing.median
        low, high = timing.quartiles
        fields = {"status": "ok", "median_s": timing.median, "q1_s": low, "q3_s": high, "loss": loss}
        fields |= {"repetitions": len(timing.seconds), "graph": timing.graph}
        if peer.ours and self.rates is not None:
            parts = self.rates.parts(case, n, problem.mode, problem.m)
            fields |= {"floor_parts_s": parts, "floor_fraction": sum(parts.values()) / timing.median}
        return fields

    def _record(self, problem: Problem, peers: list[Peer], fields: dict[str, dict]) -> list[dict]:
        case = problem.case
        where = {"kind": "step", "case": case.name, "n": problem.n, "m": problem.m or case.b, "mode": problem.mode}
        where |= {"b": case.b, "d": case.d, "c": case.c, "r": case.r} | self._fields()
        medians = {name: row["median_s"] for name, row in fields.items() if ok(row)}
        rows = []
        for peer in peers:
            row = where | {"peer": peer.name, "ours": peer.ours} | fields[peer.name]
            if ok(row):
                # How many times as long each other peer took in this run.
                row["ratios"] = {name: t / row["median_s"] for name, t in medians.items() if name != peer.name}
            rows.append(self.recorder.add(**row))
        return rows

    def _fields(self) -> dict:
        return {"dtype": str(self.dtype).removeprefix("torch.")}


def _remembering(step: Step, name: str, losses: dict[str, Tensor]) -> Step:
    def run():
        results = step()
        losses[name] = results[0]
        return results

    return run
