"""How the networks of a run get the latency that decides: measured here, or estimated for another device.

A run is for another device where `--device-table` gave the table of one. Nothing is measured here then: what was
estimated stands as `latency_ms_estimated`, and `latency_ms` is None.
"""

from __future__ import annotations

import json
import math
import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from latency import (
    Device,
    LatencyModel,
    Timing,
    build_onnx,
    calibration_of,
    fit_latency_model,
    measure,
    measure_plan,
    plan_latency_model,
    read_latency_model,
)
from latency.device import PROTOCOL
from latency.drift import drift_remark, measured_anew
from latency.files import read_json
from latency.kit_main import MAIN_FILE, MODELS_RESULT, RESULT, begun_name
from latency.model import VERSION
from latency.modelling import check_estimates
from latency.reference import (
    measuring_alone,
    reference_file,
    reference_interval,
    reference_model,
    stored_reference_ms,
    stored_references,
    task_key,
)
from latency.runtime import vague_remark
from latency.seal import is_whole, sealed
from spaces import Arch, InputError, SearchSpace, Task

from .config import RunConfig
from .run_folder import RunFolder

FROM_KIT, FROM_HERE = "kit", "here"
CANDIDATE_PROCESSES = 6
SAME_STATE = 0.03  # logarithm, between reference latencies of one device: slopes found, to -0.67, make 2 % of it


@dataclass(frozen=True)
class Latency:
    """What is known of one network, and how a record says it.

    Attributes:
        interval: 95 %; its worse end decides about limits.
    """

    ms: float
    interval: tuple[float, float]
    record: Mapping[str, Any]


class Latencies(ABC):
    """Gives the networks of one run their latency."""

    @abstractmethod
    def of_archs(self, archs: Sequence[Arch], rng: np.random.Generator) -> list[Latency]:
        """Before training."""

    @abstractmethod
    def of_file(self, path: Path, arch: Arch) -> Latency:
        """Of the file that is handed over."""

    @abstractmethod
    def remark(self, record: Mapping[str, Any]) -> str:
        """What a person should know about the latency of a file, or nothing."""

    @abstractmethod
    def to_measure(self) -> dict[str, str] | None:
        """The device that is still to measure what was found, and by which command; None if it was measured."""


@dataclass(frozen=True)
class MeasuredHere(Latencies):
    """Everything is measured on this device.

    Attributes:
        reference_ms: that all numbers of the run are times of; None: what is stored for this device.
        given: what the table says that the run was given, whose reference that is; None: the run measured its own.
    """

    space: SearchSpace
    task: Task
    reference_ms: float | None
    given: Mapping[str, Any] | None = None

    def of_archs(self, archs: Sequence[Arch], rng: np.random.Generator) -> list[Latency]:
        assert self.reference_ms is not None
        timings = measure_archs(self.space, archs, self.task, self.reference_ms, rng)
        before = "the network with random weights, before training"
        return [self._of(timing, before, Device.here()) for timing in timings]

    def of_file(self, path: Path, arch: Arch) -> Latency:
        from .deploy import measure_file

        timing, device = measure_file(path, self.task, self.reference_ms)
        known = self._of(timing, "model.onnx, in processes of its own", device)
        if self.reference_ms is not None:
            return known
        # What the run estimated is of another device than the one that the record names now.
        estimates = dict.fromkeys(("latency_ms_estimated", "latency_ms_estimated_interval"))
        return replace(known, record={**known.record, **estimates})

    def remark(self, record: Mapping[str, Any]) -> str:
        stored_in = reference_file(Device.here().fingerprint)
        if self.reference_ms is None:
            anew = measured_anew(stored_in)
        elif self.given is None:
            anew = f"remove {stored_in}, and begin a new run"
        else:
            anew = f"{_table_anew(self.given)}, for a new run"
        return "; ".join(_reference_remarks(record, helps=anew))

    def to_measure(self) -> None:
        return None

    def _of(self, timing: Timing, of: str, device: Device) -> Latency:
        interval = reference_interval(self.task, device, timing.reference_ms)
        record = {**timing.record(), "reference_ms_interval": interval, "latency_of": of, **_named(device)}
        return Latency(timing.latency_ms, timing.latency_ms_interval, record)


