"""Images as they come: embedded digits, torchvision's data sets, folders of image files."""

from __future__ import annotations

import difflib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaces.errors import InputError

Images = NDArray[np.uint8]  # (n, channels, height, width)
Labels = NDArray[np.int64]  # (n,)


class Source(ABC):
    """Labelled images that can be read at any size."""

    @property
    @abstractmethod
    def labels(self) -> Labels: ...

    @property
    @abstractmethod
    def keys(self) -> Sequence[str]:
        """A lasting name of each image."""

    @abstractmethod
    def read(self, index: NDArray[np.int64], *, resize: int, crop: int) -> Images:
        """The images at `index`, shorter side resized to `resize` pixels, then the middle `crop` x `crop` of it."""

    @abstractmethod
    def digests(self, index: NDArray[np.int64]) -> list[bytes]:
        """Of each image's bytes as they are stored: equal for copies."""


@dataclass(frozen=True, eq=False)
class ArraySource(Source):
    """Square images that are in memory already."""

    images: Images
    array_labels: Labels

    @property
    def labels(self) -> Labels:
        return self.array_labels

    @property
    def keys(self) -> Sequence[str]:
        return [f"{i:08d}" for i in range(len(self.array_labels))]

    def read(self, index: NDArray[np.int64], *, resize: int, crop: int) -> Images:
        images = self.images[index]
        if images.shape[-1] != resize:
            import torch  # noqa: PLC0415  only where pixels change
            from torchvision.transforms.v2 import functional as F  # noqa: N812, PLC0415

            images = F.resize(torch.from_numpy(images), [resize, resize], antialias=True).numpy()
        margin = (resize - crop) // 2
        return images[:, :, margin : margin + crop, margin : margin + crop]

    def digests(self, index: NDArray[np.int64]) -> list[bytes]:
        return [hashlib.blake2b(self.images[i].tobytes(), digest_size=12).digest() for i in index]


@dataclass(frozen=True, eq=False)
class SourceSet:
    """A data set before it is split and resized.

    Attributes:
        name: of a known data set, or the path of the folder.
        val, test: None where the set has no such split of its own.
        resolution: what the set is used at unless another is asked for, in pixels.
        photographs: whether images are larger than the networks' input, so that training draws crops of them.
        flip: whether a mirrored image is still of its class.
    """

    name: str
    class_names: tuple[str, ...]
    train: Source
    val: Source | None
    test: Source | None
    resolution: int
    channels: int
    photographs: bool
    flip: bool


def open_source(data: str, *, root: Path, download: bool) -> SourceSet:
    """The set of a known name, or of a folder; a known name wins over a folder of that name (write `./digits`).

    Raises:
        InputError: if there is no such set or folder, or it is not laid out as it must be.
    """
    if data in DATASETS:
        return DATASETS[data].open(root, download)
    from .image_folder import open_folder  # noqa: PLC0415  it imports this module's interface

    return open_folder(_folder(data))


def own_resolution(data: str) -> int:
    """The resolution in pixels that a set is used at unless another is asked for.

    Raises:
        InputError: if the data is a folder that is not there, or not laid out as it must be.
    """
    if data in DATASETS:
        return DATASETS[data].resolution
    from .image_folder import open_folder  # noqa: PLC0415  it imports this module's interface

    return open_folder(_folder(data)).resolution


def _folder(data: str) -> Path:
    folder = Path(data).expanduser()
    if not folder.is_dir():
        near = difflib.get_close_matches(data.lower(), DATASETS, n=1, cutoff=0.5)
        kind = "is a file, not a folder" if folder.is_file() else "is neither a known data set nor a folder that exists"
        raise InputError(
            f"data {data!r} {kind}",
            hint=(f"did you mean {near[0]}? " if near and not folder.is_file() else "")
            + f"give one of {', '.join(DATASETS)}, or a folder with one subfolder of images a class",
        )
    return folder


def _digits(root: Path, download: bool) -> SourceSet:
    """scikit-learn's embedded 8 x 8 digits: 1,797 grey images of 0..16, here scaled to 0..255."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  1 s, and few need it

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    train = ArraySource(images, bunch.target.astype(np.int64))
    return SourceSet("digits", tuple(map(str, range(10))), train, None, None, 8, 1, False, False)


def _cifar10(root: Path, download: bool) -> SourceSet:
    from torchvision.datasets import CIFAR10  # noqa: PLC0415  torchvision only where data is touched

    def source(train: bool) -> tuple[ArraySource, Sequence[str]]:
        part = CIFAR10(root, train=train, download=download)
        images = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
        return ArraySource(images, np.asarray(part.targets, dtype=np.int64)), part.classes

    (train, names), (test, _) = _from_torchvision("cifar10", root / "cifar-10-batches-py", download, source)
    return SourceSet("cifar10", tuple(names), train, None, test, 32, 3, False, True)


def _fashion_mnist(root: Path, download: bool) -> SourceSet:
    from torchvision.datasets import FashionMNIST  # noqa: PLC0415

    def source(train: bool) -> tuple[ArraySource, Sequence[str]]:
        part = FashionMNIST(root, train=train, download=download)
        return ArraySource(part.data.numpy()[:, None], part.targets.numpy().astype(np.int64)), part.classes

    (train, names), (test, _) = _from_torchvision("fashion-mnist", root / "FashionMNIST" / "raw", download, source)
    return SourceSet("fashion-mnist", tuple(names), train, None, test, 28, 1, False, True)


def _from_torchvision(name: str, folder: Path, download: bool, source: Callable[[bool], Any]) -> tuple[Any, Any]:
    try:
        return source(True), source(False)
    except Exception as error:  # torchvision's readers raise whatever the bytes provoke
        reason = " ".join(str(error).split()) or type(error).__name__
        if download:
            message = f"{name} could not be downloaded to {folder}: {reason}"
            hint = f"put its files into {folder} by hand"
        elif folder.is_dir():
            message = f"{name} in {folder} is incomplete or damaged: {reason}"
            hint = "remove that folder and fetch the set again (--download), or give another --data-root"
        else:
            message = f"{name} is not there: {folder} does not exist"
            hint = "give the folder that holds it as --data-root, or allow fetching it (--download)"
        raise InputError(message, hint=hint) from error


@dataclass(frozen=True)
class Dataset:
    """A set that is known by name."""

    resolution: int
    open: Callable[[Path, bool], SourceSet]  # of the folder that holds it, and whether it may be fetched


DATASETS: dict[str, Dataset] = {
    "digits": Dataset(8, _digits),
    "cifar10": Dataset(32, _cifar10),
    "fashion-mnist": Dataset(28, _fashion_mnist),
}
