"""`python -m multimix_kernels`: versions, what is installed, and which backend runs where, and why; or `... verify`."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import torch

from . import __version__, available_backends, backends
from .backends import ENVIRONMENT_VARIABLE, best, native
from .backends.verdicts import choice, device, plan, store

NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float64: "float64"}


def installed_version() -> str:
    """The version with the local part that names the libraries of a wheel."""
    try:
        installed = metadata.version("multimix_kernels")
    except metadata.PackageNotFoundError:
        return __version__
    return installed if installed.split("+")[0] == __version__ else __version__


def gpus() -> list[str]:
    """A line for every GPU that torch can use."""
    if not torch.cuda.is_available():
        return ["no GPU that torch can use"]
    lines = []
    for index in range(torch.cuda.device_count()):
        capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
        lines.append(f"{torch.cuda.get_device_name(index)}, compute capability {capability}")
    driver = native.driver_version()
    return [*lines, f"driver for CUDA {driver[0]}.{driver[1]}"] if driver else lines


def libraries() -> list[str]:
    """A line for every compiled library."""
    lines = []
    for name in ("cpu", "cuda"):
        info = native.build_info().get(name, {})
        if native.library(name).exists():
            parts = [f"torch {info.get('torch', '?')}", info.get("compiler", "an unknown compiler")]
            parts += [f"nvcc {info['nvcc']}"] if "nvcc" in info else []
            targets = info.get("instruction_sets") or map(native.architecture_name, info.get("architectures", []))
            text = f"for {', '.join(targets)}, built with {', '.join(parts)}"
        else:
            text = f"not built: {native.why_not_built(name)}"
        lines.append(f"  {name:<10} {text}{'; loaded' if native.is_loaded(name) else ''}")
    return lines


def choices() -> list[str]:
    """Which backend tensors of each device and dtype get where none is named, and the order in which they are tried."""
    order = ", ".join(f"{row.name} (where verified)" if row.to_verify else row.name for row in backends.TABLE.values())
    lines = [f"  {'order':<10} {order}; of those verified the fastest"]
    for variable in (ENVIRONMENT_VARIABLE, choice.ENVIRONMENT_VARIABLE):
        if name := os.environ.get(variable):
            lines.append(f"  {'set':<10} {variable}={name}")
    for kind in ("cpu", "cuda"):
        chosen: dict[str, list[str]] = {}
        for dtype, name in NAMES.items():
            found = [best(kind, None, dtype, operation, may_check=False) for operation in plan.OPERATIONS]
            used = dict.fromkeys(map(str, found))
            by_operation = " ".join(f"{x} ({o})" for x, o in zip(found, plan.OPERATIONS, strict=True))
            chosen.setdefault(next(iter(used)) if len(used) == 1 else by_operation, []).append(name)
        taken = "; ".join(f"{name} for {', '.join(dtypes)}" for name, dtypes in chosen.items())
        lines.append(f"  {kind:<10} {taken}")
    return lines


def verdicts() -> list[str]:
    """A line for every GPU: what its verdict says and of when it is, or that there is none."""
    lines = []
    for index in range(torch.cuda.device_count()):
        on = device.find("cuda", index)
        found = None if on is None else store.load(on)
        if on is None or found is None:
            name = "a GPU that cannot be used" if on is None else on.name
            lines.append(f"  {index:<10} {name}: not verified; {choice.COMMAND} --device {index}")
            continue
        results = [x for by in found["results"].values() for kinds in by.values() for x in kinds.values()]
        passed = sum(x["failed"] is None for x in results)
        names = ", ".join(found["results"])
        lines.append(f"  {index:<10} {on.name}: {names}: {passed} of {len(results)} passed, {found['date']}")
    return [*lines, f"  {'kept in':<10} {store.folder()}"]


def main() -> None:
    """Prints versions, devices, libraries, every backend with why it is missing if it is, and what is used where."""
    print(f"multimix_kernels {installed_version()}, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"in {Path(__file__).parent}")
    print("\n".join([f"{platform.machine()}, {torch.get_num_threads()} threads", *gpus()]))
    print("backends:")
    for name, backend in available_backends().items():
        state = f"available ({', '.join(backend.devices)})" if backend else f"not available: {backend.reason}"
        print(f"  {name:<10} {state}")
    print("\n".join(["compiled libraries:", *libraries(), "verdicts:", *verdicts()]))
    print("\n".join(["used where no backend is named:", *choices()]))


def run(arguments: list[str]) -> int:
    """The exit code; that of a program whose reader is gone (`... | head`) if it is, without a traceback."""
    try:
        if arguments[:1] == ["verify"]:
            from .verify.command import main as verify

            code = verify(arguments[1:])
        else:
            main()
            code = 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        try:
            print(flush=True)
        except BrokenPipeError:
            # Python would write what is left once more, at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + 13  # the number of SIGPIPE, as a shell has it
        raise  # another pipe


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
