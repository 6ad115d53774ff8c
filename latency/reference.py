"""The reference network of a task, and its own latency, which is stored with the device."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from spaces import InputError, Network, Task
from spaces.proxyless import ProxylessSpace

from .device import Device
from .files import write_atomically
from .onnx_graph import build_onnx
from .rounds import Setting
from .runtime import ReferenceTime, measure_reference

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)
WEIGHT_SEED = 0  # latency does not depend on the weights, so one fixed file serves everywhere


def reference_network(task: Task) -> Network:
    """The fixed network beside which every network of a task is timed: a chain at half width, all blocks alike."""
    space = ProxylessSpace("w0.5")
    return space.layers(space.arch([0] * len(space.choices)), task)


def reference_model(task: Task) -> bytes:
    """The ONNX model of the reference network."""
    return build_onnx(reference_network(task), np.random.default_rng(WEIGHT_SEED), normalise=True)


def stored_reference_ms(task: Task, device: Device, rng: np.random.Generator) -> float:
    """The latency stored for this device and task, measured and stored the first time it is asked for.

    Raises:
        InputError: if the file that stores it is damaged.
    """
    known = stored_references(device).get(task_key(task))
    if known is not None:
        return known.ms
    setting = Setting(device.threads, device.provider)
    return keep_reference(task, device, measure_reference(reference_model(task), rng, setting=setting))


def reference_interval(task: Task, device: Device, reference_ms: float) -> tuple[float, float] | None:
    """The 95 % interval of a stored reference latency; None where another value is stored, or none."""
    known = stored_references(device).get(task_key(task))
    return None if known is None or known.ms != reference_ms else known.interval


def keep_reference(task: Task, device: Device, measured: ReferenceTime) -> float:
    """Store what was measured, unless another is stored already: a device has one value for all its latencies.

    Returns:
        What is stored then, in ms.
    """
    path = reference_file(device.fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        known = {task_key(task): measured, **stored_references(device)}
        record = {
            "device": asdict(device),
            "reference_ms": {key: each.ms for key, each in known.items()},
            "reference_ms_interval": {key: each.interval for key, each in known.items()},
        }
        write_atomically(path, json.dumps(record, indent=1, allow_nan=False).encode())
    return known[task_key(task)].ms


@contextmanager
def measuring_alone() -> Iterator[None]:
    """Wait until no other command measures for the same $HWNAS_HOME; the system frees what a killed one held."""
    home().mkdir(parents=True, exist_ok=True)
    with (home() / ".measuring.lock").open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("hwnas: another command measures on this machine, waiting until it has done")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process changes the file: of two that measured at once, each must see what the other kept."""
    with path.with_name(f".{path.name}.lock").open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def stored_references(device: Device) -> dict[str, ReferenceTime]:
    """All that is stored of a device, by task.

    Raises:
        InputError: if the file that stores it is damaged.
    """
    path = reference_file(device.fingerprint)
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text())
        intervals = {key: (float(low), float(high)) for key, (low, high) in stored["reference_ms_interval"].items()}
        return {key: ReferenceTime(float(ms), intervals[key]) for key, ms in stored["reference_ms"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} must hold what was measured of this device, but is damaged: {error}",
            hint="remove it; it is measured again then",
        ) from None


def reference_file(fingerprint: str) -> Path:
    """Where the reference latencies of the device of this fingerprint are stored."""
    return home() / "devices" / f"{fingerprint}.json"


def task_key(task: Task) -> str:
    """The task's name in the files of devices."""
    return "x".join(map(str, task.input_shape)) + f"-{task.classes}"


def home() -> Path:
    """Where measurements of this machine are kept: $HWNAS_HOME, or hwnas in the user's cache folder.

    A variable that is empty counts as unset.
    """
    if own := os.environ.get("HWNAS_HOME"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwnas"