@dataclass(frozen=True)
class EstimatedElsewhere(Latencies):
    """Nothing is measured: the run is for another device, of which this is the model.

    Attributes:
        reference_ms_interval: 95 %, of the reference latency that the model's milliseconds are times of, where known.
    """

    space: SearchSpace
    model: LatencyModel
    reference_ms_interval: tuple[float, float] | None

    def of_archs(self, archs: Sequence[Arch], rng: np.random.Generator) -> list[Latency]:
        return [self._of(arch) for arch in archs]

    def of_file(self, path: Path, arch: Arch) -> Latency:
        known = self._of(arch)
        of_reference = {
            "reference_ms": self.model.reference_ms,
            "reference_ms_interval": self.reference_ms_interval,
            "reference_now_ms": None,
        }
        return Latency(known.ms, known.interval, {**known.record, **of_reference})

    def remark(self, record: Mapping[str, Any]) -> str:
        estimated = (
            f"latencies are estimates of the table of {self.model.device}: copy model.onnx to the kit there, "
            f"and measure it by `{self.to_measure()['command']}`"
        )
        more = {"origin": FROM_KIT, "reference_ms_interval": self.reference_ms_interval}
        known = {**self.model.common_fields(), **more}
        return "; ".join([estimated, *table_remarks(known)])

    def to_measure(self) -> dict[str, str]:
        threads = self.model.device.threads
        of_threads = f"--threads {threads} " if threads > 1 else ""  # fewer are another device
        return {"device": str(self.model.device), "command": f"python {MAIN_FILE} {of_threads}--models model.onnx"}

    def _of(self, arch: Arch) -> Latency:
        row = self.space.row(arch)[None]
        (low,), (high,) = self.model.interval_ms(row)
        ms, interval = float(self.model.estimate_ms(row)[0]), (float(low), float(high))
        record = {
            **dict.fromkeys(("latency_ms", "latency_ms_interval", "latency_warm_ms")),
            **dict.fromkeys(("latency_wall_p50_ms", "latency_wall_p90_ms", "latency_steady")),
            "latency_ms_estimated": ms,
            "latency_ms_estimated_interval": list(interval),
            "latency_of": "the latency table of the device, not measured",
            **_named(self.model.device),
        }
        return Latency(ms, interval, record)


def _named(device: Device) -> dict[str, str]:
    """How a record says what its latency is of: for people, and to be compared."""
    return {"device": str(device), "device_fingerprint": device.fingerprint}


def known_ms(model: Mapping[str, Any]) -> float:
    """The latency of a record that decides: measured, or estimated where the run is for another device."""
    return float(model["latency_ms"] if is_measured(model) else model["latency_ms_estimated"])


def known_interval(model: Mapping[str, Any]) -> tuple[float, float]:
    """Its 95 % interval."""
    low, high = model["latency_ms_interval"] if is_measured(model) else model["latency_ms_estimated_interval"]
    return float(low), float(high)


def is_measured(model: Mapping[str, Any]) -> bool:
    return model["latency_ms"] is not None


def measure_archs(
    space: SearchSpace, archs: Sequence[Arch], task: Task, reference_ms: float, rng: np.random.Generator
) -> list[Timing]:
    """Measure networks with random weights: as files are, but in six processes each, and once in each."""
    models = [build_onnx(space.layers(arch, task), rng, normalise=True) for arch in archs]
    with measuring_alone():
        n = CANDIDATE_PROCESSES
        return measure(models, reference_model(task), reference_ms, rng=rng, processes=n, most_processes=n, visits=1)


def measure_model(
    space: SearchSpace, task: Task, device: Device, *, seed: int, budget_s: float | None = None
) -> LatencyModel:
    """The latency model of this device, measured in processes of their own, as files are at the end."""
    rng = np.random.default_rng([seed, 1, 1])  # its own: the reference draws only where none is stored
    plan = plan_latency_model(space, task, calibration_of(space, task, rng))
    with measuring_alone():
        reference_ms = stored_reference_ms(task, device, np.random.default_rng([seed, 1, 7]))
        times = measure_plan(plan, reference_model(task), reference_ms, rng, budget_s=budget_s)
    return fit_latency_model(space, plan, device, reference_ms, times)


def table_text(model: LatencyModel, origin: str, reference_interval: Sequence[float] | None) -> str:
    """What the file of a latency model says.

    Args:
        origin: `FROM_HERE` or `FROM_KIT`.
        reference_interval: 95 %, of its `reference_ms`, where known.
    Raises:
        InputError: if not all its numbers are finite.
    """
    values = {**json.loads(model.to_json()), "origin": origin, "reference_ms_interval": reference_interval}
    try:
        return sealed(json.loads(json.dumps(values, allow_nan=False)))
    except ValueError:
        raise InputError("what was measured gives no latency model: not all its numbers are finite") from None


def table_remarks(stored: Mapping[str, Any]) -> list[str]:
    """What a person should know of the reference latency of a table, of which its file says so much."""
    ran = "while the table was measured, its device ran"
    return _reference_remarks(stored, ran=ran, helps=_table_anew(stored))


