"""Fashion-MNIST and what shares its layout: IDX files, where Debian or torchvision put them."""

import gzip
import math
from pathlib import Path

import torch
from torch import Tensor

from .data import Dataset, make

NAMED = ("fashion-mnist",)
# Debian's package dataset-fashion-mnist; torchvision's FashionMNIST(root="data").
PLACES = ("/usr/share/datasets/{name}", "data/FashionMNIST/raw", "~/data/FashionMNIST/raw")
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
UNSIGNED_BYTES = 8  # the third byte of an IDX file: the type of its elements


def find(name: str) -> Path:
    """The folder of a data set by name.

    Raises:
        ValueError: it is in none of the places.
    """
    places = [Path(place.format(name=name)).expanduser() for place in PLACES]
    for place in places:
        if has_idx(place):
            return place
    raise ValueError(
        f"data: no {name} in {', '.join(map(str, places))}; Debian has it (apt install dataset-{name}), torchvision "
        "downloads it (FashionMNIST('data', download=True)), or name its folder"
    )


def has_idx(path: Path) -> bool:
    """Whether a folder has the four files, compressed or not."""
    return all(_file(path, name) is not None for name in FILES)


def load_idx(path: Path, name: str | None = None) -> Dataset:
    """Training and test images (N, 1, height, width) of a folder of IDX files.

    Raises:
        ValueError: a file is not what its name says.
    """
    x, y, x_test, y_test = (_read(path, file) for file in FILES)
    if len(x) != len(y) or len(x_test) != len(y_test):
        raise ValueError(f"data: {path} has {len(x)} + {len(x_test)} images and {len(y)} + {len(y_test)} labels")
    classes = int(y.max()) + 1
    return make(name or path.name, classes, x.unsqueeze(1), y, x_test.unsqueeze(1), y_test)


def _file(path: Path, name: str) -> Path | None:
    return next((file for file in (path / name, path / f"{name}.gz") if file.is_file()), None)


def _read(path: Path, name: str) -> Tensor:
    """The array of one file: two zero bytes, type, rank, big-endian sizes, elements (Y. LeCun's IDX format)."""
    file = _file(path, name)
    if file is None:
        raise ValueError(f"data: {path} has no {name}")
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"data: {file}: {error}") from None
    rank = content[3] if len(content) > 3 else 0
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, 4 + 4 * rank, 4)]
    if content[:3] != bytes([0, 0, UNSIGNED_BYTES]) or len(content) != 4 + 4 * rank + math.prod(shape):
        raise ValueError(f"data: {file} is no IDX file of unsigned bytes")
    return torch.frombuffer(bytearray(content[4 + 4 * rank :]), dtype=torch.uint8).reshape(shape)
