"""The text that names the skeleton of a space of cells: everything of a network but its genes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import InputError


@dataclass(frozen=True)
class Skeleton:
    """What the text after the @ of a space of cells says: REPEATSxFILTERS, then options joined by commas.

    Attributes:
        imagenet_filters: the fewest filters that leave every map of the ImageNet form a channel.
    """

    family: str
    repeats: int
    filters: int
    options: Mapping[str, str]
    imagenet_filters: int

    @property
    def imagenet_form(self) -> bool | None:
        if "imagenet" in self.options:
            return True
        return False if "cifar" in self.options else None

    def check_imagenet_form(self) -> None:
        """Raise InputError where the ImageNet form would have maps without channels."""
        if self.filters < self.imagenet_filters:
            raise InputError(
                f"the ImageNet form of {self.family} needs at least {self.imagenet_filters} filters, "
                f"got {self.filters}",
                hint="more filters, or the CIFAR form (the option cifar in the name of the space)",
            )


NUMBER = "[1-9][0-9]{0,4}"
FORMS = {"imagenet": "", "cifar": ""}


def parse_skeleton(
    family: str, text: str, default: str, options: Mapping[str, str], example: str, *, imagenet_filters: int
) -> Skeleton:
    """Read a skeleton's text.

    Args:
        default: what an empty text stands for.
        options: the words that may follow, each with the pattern of what follows the word itself.
        imagenet_filters: as in `Skeleton`.
    Raises:
        InputError: if the text is malformed, an option is unknown or said twice, or the filters are too few for the
            ImageNet form that it asks for.
    """
    first, *rest = (text or default).split(",")
    size = re.fullmatch(f"([1-9][0-9]?)x({NUMBER})", first)
    found: dict[str, str] = {}
    for part in rest:
        for word, pattern in options.items():
            match = re.fullmatch(f"{word}({pattern})", part)
            if match and word not in found:
                found[word] = match.group(1)
                break
        else:
            size = None
    if size is None or {"imagenet", "cifar"} <= found.keys():
        raise InputError(
            f"a skeleton of {family} is REPEATSxFILTERS (to 99 and 99999), then any of the options "
            f"{', '.join(options)}, each once, joined by commas; got {text!r}",
            hint=f"for example {example}",
        )
    skeleton = Skeleton(family, int(size.group(1)), int(size.group(2)), found, imagenet_filters)
    if skeleton.imagenet_form:
        skeleton.check_imagenet_form()
    return skeleton
