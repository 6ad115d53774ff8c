"""How much memory a network needs while ONNX Runtime loads and runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from .rounds import DEFAULT_SETTING, Setting, run_once

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_resident_bytes(model: bytes | Path, setting: Setting = DEFAULT_SETTING) -> int | None:
    """The most memory that loading and running a network adds to this process, as the system counts it.

    To be called in a process where nothing was loaded before: memory that was freed would be used again unseen. Only
    Linux tells; elsewhere None.
    """
    if sys.platform != "linux":
        return None
    try:
        RESET.write_text("5")  # the highest mark starts again from what is held now
    except OSError:
        return None
    before = _resident_bytes("VmRSS")
    run_once(model, setting, np.random.default_rng(0))
    return max(_resident_bytes("VmHWM") - before, 0)


def _resident_bytes(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
