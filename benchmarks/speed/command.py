"""The command line: which parts run, in which order, and what is written."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import multimix_kernels as mk

from .. import tables
from ..cases import CASES, DTYPES, FEW, MODES, Case
from ..progress import Progress
from ..results import RESULTS, Recorder, ok
from ..system import available_bytes, busy, device_name, neighbours, provenance, slug
from ..text import number
from . import memory, plots
from .floors import Rates, measure_rates
from .peers import all_peers, default_peers, missing_reason
from .sampler import measure_samplers
from .steps import StepRunner
from .timing import Budget, too_slow


@dataclass(frozen=True)
class Level:
    """How much is measured."""

    name: str
    n: dict[str, tuple[int, ...]]  # by case
    modes: tuple[str, ...]
    budget: Budget
    limit: float  # seconds that one step may take
    memory_n: tuple[int, ...]
    memory_peers: tuple[str, ...]
    few: tuple[int, ...] = FEW  # m, the examples in each mixture, of cases from scores, beside all b


QUICK = Level(
    "quick",
    {"cifar100-r18": (1000, 10**4), "imagenet-r50": (1000,), "dense-cifar100": (1000,), "scores-100": (10**4,)},
    ("full",), Budget(0.4, 3, 20), 3.0, (10**5,), ("paper",), (2,),
)  # fmt: skip
STANDARD = Level(
    "standard", {case.name: case.n for case in CASES.values()}, MODES, Budget(2.0, 5, 50), 15.0,
    memory.N, ("paper", "scores"),
)  # fmt: skip
THOROUGH = Level(
    "thorough", {case.name: (*case.n, 10**5) if case.dense else case.n for case in CASES.values()}, MODES,
    Budget(10.0, 7, 200), 120.0, memory.N, ("paper", "paper-compiled", "scores", "scores-compiled"),
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit code: 1 if a result was wrong, 130 if interrupted."""
    options = _parser().parse_args(arguments)
    if options.list:
        print(_listing())
        return 0
    torch.set_num_threads(options.threads or torch.get_num_threads())
    try:
        run = _Run(options)
    except (ValueError, RuntimeError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    interrupted = False
    try:
        with neighbours(options.busy):
            run.measure()
    except KeyboardInterrupt:
        interrupted = True
    run.finish(interrupted)
    return 130 if interrupted else run.exit_code


class _Run:
    def __init__(self, options: argparse.Namespace) -> None:
        self.level = QUICK if options.quick else THOROUGH if options.thorough else STANDARD
        self.device, self.dtype = torch.device(options.device), DTYPES[options.dtype]
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("no CUDA device is available to this torch")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self.options = options
        peers, ours = default_peers(self.device, self.dtype)
        known = all_peers()
        self.ours = options.backend or ours[:1]
        compared = [*_known(options.peers or peers, known, "peer"), *_known(self.ours, known, "backend")]
        self.peers = list({peer.name: peer for peer in compared}.values())
        self.best = next(iter(ours))
        cases = options.cases or [case for case in self.level.n if CASES[case].from_scores or not options.few]
        self.groups = [
            (case, n, mode, m)
            for case in _known(cases, CASES, "case")
            for mode in options.mode or self.level.modes
            for n in options.n or self.level.n.get(case.name, (1000,))
            for m in _mixed(case, options, self.level)
        ]
        chosen = {part: getattr(options, part) for part in ("steps", "sampler", "memory")}
        if not any(chosen.values()):  # memory is that of mixtures of all examples
            chosen = dict.fromkeys(chosen, True) | {"memory": not (options.few or options.m)}
        self.parts = chosen
        kept = RESULTS if options.record else Path("out") / "bench"
        folder = options.out or kept / slug(device_name(self.device))
        if options.record and options.busy:
            raise ValueError("--record keeps what the README shows, times of a machine with no --busy neighbours")
        beside = {"neighbours": options.busy} if options.busy else {}
        name = f"{self.level.name}-busy{options.busy}" if options.busy else self.level.name
        self.recorder = Recorder(
            folder / f"{name}.jsonl", provenance(self.device) | {"level": self.level.name} | beside
        )
        self.progress: Progress

    @property
    def exit_code(self) -> int:
        return int(any(row["status"].startswith("WRONG") for row in self.recorder.rows))

    def measure(self) -> None:
        points = self._memory_points()
        steps = len(self.groups) + 1 if self.parts["steps"] else 0
        total = steps + self.parts["sampler"] + (len(points) if self.parts["memory"] else 0)
        with Progress(total) as self.progress:
            if self.parts["steps"]:
                self._steps()
            if self.parts["sampler"]:
                self._sampler()
            if self.parts["memory"]:
                self._memory(points)

    def finish(self, interrupted: bool) -> None:
        """Tables that were not shown yet, and pictures, from the rows that there are."""
        recorder = self.recorder
        for kind, render in (("check", tables.check_table), ("memory", tables.memory_table)):
            if recorder.of_kind(kind):
                print(render(recorder.of_kind(kind)) + "\n")
        if not recorder.rows:
            print("interrupted before the first row was finished" if interrupted else "nothing was measured")
            return
        written = [recorder.path, *plots.draw_all(recorder.everything(), recorder.path.parent)]
        print(("Interrupted; the finished rows are kept.\n" if interrupted else "") + "Written:")
        for path in written:
            print(f"  {path}")
        wrong = [row for row in recorder.rows if row["status"].startswith("WRONG")]
        for row in wrong:
            print(f"WRONG: {row.get('case')}, {row['peer']}: {row['status']}; no speed-up is shown", file=sys.stderr)

    def _steps(self) -> None:
        rates = self._rates()
        level = self.level
        runner = StepRunner(
            self.recorder, self.peers, self.dtype, self.device, level.budget, level.limit, rates, self.progress.say
        )
        self.progress.advance()
        for case, n, mode, m in self.groups:
            rows = runner.run(case, n, mode, m)
            self.progress.print(tables.step_table(rows) + "\n")
            self.progress.advance()

    def _rates(self) -> Rates | None:
        self.progress.say("floors")
        usable = (name for name in self.ours if missing_reason(name, self.device, self.dtype) is None)
        backend = next(usable, self.best)
        rates = measure_rates(self.device, self.dtype, backend)
        self.recorder.add(
            kind="floor", dtype=self.options.dtype, status="ok", sampler=backend, gflop_per_s=rates.products / 1e9,
            giga_exp_per_s=rates.exponentials / 1e9, mega_gammas_per_s=rates.gammas / 1e6,
        )  # fmt: skip
        if busy(self.recorder.provenance):
            load = self.recorder.provenance["load"]
            self.progress.print(f"Other work is running here (load {load:.1f} at the start): expect wide spreads.\n")
        self.progress.print(
            f"{device_name(self.device)}: {rates.products / 1e9:.4g} GFLOP/s ({self.options.dtype}), "
            f"{rates.exponentials / 1e9:.3g} G exp/s, {rates.gammas / 1e6:.3g} M gammas/s ({backend})\n"
        )
        return rates

    def _sampler(self) -> None:
        usable = [name for name in self.ours if missing_reason(name, self.device, self.dtype) is None]
        for row in measure_samplers(self.device, usable, self.level.budget, self.level.limit, self.progress.say):
            self.recorder.add(**row)
        self.progress.print(tables.sampler_table(self.recorder.of_kind("sampler")) + "\n")
        self.progress.advance()

    def _memory_points(self) -> list[tuple[str, int]]:
        wanted = self.options.peers or self.level.memory_peers
        names = [p.name for p in self.peers if p.ours or (p.name in wanted and p.fits(memory.CASE, None))]
        return [(name, n) for name in names for n in self.options.n or self.level.memory_n]

    def _memory(self, points: list[tuple[str, int]]) -> None:
        case, peers = memory.CASE, all_peers()
        problem = memory.make_problem(case, 1, "full", self.dtype, self.device)
        last: dict[str, tuple[int, float]] = {}  # n and seconds
        for name, n in points:
            self.progress.say(f"memory of {name}, n {n:.0e}")
            # What the first call costs in a fresh process hides the time of a small step.
            last_n, last_seconds = last.get(name, (0, 0.0))
            seconds = last_seconds * n / last_n if last_n >= 10**5 else 0.0
            reason = missing_reason(name, self.device, self.dtype)
            if reason is not None:
                row = {"status": f"unavailable: {reason}"}
            elif peers[name].bytes(problem) * n > available_bytes(self.device):
                row = {"status": "out of memory"}
            elif seconds > 10 * self.level.limit:
                row = {"status": too_slow(seconds)}
            else:
                row = memory.measure_point(
                    case, n, "full", self.options.dtype, str(self.device), name, torch.get_num_threads(),
                    limit=60 + 12 * self.level.limit,
                )  # fmt: skip
            if ok(row):
                last[name] = n, row["seconds"]
            fields = {"case": case.name, "n": n, "mode": "full", "dtype": self.options.dtype}
            self.recorder.add(kind="memory", peer=name, ours=peers[name].ours, **fields, **row)
            self.progress.advance()


def _known(names: list[str], table: dict, what: str) -> list:
    for name in names:
        if name not in table:
            raise ValueError(f"there is no {what} {name!r}; there are {', '.join(table)}")
    return [table[name] for name in names]


def _mixed(case: Case, options: argparse.Namespace, level: Level) -> list[int | None]:
    """Values of m to measure a case with; None: all its examples."""
    chosen = options.m or ((*level.few, case.b) if case.from_scores or options.few else (case.b,))
    if max(chosen) > case.b:
        raise ValueError(f"m is the examples in each mixture, at most the {case.b} of {case.name}; got {max(chosen)}")
    return [None if m == case.b else m for m in chosen]


def _integer(text: str) -> int:
    value = float(text)
    if value < 1 or value != int(value):
        raise argparse.ArgumentTypeError(f"expected a positive integer such as 1000 or 1e4, got {text}")
    return int(value)


def _listing() -> str:
    lines = ["cases:"]
    for case in CASES.values():
        d = "from scores" if case.from_scores else f"d {case.d}"
        sizes = f"b {case.b}, {d}, c {case.c}, r {case.r}, n {', '.join(map(number, case.n))}"
        lines.append(f"  {case.name:18} {case.label:36} {sizes}")
    lines.append("peers:")
    lines += [f"  {peer.name:18} {peer.label}" for peer in all_peers().values() if not peer.ours]
    lines.append("backends:")
    for name, found in mk.available_backends().items():
        lines.append(f"  {name:18} {'available' if found else f'not available: {found.reason}'}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.split(": ", 1)[1])
    add = parser.add_argument
    add("--cases", nargs="+", metavar="CASE", help="cases (default: those of the level; see --list)")
    add("--n", nargs="+", type=_integer, help="interpolated examples per location, e.g. 1000 1e5")
    add("--m", nargs="+", type=_integer, help="examples in each mixture (default: all; from scores 2, 4, 16 and all)")
    add("--few", action="store_true", help="mixtures of few examples: the cases from scores, and the sampler")
    add("--dtype", choices=DTYPES, default="float32")
    add("--device", default="cpu", help="cpu, or cuda, cuda:1")
    add("--backend", nargs="+", help="backends of this library (default: the best available one)")
    add("--peers", nargs="+", metavar="PEER", help="what to compare with (default: all; see --list)")
    add("--mode", nargs="+", choices=MODES, help="full: forward and backward")
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--quick", action="store_true", help="under two minutes on two cores")
    level.add_argument("--thorough", action="store_true", help="hours: more repetitions, slower peers, larger n")
    add("--threads", type=_integer, help="threads on the CPU (default: those of torch)")
    add(
        "--busy", nargs="?", type=_integer, const=1, default=0, metavar="N",
        help="beside N processes that keep a core busy each, as data loaders do (default: 1)",
    )  # fmt: skip
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", metavar="FOLDER", type=Path, help="where results go (default: out/bench/<device>)")
    where.add_argument("--record", action="store_true", help="write into benchmarks/results, which the README shows")
    add("--steps", action="store_true", help="only the parts named: times of the step,")
    add("--sampler", action="store_true", help="the sampler alone,")
    add("--memory", action="store_true", help="memory against n (default: all three)")
    add("--list", action="store_true", help="list cases, peers and backends, and stop")
    return parser
