"""The text that names the skeleton of a space of cells: everything of a network but its genes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import InputError


@dataclass(frozen=True)
class Skeleton:
    """What the text after the @ of a space of cells says: REPEATSxFILTERS, then options joined by commas."""

    repeats: int
    filters: int
    options: Mapping[str, str]

    @property
    def imagenet_form(self) -> bool | None:
        if "imagenet" in self.options:
            return True
        return False if "cifar" in self.options else None


NUMBER = "[1-9][0-9]{0,4}"
FORMS = {"imagenet": "", "cifar": ""}


def parse_skeleton(family: str, text: str, default: str, options: Mapping[str, str], example: str) -> Skeleton:
    """Read a skeleton's text.

    Args:
        default: what an empty text stands for.
        options: the words that may follow, each with the pattern of what follows the word itself.
    Raises:
        InputError: if the text is malformed, an option is unknown, or one is said twice.
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
    return Skeleton(int(size.group(1)), int(size.group(2)), found)
