"""Data sets in folders: IDX files, CIFAR's Python pickles, or a folder of images for each class."""

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .data import Dataset, make
from .idx import has_idx, load_idx

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp"}
# All that the published CIFAR files name; a pickle may otherwise run any code.
PICKLED = {"_reconstruct", "ndarray", "dtype", "_frombuffer", "encode"}


def load_path(path: Path, image_size: int = 32) -> Dataset:
    """The data set in a directory, read whole into memory.

    Args:
        path: Fashion-MNIST or MNIST as IDX files (also in FashionMNIST/raw, where torchvision puts them), CIFAR-10 or
            CIFAR-100 in its Python version, or train/ and val/ with a folder of images for each class.
        image_size: width and height to which images are resized; the first two stay as they are.

    Raises:
        ValueError: it is none of them.
    """
    for folder in (path, path / "raw", path / "FashionMNIST" / "raw"):
        if has_idx(folder):
            return load_idx(folder, path.name)
    if (path / "data_batch_1").is_file() and (path / "test_batch").is_file():
        return _cifar(path, sorted(path.glob("data_batch_*")), path / "test_batch", b"labels")
    if (path / "train").is_file() and (path / "test").is_file():
        return _cifar(path, [path / "train"], path / "test", b"fine_labels")
    if (path / "train").is_dir() and (path / "val").is_dir():
        return _image_folders(path, image_size)
    raise ValueError(
        f"data: {path} {'is not a directory' if not path.is_dir() else 'is not a data set'}; accepted: a directory "
        "with IDX files, one with CIFAR's Python pickles (data_batch_1 ... test_batch, or train and test), or one "
        "with train/ and val/, each with a folder of images for each class"
    )


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if name in PICKLED and module.split(".")[0] in ("numpy", "_codecs"):
            return super().find_class(module, name)
        raise ValueError(f"data: a CIFAR pickle holds arrays only, got {module}.{name}")


def _cifar(path: Path, train: list[Path], test: Path, labels: bytes) -> Dataset:
    def read(files: list[Path]) -> tuple[Tensor, Tensor]:
        batches = []
        for file in files:
            with file.open("rb") as stream:
                batches.append(_ArraysOnly(stream, encoding="bytes").load())
        x = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
        return torch.from_numpy(x), torch.tensor([label for batch in batches for label in batch[labels]])

    x, y = read(train)
    return make(path.name, int(y.max()) + 1, x, y, *read([test]))


def _image_folders(path: Path, size: int) -> Dataset:
    classes = sorted(folder.name for folder in (path / "train").iterdir() if folder.is_dir())
    unknown = {folder.name for folder in (path / "val").iterdir() if folder.is_dir()} - set(classes)
    if unknown:
        raise ValueError(f"data: {path / 'val'} has classes that train/ has not: {', '.join(sorted(unknown))}")
    return make(path.name, len(classes), *_read(path / "train", classes, size), *_read(path / "val", classes, size))


def _read(root: Path, classes: list[str], size: int) -> tuple[Tensor, Tensor]:
    from PIL import Image

    images, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(f for f in (root / name).glob("*") if f.suffix.lower() in EXTENSIONS)
        for file in files:
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("RGB").resize((size, size)))
            images.append(torch.tensor(pixels).permute(2, 0, 1))
            labels.append(label)
    if not images:
        raise ValueError(f"data: no images ({', '.join(sorted(EXTENSIONS))}) in the class folders of {root}")
    return torch.stack(images), torch.tensor(labels)
