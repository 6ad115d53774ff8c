"""Which images are for training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spaces.errors import InputError

Index = NDArray[np.int64]


def held_out_test(labels: Index, keys: Sequence[str], share: float, class_names: Sequence[str]) -> tuple[Index, Index]:
    """(rest, test): a stratified test split that no seed moves.

    In each class the images whose keys have the smallest SHA-256 are held out, so every search with any seed has
    the same test images, on any machine, and adding images to a class moves few of those that were there.

    Args:
        labels: (n,) class of each image.
        keys: (n,) a lasting name of each image (its path within the data set).
        share: of each class, in (0, 1).
    """
    digests = [hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest() for key in keys]
    rank = np.empty(len(labels), dtype=np.int64)
    rank[sorted(range(len(keys)), key=digests.__getitem__)] = np.arange(len(keys))
    return _split(labels, rank, share, class_names, "test")


def stratified_split(
    labels: Index, share: float, rng: np.random.Generator, class_names: Sequence[str]
) -> tuple[Index, Index]:
    """(rest, taken): the share of every class, drawn at random."""
    return _split(labels, rng.permutation(len(labels)), share, class_names, "validation")


def _split(labels: Index, rank: Index, share: float, class_names: Sequence[str], name: str) -> tuple[Index, Index]:
    """Take the images of lowest rank from each class: the share, rounded, at least one and not all. Both sorted."""
    taken = np.zeros(len(labels), dtype=np.bool_)
    for label, class_name in enumerate(class_names):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise InputError(
                f"class {class_name!r} has {len(members)} image(s) left, and splitting off the {name} images needs 2",
                hint="add images to that class or remove it; 3 or more a class allow training, validation and test",
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        taken[members[np.argsort(rank[members])[:count]]] = True
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def check_share(share: float, name: str) -> None:
    """
    Raises:
        InputError: if the share is not strictly between 0 and 1.
    """
    if not 0 < share < 1:
        raise InputError(f"{name} must lie between 0 and 1, got {share}", hint="0.1 to 0.3 is usual")
