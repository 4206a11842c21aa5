"""The steps of a visit, in the order of their importance."""

from dataclasses import replace
from pathlib import Path

from .machine import FILE, Machine
from .parts import PYTHON, Part, Step

SANITIZERS = ("memcheck", "racecheck", "initcheck")
_TRIAL = "import torch; torch.ones(1024, device='cuda'); torch.cuda.synchronize()"
_VERDICTS = r"^\S+ (is [\d.]+x as fast.*|LOSES:.*)$"  # as benchmarks.tables writes them
_VERIFIED = r"^(FAILED: .*|.* could not be checked: .*|kept in .*)$"
_PYTEST = r"^=+ .*\d+ (passed|failed|error|deselected|skipped).*=+$"
_CUDA_SOURCES = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
_MOST_WORKERS = 8  # each has a CUDA context of its own


def report(machine: Machine, folder: Path) -> list[Part]:
    """Versions and devices."""
    command = (PYTHON, "-m", "benchmarks.gpu.report", str(folder))
    return [Part("report", command, writes=folder / FILE, required=True)]


def build(machine: Machine, folder: Path) -> list[Part]:
    """The compiled libraries, and which backends that gives."""
    command = (PYTHON, "setup.py", "build_ext", "--inplace")
    missing = None if "setuptools" in machine.packages else "this Python has no setuptools"
    # A minute even in a rehearsal: two cores need most of it when nothing is built yet.
    cpu = Part("build/cpu", command, 4, 60.0, {"MULTIMIX_BUILD": "cpu"}, missing, required=True)
    look = (PYTHON, "-m", "benchmarks.gpu.report", str(folder), "--backends")
    return [cpu, _build_cuda(machine, cpu), Part("build/backends", look, required=True)]


def _build_cuda(machine: Machine, cpu: Part) -> Part:
    """The CUDA library, for the GPU that is present. It runs as soon as csrc/cuda exists."""
    environment = {"MULTIMIX_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": machine.capability or ""}
    missing = cpu.missing
    if not _CUDA_SOURCES.is_dir():
        missing = "this version has no CUDA library"
    elif "nvcc" not in machine.tools:
        missing = "there is no nvcc"
    required = machine.has_gpu and _CUDA_SOURCES.is_dir()
    return replace(cpu, name="build/cuda", weight=4, environment=environment, missing=missing, required=required)


def verify(machine: Machine, folder: Path) -> list[Part]:
    """Every operator of each GPU backend against float64, and its times; the verdict is kept for later processes."""
    table = folder / "verify.txt"
    command = (PYTHON, "-m", "multimix_kernels", "verify", "--table", str(table))
    missing = None if machine.gpu_backends else "no GPU backend is available"
    return [Part("verify", command, missing=missing, required=True, note=_VERIFIED, writes=table)]


def verify_rehearsal(machine: Machine, folder: Path) -> list[Part]:
    """What is installed, and what is used."""
    return [Part("verify/report", (PYTHON, "-m", "multimix_kernels"), note=r"^  order .*$")]


def tests(machine: Machine, folder: Path) -> list[Part]:
    """The tests of every GPU backend."""
    if not machine.gpu_backends:
        reasons = "; ".join(f"{name}: {found['reason']}" for name, found in machine.backends.items() if found["reason"])
        return [Part("tests", (), missing=f"no GPU backend is available ({reasons})", required=True)]
    return [_pytest(machine, folder, name, "tests") for name in machine.gpu_backends]


def tests_rehearsal(machine: Machine, folder: Path) -> list[Part]:
    """One file with a backend for the CPU."""
    return [_pytest(replace(machine, cores=1), folder, machine.cpu_backend, "tests/test_mixture.py")]