def _reference_remarks(stored: Mapping[str, Any], *, helps: str, ran: str = "this machine now runs") -> list[str]:
    """What a person should know of the reference latency that a record or table says it has."""
    known_ms, interval = stored["reference_ms"], stored.get("reference_ms_interval")  # earlier versions do not say it
    vague = vague_remark(known_ms, interval, helps=helps)
    drifted = drift_remark(known_ms, stored["reference_now_ms"], ran=ran, helps=helps)
    return [remark for remark in (vague, drifted) if remark]


def _table_anew(stored: Mapping[str, Any]) -> str:
    """What helps where the reference latency of a table is not what it should be."""
    device = Device(**stored["device"])
    here = device == Device.here(threads=device.threads, provider=device.provider)
    kept = reference_file(device.fingerprint)
    if stored.get("origin") != FROM_KIT:
        place = kept if here else f"devices/{kept.name} in $HWNAS_HOME there"
        return f"remove {place}, and measure the table anew"
    begun = f"{begun_name(device.fingerprint)} beside its {MAIN_FILE}"
    # Where a reference is stored, a kit's own is not taken.
    return f"remove {f'{begun} and {kept}' if here else begun}, and measure again by the kit"


def latencies_of(config: RunConfig, run: RunFolder, space: SearchSpace, task: Task) -> Latencies:
    """How a run gets its latencies, by what is stored with it."""
    table, measured_here = read_any_table(run.table), is_measured_here(run)
    if not measured_here and table.get("origin") == FROM_KIT:
        interval = table.get("reference_ms_interval")
        return EstimatedElsewhere(space, open_model(config, run, space, task), interval and tuple(interval))
    given = None if config.device_table is None else table
    return MeasuredHere(space, task, float(table["reference_ms"]) if measured_here else None, given)


def is_measured_here(run: RunFolder) -> bool:
    """Whether the latencies of a run are of this device, by today's protocol."""
    return _is_of(read_any_table(run.table), Device.here())


def open_model(config: RunConfig, run: RunFolder, space: SearchSpace, task: Task) -> LatencyModel:
    """The latency model that is stored with a run.

    Raises:
        InputError: if it is of another device, which only a kit's may be, or of another protocol or version.
    """
    from .report import rerun_command  # which needs this module

    anew = "begin a new run: " + rerun_command(config).replace(" \\\n    ", " ")
    stored = read_any_table(run.table, hint=anew)
    check_not_mixed(run, f"go on there, or {anew}")
    return _opened(run.table, run.table.read_text(), space, task, Device(**stored["device"]), hint=anew)


def _opened(path: Path, text: str, space: SearchSpace, task: Task, device: Device, *, hint: str) -> LatencyModel:
    try:
        model = read_latency_model(text, space=space, task=task, device=device)
        check_estimates(model, space)
    except ValueError as error:
        raise InputError(f"{path}: {error}", hint=hint) from None
    return model


def check_not_mixed(run: RunFolder, hint: str) -> None:
    """Make sure that what is measured now may stand among what a run has.

    Raises:
        InputError: if the latencies of the run are of another device, which only a kit's may be, or another protocol,
            or its table is damaged.
    """
    stored, here = read_any_table(run.table), Device.here()
    if not _is_of(stored, here) and (stored.get("origin") != FROM_KIT or _protocol(stored) != PROTOCOL):
        was = f"on {Device(**stored['device'])}" if _protocol(stored) == PROTOCOL else "by another version of hwnas"
        raise InputError(
            f"the latencies of {run.path} were measured {was}, and cannot be mixed with those of {here}", hint=hint
        )


def _protocol(stored: Mapping[str, Any]) -> int:
    return _made_by(stored)[0]


def _made_by(stored: Mapping[str, Any]) -> tuple[int, int]:
    """Protocol and version of a table; the earliest say neither.

    Raises:
        ValueError: if one is no whole number.
    """
    protocol, version = stored.get("protocol", 1), stored.get("version", 1)
    if type(protocol) is not int or type(version) is not int:
        raise ValueError(f"protocol and version must be whole numbers, got {protocol!r} and {version!r}")
    return protocol, version


def _is_of(stored: Mapping[str, Any], device: Device) -> bool:
    """Whether latencies beside a table are of this device, by today's protocol."""
    return _protocol(stored) == PROTOCOL and Device(**stored["device"]) == device


