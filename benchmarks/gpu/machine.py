"""What the machine has, as the report found it. Nothing here imports torch: a broken one must not end the visit."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

FILE = "machine.json"


@dataclass(frozen=True)
class Machine:
    """Facts that decide what can run."""

    gpu: str | None = None  # its name, by torch
    driver_sees: str | None = None  # GPUs, by nvidia-smi
    capability: str | None = None
    torch: str | None = None
    cores: int = 1
    tools: dict[str, str] = field(default_factory=dict)  # programs by name: where they are
    packages: list[str] = field(default_factory=list)  # that can be imported
    backends: dict[str, dict] = field(default_factory=dict)  # as available_backends() says

    @classmethod
    def read(cls, folder: Path) -> "Machine":
        """From the report in a folder; what is not in it is taken as not there."""
        return cls(**{name: value for name, value in facts(folder).items() if name in cls.__dataclass_fields__})

    @property
    def has_gpu(self) -> bool:
        """Whether there is a GPU, even one that torch cannot use."""
        return self.gpu is not None or self.driver_sees is not None

    @property
    def gpu_backends(self) -> list[str]:
        """Backends whose kernels run on the GPU, best first."""
        return [name for name, found in self.backends.items() if found["available"] and "cuda" in found["devices"]]

    @property
    def cpu_backend(self) -> str:
        """The best backend for a rehearsal."""
        return "cpu" if self.backends.get("cpu", {}).get("available") else "reference"

    def pretended(self) -> "Machine":
        """This machine, had it a GPU and every tool."""
        tools = {name: name for name in ("nvidia-smi", "nvcc", "compute-sanitizer", "ncu")}
        backends = self.backends | {"triton": {"available": True, "devices": ["cuda"], "reason": None}}
        return replace(self, gpu="a GPU", capability="9.0", tools=self.tools | tools, backends=backends)


def facts(folder: Path) -> dict:
    """All that the report found; empty if there is none."""
    try:
        return json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return {}
