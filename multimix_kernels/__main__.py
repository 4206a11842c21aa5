"""`python -m multimix_kernels`: versions, and which backends can be used here."""

import platform

import torch

from . import __version__, available_backends


def main() -> None:
    """Prints versions, the device, and every backend with why it is missing if it is."""
    print(f"multimix_kernels {__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU that torch can use"
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {gpu}")
    for name, backend in available_backends().items():
        state = f"available ({', '.join(backend.devices)})" if backend else f"not available: {backend.reason}"
        print(f"  {name:<10} {state}")


if __name__ == "__main__":
    main()
