"""A person's own images: a folder with one subfolder a class, with or without train, val and test above them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from spaces.errors import InputError

from .sources import Images, Labels, Source, SourceSet

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision's ImageFolder
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
SPLIT_OF = {alias: split for split, aliases in SPLITS.items() for alias in aliases}  # compared in lower case
DEFAULT_RESOLUTION = 96
SMALL = 96  # equal squares of at most this many pixels are a small set: used as they are, not as photographs
MOST_ELONGATED = 4  # of the sides; beyond it the ends are cut off before resizing, which else needs boundless memory
MOST_NAMED = 5  # files in one message
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True, slots=True)
class _Header:
    mode: str
    size: tuple[int, int]


@dataclass(frozen=True)
class FileSource(Source):
    """Image files, decoded when they are read."""

    folder: Path
    files: tuple[Path, ...]
    file_labels: tuple[int, ...]
    channels: int
    all_files: tuple[Path, ...]  # of every split: where one is damaged, all damaged ones are named

    @property
    def labels(self) -> Labels:
        return np.asarray(self.file_labels, dtype=np.int64)

    @property
    def keys(self) -> Sequence[str]:
        return [file.relative_to(self.folder).as_posix() for file in self.files]

    def read(self, index: NDArray[np.int64], *, resize: int, crop: int) -> Images:
        images = np.empty((len(index), self.channels, crop, crop), dtype=np.uint8)

        def decode(slot: int) -> str:
            try:
                images[slot] = _decode(self.files[index[slot]], self.channels, resize, crop)
            except Exception as error:  # decoders raise whatever the bytes provoke
                return _reason(error)
            return ""

        with ThreadPoolExecutor(_threads()) as pool:
            reasons = list(pool.map(decode, range(len(index))))
        if any(reasons):
            _raise_unreadable(self.all_files, self.channels, resize)
        return images

    def digests(self, index: NDArray[np.int64]) -> list[bytes]:
        return [hashlib.blake2b(self.files[i].read_bytes(), digest_size=12).digest() for i in index]


def open_folder(folder: Path) -> SourceSet:
    """Find classes and splits, and look into the head of every file.

    All images grey makes a set of one channel, else all become RGB. Equal squares of at most 96 px are used at
    their own size, anything else at 96 px.

    Raises:
        InputError: if a folder, a class or an image is not as it must be.
    """
    layout = _layout(folder)
    class_names = _class_names(layout)
    found = {split: _files(part, class_names) for split, part in layout.items()}
    files = [file for part, _ in found.values() for file in part]
    headers = _headers(files)
    channels = 1 if all(header.mode in GREY for header in headers) else 3
    sizes = {header.size for header in headers}
    width, height = next(iter(sizes))
    small = len(sizes) == 1 and width == height <= SMALL
    sources = {
        split: FileSource(layout[split], tuple(part), tuple(labels), channels, tuple(files))
        for split, (part, labels) in found.items()
    }
    return SourceSet(
        name=str(folder),
        class_names=class_names,
        train=sources["train"],
        val=sources.get("val"),
        test=sources.get("test"),
        resolution=width if small else DEFAULT_RESOLUTION,
        channels=channels,
        photographs=not small,
        flip=True,
    )


def _layout(folder: Path) -> dict[str, Path]:
    """Split -> the folder that holds its classes; `train` alone where the set is not split."""
    subfolders = _subfolders(folder)
    if not subfolders:
        raise InputError(
            f"{folder} has no class folders", hint="put the images of each class into a subfolder named for the class"
        )
    named = [path for path in subfolders if path.name.lower() in SPLIT_OF]
    others = [path for path in subfolders if path not in named]
    besides = [path.name for path in others if any(_images_below(path))]
    # A class may be called `train` (cars, trains, planes): then it stands beside others and holds images itself.
    splits = [path for path in named if _subfolders(path) and not (besides and _holds_images(path))]
    if splits and besides:
        raise InputError(
            f"{folder} has {_listed([path.name for path in splits])} with class folders inside, and beside it "
            f"{_listed(besides)} with images, which would be left out",
            hint="move those elsewhere if the set is split; if all are classes, put the images directly into each",
        )
    if others and not splits:
        _refuse_unknown_splits(folder, subfolders)
        return {"train": folder}
    return _split_layout(folder, named)


def _split_layout(folder: Path, named: Sequence[Path]) -> dict[str, Path]:
    layout: dict[str, Path] = {}
    for path in named:
        split = SPLIT_OF[path.name.lower()]
        if split in layout:
            raise InputError(
                f"{folder} has both {layout[split].name} and {path.name}", hint=f"keep one of them as {split}"
            )
        layout[split] = path
    if "train" not in layout:
        raise InputError(
            f"{folder} has {', '.join(path.name for path in named)} but no train folder",
            hint="put the training images in train",
        )
    return {split: layout[split] for split in SPLITS if split in layout}


def _refuse_unknown_splits(folder: Path, classes: Sequence[Path]) -> None:
    """Folders such as `set1/{cats,dogs} set2/{cats,dogs}` are hardly the classes set1 and set2."""
    below = {path.name: {inner.name for inner in _subfolders(path)} for path in classes if not _holds_images(path)}
    seen = Counter(name for inner in below.values() for name in inner)
    shared = sorted(name for name, times in seen.items() if times > 1)
    # One folder in each, as in ants/images and bees/images, only wraps the images of a class.
    if shared and any(len(inner) > 1 for inner in below.values()):
        outer = sorted(name for name, inner in below.items() if not inner.isdisjoint(shared))
        raise InputError(
            f"{_listed(outer)} in {folder} hold no images themselves but folders of the same names "
            f"({_listed(shared)}), so classes cannot be told from splits",
            hint="call splits train, val and test, each with the class folders inside; if they are classes, put the "
            "images directly into each",
        )


def _class_names(layout: dict[str, Path]) -> tuple[str, ...]:
    """The sorted names of the class folders, equal in every split."""
    of_split = {split: tuple(path.name for path in _subfolders(part)) for split, part in layout.items()}
    names = of_split["train"]
    if not names:
        raise InputError(
            f"{layout['train']} has no class folders",
            hint="put the images of each class into a subfolder named for the class",
        )
    if len(names) < 2:
        raise InputError(f"{layout['train']} has one class only ({names[0]})", hint="two or more classes are needed")
    for split, others in of_split.items():
        if set(others) != set(names):
            missing, extra = sorted(set(names) - set(others)), sorted(set(others) - set(names))
            parts = [f"lacks {_listed(missing)}"] * bool(missing) + [f"has {_listed(extra)} besides"] * bool(extra)
            raise InputError(
                f"the classes of {layout[split]} differ from those of {layout['train']}: it {' and '.join(parts)}",
                hint="every split needs the same class folders",
            )
    return names


def _files(folder: Path, class_names: Sequence[str]) -> tuple[list[Path], list[int]]:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        members = sorted(_images_below(folder / name))
        if not members:
            raise InputError(
                f"class folder {folder / name} holds no images",
                hint=f"images end in {', '.join(EXTENSIONS)}; remove the folder if there is no such class",
            )
        files += members
        labels += [label] * len(members)
    return files, labels


def _subfolders(folder: Path) -> list[Path]:
    """Sorted by name; hidden folders and macOS's archive debris are nobody's class."""
    return sorted(path for path in _entries(folder) if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise InputError(f"folder {folder} cannot be read: {_reason(error)}", hint="allow reading it") from error


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _holds_images(folder: Path) -> bool:
    """Directly, not in folders below."""
    return any(_is_image(path.name) and not path.is_dir() for path in _entries(folder))


def _images_below(folder: Path) -> Iterable[Path]:
    def fail(error: OSError) -> None:
        raise InputError(f"folder {error.filename} cannot be read: {_reason(error)}", hint="allow reading it")

    for where, _, names in os.walk(folder, onerror=fail, followlinks=True):
        yield from (Path(where, name) for name in names if _is_image(name))


def _headers(files: Sequence[Path]) -> list[_Header]:
    def look(file: Path) -> _Header | None:
        try:
            with Image.open(file) as image:
                return _Header(image.mode, image.size)
        except Exception:  # decoders raise whatever the bytes provoke; who names the files finds the reason again
            return None

    with ThreadPoolExecutor(_threads()) as pool:
        headers = [header for header in pool.map(look, files) if header is not None]
    if len(headers) < len(files):
        _raise_unreadable(files, 3, DEFAULT_RESOLUTION)
    return headers


def _decode(file: Path, channels: int, resize: int, crop: int) -> Images:
    """(channels, crop, crop): upright, shorter side at `resize`, the middle of it."""
    from torchvision.transforms.v2 import functional as F  # noqa: N812, PLC0415  torchvision only where data is touched

    with Image.open(file) as opened:
        # A JPEG can be decoded at 1/2, 1/4 or 1/8; twice the final size leaves the last step to the antialiased resize.
        opened.draft(None, (2 * resize, 2 * resize))
        image = ImageOps.exif_transpose(opened)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode == "I" and opened.format != "PPM":  # Pillow scales deep PPM and PGM files to 0..65535
        raise ValueError("its pixels are signed or 32-bit integers of unknown range")
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow would cut off instead of scaling
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert("L" if channels == 1 else "RGB")
    short = min(image.size)
    if max(image.size) > MOST_ELONGATED * short:
        width, height = (min(side, MOST_ELONGATED * short) for side in image.size)
        image = F.center_crop(image, [height, width])
    image = F.center_crop(F.resize(image, [resize], antialias=True), [crop, crop])
    return np.asarray(image).reshape(crop, crop, channels).transpose(2, 0, 1)


def _raise_unreadable(files: Sequence[Path], channels: int, resize: int) -> None:
    """Decode everything once more, to count and name all that is damaged and not only what was met first."""

    def load(file: Path) -> str:
        try:
            _decode(file, channels, resize, resize)
        except Exception as error:  # decoders raise whatever the bytes provoke
            return _reason(error)
        return ""

    with ThreadPoolExecutor(_threads()) as pool:
        reasons = list(pool.map(load, files))
    broken = [f"{file} ({reason})" for file, reason in zip(files, reasons, strict=True) if reason]
    raise InputError(
        f"{len(broken)} of {len(files)} images cannot be read: {_listed(broken)}",
        hint="remove or replace them; no image is left out silently",
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if "cannot identify image file" in text:  # Pillow repeats the path
        text = "not an image"
    return " ".join(text.split()) or type(error).__name__


def _threads() -> int:
    return min(8, os.cpu_count() or 1)
