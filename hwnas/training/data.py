"""Labelled images ready for training: split, resized, and kept as arrays that worker processes share."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaces import Task
from spaces.errors import InputError

from .sources import Images, Labels, SourceSet, open_source, own_resolution
from .splits import check_share, held_out_test, stratified_split

RESOLUTIONS = (8, 1024)
TRAINING_MARGIN = 1.15  # of photographs: training draws crops from the middle of an image resized to this much more
TEST_SHARE = 0.2  # of each class, where a set has no test split of its own
FORMAT = 1
COUNTED = 128  # images at a time whose pixels are counted: numpy makes eight bytes of each
SAMPLED = 64  # images of a split whose pixels enter its digest

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageData:
    """Training and validation images with all facts about them; test images only through `test()`.

    Attributes:
        name: of the data set, or the path of its folder.
        task: resolution, classes and channels of the networks.
        class_names: by label.
        train_images: (n, channels, s, s) uint8; s is the resolution, or 1.15 times it for photographs.
        val_images: (n, channels, resolution, resolution) uint8.
        train_labels, val_labels: (n,) int64.
        mean, std: (channels,) of the training images, for pixels scaled to [0, 1].
        flip: whether a mirrored image is still of its class.
        photographs: whether training draws crops of random size, or only shifts the image by a few pixels.
        n_test: the number of test images.
        fingerprint: equal for equal images, splits and settings.
    """

    name: str
    task: Task
    class_names: tuple[str, ...]
    train_images: Images
    train_labels: Labels
    val_images: Images
    val_labels: Labels
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    flip: bool
    photographs: bool
    n_test: int
    fingerprint: str
    _test: _TestSplit

    @property
    def preprocessing(self) -> str:
        """How an image becomes the input on which accuracies were found, in words, for whoever uses the model."""
        colours, size = ("grey", "RGB")[self.task.channels == 3], self.task.resolution
        if not self.photographs:
            return f"{colours}; {size} x {size} pixels, resized if they are of another size"
        side = round(TRAINING_MARGIN * size)
        return f"{colours}; shorter side resized to {side} pixels, bilinear with antialiasing; middle {size} x {size}"

    def test(self) -> tuple[Images, Labels]:
        """The test images and labels, as `val_images` and `val_labels`: for finished models, never for choosing."""
        return self._test.read()

    def save(self, folder: Path) -> None:
        """Write everything to `folder`, whole or not at all; a folder that holds the same data stays as it is.

        Raises:
            InputError: if the folder holds something else, or cannot be written.
        """
        if folder.exists() and any(folder.iterdir()):
            ImageData.open(folder, fingerprint=self.fingerprint)
            return
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        except OSError as error:
            raise InputError(f"{folder} cannot be written: {error.strerror}", hint="give another folder") from error
        try:
            test_images, test_labels = self.test()
            arrays: dict[str, NDArray[Any]] = {
                "train_images": self.train_images,
                "train_labels": self.train_labels,
                "val_images": self.val_images,
                "val_labels": self.val_labels,
                "test_images": test_images,
                "test_labels": test_labels,
            }
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", array)
            (temporary / "data.json").write_text(json.dumps(self._facts(), indent=1) + "\n", encoding="utf-8")
            temporary.chmod(0o755)
            if folder.exists():
                folder.rmdir()  # it is empty
            os.replace(temporary, folder)
        except OSError as error:
            if not (folder / "data.json").exists():
                raise InputError(f"{folder} cannot be written: {error}", hint="is the disk full?") from error
            ImageData.open(folder, fingerprint=self.fingerprint)  # another process was faster
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @staticmethod
    def open(folder: Path, *, fingerprint: str | None = None) -> ImageData:
        """What `save` wrote. Arrays are mapped, not read; the test file is not opened.

        Args:
            fingerprint: what the data must be.
        Raises:
            InputError: if the folder holds no such data, is damaged, or holds other data.
        """
        try:
            facts: dict[str, Any] = json.loads((folder / "data.json").read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                raise ValueError(f"its format is {facts['format']}, this version reads {FORMAT}")
            data = ImageData(
                name=facts["name"],
                task=Task(**facts["task"]),
                class_names=tuple(facts["class_names"]),
                train_images=_map(folder, "train_images"),
                train_labels=_map(folder, "train_labels"),
                val_images=_map(folder, "val_images"),
                val_labels=_map(folder, "val_labels"),
                mean=np.array(facts["mean"], dtype=np.float32),
                std=np.array(facts["std"], dtype=np.float32),
                flip=facts["flip"],
                photographs=facts["photographs"],
                n_test=facts["n_test"],
                fingerprint=facts["fingerprint"],
                _test=_TestSplit(folder=folder, digest=facts["test_digest"]),
            )
            if data._compute_fingerprint() != data.fingerprint:
                raise ValueError("its arrays are not those that were saved")
        except FileNotFoundError as error:
            raise InputError(
                f"{folder} does not hold prepared images: {Path(error.filename).name} is missing",
                hint="prepare the data again, in an empty folder",
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"the prepared images in {folder} are damaged: {error}",
                hint="remove that folder and prepare the data again",
            ) from error
        if fingerprint is not None and data.fingerprint != fingerprint:
            raise InputError(
                f"{folder} must hold the data {fingerprint}, but holds {data.fingerprint}",
                hint="other images, another split or another resolution: give another folder",
            )
        return data

    def _facts(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "task": {
                "resolution": self.task.resolution,
                "classes": self.task.classes,
                "channels": self.task.channels,
            },
            "class_names": list(self.class_names),
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "flip": self.flip,
            "photographs": self.photographs,
            "n_test": self.n_test,
            "test_digest": self._test.digest,
            "fingerprint": self.fingerprint,
        }

    def _compute_fingerprint(self) -> str:
        """Of the facts, of all labels and of a sample of the pixels, but not of the name: a folder may move."""
        facts = {key: value for key, value in self._facts().items() if key not in ("fingerprint", "name")}
        facts["train_digest"] = _digest(self.train_images, self.train_labels)
        facts["val_digest"] = _digest(self.val_images, self.val_labels)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class _TestSplit:
    """Test images in memory, or the folder where they wait; one of the two."""

    digest: str
    images: Images | None = None
    labels: Labels | None = None
    folder: Path | None = None

    def read(self) -> tuple[Images, Labels]:
        if self.folder is None:
            assert self.images is not None
            assert self.labels is not None
            return self.images, self.labels
        try:
            images, labels = _map(self.folder, "test_images"), _map(self.folder, "test_labels")
        except (OSError, ValueError) as error:
            raise InputError(
                f"the test images in {self.folder} cannot be read: {error}", hint="prepare the data again"
            ) from error
        if _digest(images, labels) != self.digest:
            raise InputError(
                f"the test images in {self.folder} are not those that were saved", hint="prepare them again"
            )
        return images, labels


def load_images(
    data: str,
    *,
    root: Path,
    resolution: int | None = None,
    validation_share: float = 0.2,
    seed: int,
    download: bool = False,
    test_share: float = TEST_SHARE,
    flip: bool | None = None,
) -> ImageData:
    """Read a data set and split it.

    Where the set has no test split, one is held out first, by a rule that knows no seed: every search has the same
    test images. Where it has no validation split, that share of the remaining images is drawn by the seed. Both
    take their share of every class. Grey images keep one channel if all are grey. Photographs are resized to a
    shorter side of 1.15 times the resolution; validation and test see the middle of that.

    Args:
        data: `digits`, `cifar10`, `fashion-mnist`, or a folder with one subfolder a class, itself or below train,
            val and test. A known name wins over a folder of that name: write `./digits` for the folder.
        root: where torchvision's data sets lie.
        resolution: of the networks' input in pixels; None: the set's own, for folders 96 (or the images' own size
            where all are equal squares of at most 96 pixels).
        download: fetch a data set that is not at `root`.
        flip: whether a mirrored image is still of its class; None: no for digits, yes for all others.
    Raises:
        InputError: if any of it cannot be had as asked; the message says what to do.
    """
    low, high = RESOLUTIONS
    if resolution is not None and not low <= resolution <= high:
        raise InputError(
            f"the resolution must lie between {low} and {high} pixels, got {resolution}",
            hint="32 suits small images, 96 to 224 photographs",
        )
    check_share(validation_share, "the share of validation images")
    check_share(test_share, "the share of test images")
    sources = open_source(data, root=root.expanduser(), download=download)
    return _prepare(
        sources,
        resolution=max(RESOLUTIONS[0], sources.resolution) if resolution is None else resolution,
        validation_share=validation_share,
        test_share=test_share,
        rng=np.random.default_rng(seed),
        flip=sources.flip if flip is None else flip,
    )


def default_resolution(data: str) -> int:
    """The resolution in pixels that `load_images` uses where none is given.

    Raises:
        InputError: as `load_images`, where the data is a folder.
    """
    return max(RESOLUTIONS[0], own_resolution(data))


def _prepare(
    sources: SourceSet,
    *,
    resolution: int,
    validation_share: float,
    test_share: float,
    rng: np.random.Generator,
    flip: bool,
) -> ImageData:
    names = sources.class_names
    labels = sources.train.labels
    train = np.arange(len(labels))
    if sources.test is None:
        train, test = held_out_test(labels, sources.train.keys, test_share, names)
        test_source = sources.train
    else:
        test_source, test = sources.test, np.arange(len(sources.test.labels))
    if sources.val is None:
        kept, taken = stratified_split(labels[train], validation_share, rng, names)
        train, val = train[kept], train[taken]
        val_source = sources.train
    else:
        val_source, val = sources.val, np.arange(len(sources.val.labels))

    resize = round(TRAINING_MARGIN * resolution) if sources.photographs else resolution
    train_images = sources.train.read(train, resize=resize, crop=resize)
    val_images = val_source.read(val, resize=resize, crop=resolution)
    test_images = test_source.read(test, resize=resize, crop=resolution)
    test_labels = test_source.labels[test]
    in_train, in_val = sources.train.digests(train), val_source.digests(val)
    _warn_of_copies("validation", in_val, "training", {*in_train})
    _warn_of_copies("test", test_source.digests(test), "training or validation", {*in_train, *in_val})
    mean, std = _mean_std(train_images)
    facts: dict[str, Any] = {
        "name": sources.name,
        "task": Task(resolution, len(names), sources.channels),
        "class_names": names,
        "train_images": train_images,
        "train_labels": labels[train],
        "val_images": val_images,
        "val_labels": val_source.labels[val],
        "mean": mean,
        "std": std,
        "flip": flip,
        "photographs": sources.photographs,
        "n_test": len(test),
        "_test": _TestSplit(_digest(test_images, test_labels), test_images, test_labels),
    }
    return ImageData(**facts, fingerprint=ImageData(**facts, fingerprint="")._compute_fingerprint())


def _mean_std(images: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Per channel, of pixels scaled to [0, 1]; from histograms, which are exact and need no float copy."""
    values = np.arange(256) / 255
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    for start in range(0, len(images), COUNTED):
        some = images[start : start + COUNTED]
        counts += [np.bincount(some[:, c].ravel(), minlength=256) for c in range(images.shape[1])]
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
    return mean.astype(np.float32), np.maximum(std, 1 / 255).astype(np.float32)  # constant images divide by one step


def _warn_of_copies(split: str, digests: Sequence[bytes], where: str, known: set[bytes]) -> None:
    copies = sum(digest in known for digest in digests)
    if copies:
        log.warning(
            "%d of %d %s images also stand among the %s images: the %s accuracy will be too good",
            copies,
            len(digests),
            split,
            where,
            split,
        )


def _digest(images: Images, labels: Labels) -> str:
    """Of the shape, all labels, and the pixels of a few images spread over the split."""
    digest = hashlib.sha256(json.dumps([images.shape, str(images.dtype), str(labels.dtype)]).encode())
    digest.update(np.ascontiguousarray(labels).tobytes())
    digest.update(np.ascontiguousarray(images[:: max(1, len(images) // SAMPLED)]).tobytes())
    return digest.hexdigest()[:16]


def _map(folder: Path, name: str) -> Any:
    try:
        return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except EOFError as error:
        raise ValueError(f"{name}.npy is cut off") from error
