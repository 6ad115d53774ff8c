"""JSON files that carry a digest of what they say: one that was cut, edited or mixed up is not taken for whole.

It is part of a kit's `measure.py`, so it needs nothing of this project, and writes by itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, however their JSON is spaced and ordered."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(values: Mapping[str, Any]) -> str:
    """The text of a file that says these values and their digest, in the place of an earlier one."""
    rest = unsealed(values)
    return json.dumps({**rest, "digest": digest(rest)}, indent=1) + "\n"


def unsealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is sealed by their digest."""
    return {key: value for key, value in values.items() if key != "digest"}


def is_whole(values: Mapping[str, Any]) -> bool:
    """Whether the values of a file are those that were sealed."""
    return values.get("digest") == digest(unsealed(values))


def write_sealed(out: Path, values: Mapping[str, Any]) -> None:
    """As `sealed`, and under its name only when it is whole."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.write_text(sealed(values), encoding="utf-8")
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What `write_sealed` wrote, or None where that is not what the file holds."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and is_whole(values) else None