def read_device_table(path: Path, space: SearchSpace, task: Task, *, named: str | None = None) -> str:
    """The text of a latency model that `--device-table` may give for this space and task.

    One of this device is given in times of the reference latency that is stored now, as all else is that is measured
    from now on; it may have been measured before that was stored anew, if that changed it little.

    Args:
        named: how the space is given to commands, where that is not its name but a file.
    Raises:
        InputError: if it is damaged, of another space or task, was measured by this command on another device, or when
            the stored reference latency was another one by more than 3 %.
    """
    stored = read_stored_table(path)
    origin = stored.get("origin", FROM_HERE)
    device, its_task = Device(**stored["device"]), Task(**stored["task"])
    if (stored["space"], its_task) != (space.name, task):
        raise InputError(
            f"{path} must be of {space.name} and {_said(task)}, but it is of {stored['space']} and {_said(its_task)}",
            hint=f"make the right one: {remake_command(None, origin, named or space.name, task)}",
        )
    if origin == FROM_HERE and device != Device.here():
        place = _replaceable(path, stored)
        raise InputError(
            f"{path} was measured on {device}, and this is {Device.here()}",
            hint=f"make a new one: {remake_command(place, origin, named or space.name, task)}; "
            f"or by a kit for another device: {remake_command(None, FROM_KIT, named or space.name, task)}",
        )
    text, anew = path.read_text(), f"make a new one: {remake_command(path, origin, named or space.name, task)}"
    model = _opened(path, text, space, task, device, hint=anew)
    known = stored_references(device).get(task_key(task)) if device == Device.here() else None
    if known is None or known.ms == model.reference_ms:
        return text
    if abs(math.log(known.ms / model.reference_ms)) > SAME_STATE:
        raise InputError(
            f"{path} was measured when the reference latency of this device was {model.reference_ms:.4g} ms, and now "
            f"{known.ms:.4g} ms are stored: at another speed of the machine its networks keep another ratio to it",
            hint=anew,
        )
    return table_text(model.with_reference(known.ms), origin, known.interval)


def read_stored_table(path: Path) -> dict[str, Any]:
    """What the file of a latency model says, of whatever device, space and task.

    Raises:
        InputError: if it is damaged, or of another protocol or version.
    """
    stored = read_any_table(path)
    protocol, version = _made_by(stored)
    if (protocol, version) != (PROTOCOL, VERSION):
        made = (stored.get("origin", FROM_HERE), stored["space"], Task(**stored["task"]))
        raise InputError(
            f"{path} must be measured by protocol {PROTOCOL}, version {VERSION}, but was by {protocol}, version "
            f"{version}, of another hwnas",
            hint=f"make a new one: {remake_command(_replaceable(path, stored), *made)}",
        )
    return stored


def read_any_table(path: Path, *, hint: str = "see hwnas device measure and hwnas device import") -> dict[str, Any]:
    """`read_stored_table`, of whatever protocol and version.

    Args:
        hint: what helps where it is damaged.
    Raises:
        InputError: if it is no table, or one of today's protocol and version that is not as it was written.
    """
    stored = read_json(path)
    written = stored.get("format")
    if written in (RESULT, MODELS_RESULT):
        of, other = {
            RESULT: (", not yet a latency table", f"hwnas device import {path} --out FILE"),
            MODELS_RESULT: (" of ONNX files, and no latency table", f"import what {MAIN_FILE} writes without --models"),
        }[written]
        raise InputError(f"{path} is what {MAIN_FILE} wrote{of}", hint=other)
    try:
        made_by = _made_by(stored)
        if made_by == (PROTOCOL, VERSION):
            if not is_whole(stored):
                raise ValueError("it was edited or cut")
        else:  # of one by an earlier hwnas only this is used
            stored["device"]["cpu"], shlex.quote(stored["space"]), Task(**stored["task"])
            if made_by[0] == PROTOCOL:
                Device(**stored["device"])
                if not 0 < stored["reference_ms"] < math.inf:
                    raise ValueError("its reference latency must be above 0 ms")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path} must be a latency table, but is damaged or something else: {why}", hint=hint
        ) from None
    return stored


def _replaceable(path: Path, stored: Mapping[str, Any]) -> Path | None:
    """The place of a table, where one that is measured here may take it: not where it is of another processor."""
    return path if stored["device"]["cpu"] == Device.here().cpu else None


def remake_command(path: Path | None, origin: str, space: str, task: Task) -> str:
    """What writes such a table anew, in the place of the one at `path` where that is of the same."""
    asked = f"--space {shlex.quote(space)} --resolution {task.resolution} --classes {task.classes}"
    asked += f" --channels {task.channels}"
    if origin == FROM_KIT:
        return f"hwnas device kit OUT {asked}"
    return f"hwnas device measure {asked}" + ("" if path is None else f" --out {shlex.quote(str(path))}")


def _said(task: Task) -> str:
    return f"{task.resolution} px, {task.channels} channel(s), {task.classes} classes"
