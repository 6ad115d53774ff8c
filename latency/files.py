"""Files that are whole or not there, and JSON that is what this project wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spaces import InputError


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside the target and rename, so that a half-written file never carries the name."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(values, indent=1) + os.linesep).encode())


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: if the file holds none, or one that does not say anything under each of `keys`.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} must be JSON: {error}", hint="restore it, or have it written anew") from None
    if not isinstance(stored, dict):
        raise InputError(f"{path} must be a JSON object, but is {str(stored)[:40]!r}")
    for key in keys:
        if key not in stored:
            raise InputError(f"{path} must say {key!r}, but does not", hint="restore it, or start a new run")
    return stored