def _pytest(machine: Machine, folder: Path, backend: str, what: str) -> Part:
    junit = folder / f"junit-{backend}.xml"
    command = (
        PYTHON, "-m", "pytest", what, "-p", "benchmarks.gpu.selection", f"--backends={backend}", "-v", "--tb=short",
        "-p", "no:cacheprovider", "-o", "faulthandler_timeout=60", "--continue-on-collection-errors",
        f"--junit-xml={junit}",
    )  # fmt: skip
    workers = min(_MOST_WORKERS, machine.cores // 2)
    if "xdist" in machine.packages and workers > 1:
        command += ("-n", str(workers))
    missing = None if "pytest" in machine.packages else "this Python has no pytest"
    return Part(f"tests/{backend}", command, missing=missing, required=True, note=_PYTEST, writes=junit)


def sanitize(machine: Machine, folder: Path) -> list[Part]:
    """Every operation at small sizes under compute-sanitizer."""
    tool = machine.tools.get("compute-sanitizer")
    parts = []
    for backend in machine.gpu_backends:
        for check in SANITIZERS:
            watched = (tool or "compute-sanitizer", "--tool", check, "--error-exitcode", "9", "--print-limit", "20")
            parts.append(
                Part(
                    f"sanitize/{backend}-{check}", watched + _workload(backend, "cuda"),
                    # The allocator hides writes beyond a tensor in a block of its own.
                    environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
                    missing=None if tool else "there is no compute-sanitizer",
                    note=r"ERROR SUMMARY: .*|RACECHECK SUMMARY: .*", trial=(*watched, PYTHON, "-c", _TRIAL),
                )
            )  # fmt: skip
    return parts


def sanitize_rehearsal(machine: Machine, folder: Path) -> list[Part]:
    """The same operations on the CPU, unwatched."""
    return [Part("sanitize/workload", _workload(machine.cpu_backend, "cpu"), note=r"^\d+ results.*")]


def bench(machine: Machine, folder: Path) -> list[Part]:
    """The cases, those that matter most first."""
    if not machine.gpu_backends:
        return []
    eager, compiled = ("paper", "scores"), ("paper-compiled", "scores-compiled")

    def part(name: str, weight: float, dtype: str, cases: str, n: str, peers: tuple[str, ...] = eager) -> Part:
        chosen = ("--steps", "--cases", *cases.split(), "--n", *n.split(), "--mode", "full", "--peers", *peers)
        return _bench(folder, machine, name, weight, "--dtype", dtype, *chosen)

    main = "imagenet-r50 cifar100-r18"
    return [
        part("imagenet-r50-bf16", 3, "bfloat16", "imagenet-r50", "1e3 1e4 1e5"),
        part("cifar100-r18-bf16", 2, "bfloat16", "cifar100-r18", "1e3 1e4 1e5"),
        part("float32", 2, "float32", main, "1e3 1e4"),
        part("dense-bf16", 2, "bfloat16", "dense-imagenet dense-cifar100", "1e3"),
        part("others-bf16", 1, "bfloat16", "vit-s cifar10-r18", "1e3 1e4"),
        part("compiled-bf16", 3, "bfloat16", main, "1e3 1e4", compiled),
        _bench(folder, machine, "sampler", 1, "--sampler"),
        _bench(folder, machine, "memory", 2, "--memory", "--n", "1e4", "1e5", "1e6", "--peers", "paper"),
    ]


def bench_rehearsal(machine: Machine, folder: Path) -> list[Part]:
    """The smallest case on the CPU."""
    part = _bench(folder, machine, "cpu", 1, "--steps", "--cases", "cifar10-r18", "--n", "100", "--peers", "scores")
    command = [*part.command, "--device", "cpu", "--backend", machine.cpu_backend, "--threads", "1"]
    return [replace(part, command=tuple(command))]


def _bench(folder: Path, machine: Machine, name: str, weight: float, *arguments: str) -> Part:
    command = (PYTHON, "-m", "benchmarks", "--quick", "--out", str(folder / "bench"), *arguments)
    if machine.has_gpu:
        command += ("--device", "cuda", "--backend", *machine.gpu_backends)
    return Part(f"bench/{name}", command, weight, note=_VERDICTS)


def profile(machine: Machine, folder: Path) -> list[Part]:
    """One step of the main cases under ncu, and a table of what it says."""
    tool = machine.tools.get("ncu")
    parts = []
    sections = ("SpeedOfLight", "MemoryWorkloadAnalysis", "LaunchStats", "Occupancy")
    for backend in machine.gpu_backends:
        for case in ("imagenet-r50", "cifar100-r18"):
            csv = folder / f"ncu-{backend}-{case}.csv"
            # The clocks stay as they are: the machine may be shared.
            watched = (
                tool or "ncu", "--clock-control", "none", "--target-processes", "application-only", "--csv", "--page",
                "details", "--log-file", str(csv), *(f"--section={section}" for section in sections),
            )  # fmt: skip
            which = ("--case", case, "--dtype", "bfloat16", "--n", "10000", "--profile")
            parts.append(
                Part(
                    f"profile/{backend}-{case}",
                    (*watched, "--profile-from-start", "off", *_workload(backend, "cuda"), *which), 2,
                    missing=None if tool else "there is no ncu",
                    writes=csv, trial=(*watched, PYTHON, "-c", _TRIAL),
                )
            )  # fmt: skip
    if parts:
        files = tuple(str(part.writes) for part in parts)
        missing = parts[0].missing
        parts.append(Part("profile/table", (PYTHON, "-m", "benchmarks.gpu.metrics", *files), missing=missing))
    return parts


def profile_rehearsal(machine: Machine, folder: Path) -> list[Part]:
    """The same step on the CPU, unwatched."""
    which = ("--case", "cifar100-r18", "--n", "100", "--profile")
    return [Part("profile/workload", _workload(machine.cpu_backend, "cpu") + which, note=r"^\d+ results.*")]


def _workload(backend: str, device: str) -> tuple[str, ...]:
    return (PYTHON, "-m", "benchmarks.gpu.workload", "--backend", backend, "--device", device)


STEPS = [
    Step("report", "devices, versions, commit, tools", 1.5, report),
    Step("build", "the compiled libraries, for the GPU that is present", 4, build),
    Step("verify", "every operator against float64 on this GPU, kept as a verdict", 2.5, verify, verify_rehearsal),
    Step("tests", "the tests of every GPU backend, kept as JUnit XML", 4, tests, tests_rehearsal),
    Step("sanitize", "every operation under compute-sanitizer", 3, sanitize, sanitize_rehearsal),
    Step("bench", "benchmark cases, the important ones first", 5, bench, bench_rehearsal),
    Step("profile", "metrics of the main kernels by ncu", 1.5, profile, profile_rehearsal),
]
