"""The commands of `hwnas device`: what this device is, its latency models, and those of other devices."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime

from latency import Device, LatencyModel
from latency.device import last_level_cache_bytes
from latency.drift import measured_anew
from latency.files import write_atomically
from latency.kit import import_result, read_result, write_kit
from latency.kit_main import MAIN_FILE
from latency.model import stated_error
from latency.reference import home, reference_file, reference_interval, stored_references
from latency.runtime import vague_remark
from spaces import InputError, Task, get_space
from spaces.own_file import SpaceFile

from .latencies import (
    FROM_HERE,
    FROM_KIT,
    measure_model,
    read_any_table,
    read_stored_table,
    table_remarks,
    table_text,
)


def show_here() -> dict[str, Any]:
    """This device, and what is stored about it."""
    device = Device.here()
    stored = stored_references(device)
    helps = measured_anew(reference_file(device.fingerprint))
    vague = {task: vague_remark(known.ms, known.interval, helps=helps) for task, known in stored.items()}
    return {
        "device": _described(device),
        "last_level_cache_bytes": last_level_cache_bytes(),
        "providers": onnxruntime.get_available_providers(),
        "reference_ms": {task: known.ms for task, known in stored.items()},
        "reference_ms_interval": {task: list(known.interval) for task, known in stored.items()},
        "tables": sorted(map(str, (home() / "tables").glob(f"*-{device.fingerprint}.json"))),
        "home": str(home()),
        "remarks": [f"{task}: {remark}" for task, remark in vague.items() if remark],
    }


def show_file(path: Path) -> dict[str, Any]:
    """What a latency model's file says.

    Raises:
        InputError: if it is none, or damaged.
    """
    stored = read_stored_table(path)
    device = Device(**stored["device"])
    measured = [pair[0] for pair in stored["calibration"]]
    return {
        "file": str(path),
        "device": _described(device),
        "of_this_device": device == Device.here(),
        "origin": stored["origin"],
        "kind": stored["kind"],
        "space": stored["space"],
        "task": stored["task"],
        "stated_error": stated_error(stored),
        "reference_ms": stored["reference_ms"],
        "reference_ms_interval": stored["reference_ms_interval"],
        "reference_now_ms": stored["reference_now_ms"],
        "calibration": stored["calibration"],
        "range_ms": [min(measured), max(measured)],
        "remarks": table_remarks(stored),
    }


def measure_device(
    space: str,
    task: Task,
    *,
    seed: int,
    budget_s: float | None = None,
    out: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure a latency model of this device, and write it to a file.

    Args:
        out: by default a file under $HWNAS_HOME/tables, named for space, task and device.
        say: tells a person what takes so long.
    Raises:
        InputError: if `out` cannot be written, or is something else than a latency model of this space, task and
            processor, or one that a kit measured.
    """
    started = time.monotonic()
    if seed < 0:
        raise InputError(f"--seed must be 0 or more, got {seed}")
    opened, device = get_space(space, task), Device.here()
    if out is None:
        name = f"{opened.name}-{task.resolution}px-{task.channels}-{task.classes}-{device.fingerprint}"
        out = home() / "tables" / f"{re.sub(r'[^A-Za-z0-9@.,_-]', '_', name)}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
    of = (FROM_HERE, device.cpu, device.threads, device.provider, opened.name, asdict(task))
    _check_out(out, lambda stored: _what_it_is_of(stored) == of)
    say(f"measuring {opened.name} on {device}, which takes a minute or two")
    model = measure_model(opened, task, device, seed=seed, budget_s=budget_s)
    made = _write(out, model, FROM_HERE, reference_interval(task, device, model.reference_ms))
    return {**made, "budget_s": budget_s, "seconds": time.monotonic() - started}


def make_kit(out: Path, space: str, task: Task, *, seed: int) -> dict[str, Any]:
    """Write the folder of a kit.

    Raises:
        InputError: if `out` exists and is not empty, or the space is none.
    """
    if seed < 0:
        raise InputError(f"--seed must be 0 or more, got {seed}")
    own = SpaceFile.read(space) if SpaceFile.is_meant_by(space) else None
    kit = write_kit(out, get_space(space, task), task, seed=seed, own=own)
    return {
        "folder": str(out),
        "space": kit["space"],
        "task": kit["task"],
        "networks": sum(map(len, kit["groups"])),
        "bytes": sum(file.stat().st_size for file in out.iterdir()),
        "next": f"copy {out} to the device, and run `python {MAIN_FILE}` in it",
    }


def import_kit(result: Path, out: Path, *, kit: Path | None = None, space: str | None = None) -> dict[str, Any]:
    """Make the latency model of the device that a kit was run on.

    Raises:
        InputError: if the result is not what the kit wrote there, or `out` is something else than a latency model that
            a kit gave for the same processor, threads, space and task.
    """
    read = read_result(result, kit)
    of = (
        FROM_KIT,
        read.device.cpu,
        read.device.threads,
        read.device.provider,
        read.kit.space,
        read.kit.task.model_dump(),
    )
    _check_out(out, lambda stored: _what_it_is_of(stored) == of)
    model = import_result(read, space=space)
    same = model.reference_ms == read.reference_ms  # on this very device the stored one holds
    interval = read.reference_ms_interval if same else reference_interval(model.task, model.device, model.reference_ms)
    written = _write(out, model, FROM_KIT, interval)
    return written if same else {**written, "kit_reference_ms": read.reference_ms}


def _what_it_is_of(stored: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a newer table of the same must share; versions may have changed."""
    device = stored["device"]
    of = (device["cpu"], device.get("threads"), device.get("provider"), stored["space"], stored["task"])
    return (stored.get("origin", FROM_HERE), *of)


def _check_out(out: Path, may_be_replaced: Callable[[Mapping[str, Any]], bool]) -> None:
    """A latency model may be replaced by a newer one; nothing else may. It is written when minutes were spent on it."""
    if not out.parent.is_dir():
        raise InputError(f"{out.parent} must be a folder, and there is none", hint="make it, or give another --out")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(
            f"the folder {out.parent} must be writable: {error.strerror}", hint="give another --out"
        ) from None
    if out.exists():
        try:
            stored = read_any_table(out)
        except InputError:
            raise InputError(
                f"{out} exists and is no latency table, or no whole one", hint="give another --out, or remove it"
            ) from None
        if not may_be_replaced(stored):
            by = "a kit" if stored.get("origin") == FROM_KIT else "hwnas"
            raise InputError(
                f"{out} exists and is another table: of {stored['space']}, {stored['task']['resolution']} px, "
                f"by {by} on {stored['device']['cpu']}, {stored['device'].get('threads')} thread(s)",
                hint="give another --out, or remove that one",
            )


def _write(out: Path, model: LatencyModel, origin: str, reference_interval: Sequence[float] | None) -> dict[str, Any]:
    write_atomically(out, table_text(model, origin, reference_interval).encode())
    return show_file(out)


def _described(device: Device) -> dict[str, Any]:
    return {**asdict(device), "fingerprint": device.fingerprint}


def print_here(outcome: Mapping[str, Any]) -> None:
    """For people."""
    _print_device(outcome["device"])
    cache, flushed = outcome["last_level_cache_bytes"], outcome["device"]["flush_bytes"]
    if cache is not None and cache > flushed:
        print(f"cache          of {cache // 2**20} MiB, more than is written between runs: where no other machine")
        print("               shares it, part of a network may still be there when it runs again")
    print(f"providers      {', '.join(outcome['providers'])} (for hwnas profile; tables are of the CPU)")
    print(f"stored in      {outcome['home']}")
    for task, ms in outcome["reference_ms"].items():
        low, high = outcome["reference_ms_interval"][task]
        print(f"reference      {ms:.4g} ms (95 %: {low:.4g} to {high:.4g}) for {task}")
    for table in outcome["tables"]:
        print(f"table          {table}")
    for remark in outcome["remarks"]:
        print(f"remark         {remark}")


def print_file(outcome: Mapping[str, Any]) -> None:
    """For people."""
    task, (low, high) = outcome["task"], outcome["range_ms"]
    print(f"file           {outcome['file']}")
    _print_device(outcome["device"])
    by = "a kit" if outcome["origin"] == FROM_KIT else "hwnas"
    print(f"measured by    {by}, on {'this device' if outcome['of_this_device'] else 'another device than this one'}")
    print(f"space          {outcome['space']} ({'block table' if outcome['kind'] == 'table' else 'learned model'})")
    print(f"task           {task['resolution']} px, {task['channels']} channel(s), {task['classes']} classes")
    print(f"error          {outcome['stated_error']:.1%} (95 %, from {len(outcome['calibration'])} whole networks)")
    print(f"measured       {low:.4g} to {high:.4g} ms; the reference {outcome['reference_ms']:.4g} ms")
    if "kit_reference_ms" in outcome:
        print(f"               which this device had; the kit found {outcome['kit_reference_ms']:.4g} ms for it")
    for remark in outcome["remarks"]:
        print(f"remark         {remark}")


def print_measured(outcome: Mapping[str, Any]) -> None:
    """For people: a file that was just measured."""
    print_file(outcome)
    budget_s, seconds = outcome["budget_s"], outcome["seconds"]
    over = budget_s is not None and seconds > budget_s
    print(f"took           {seconds:.0f} s" + (f", {seconds - budget_s:.0f} s more than the budget" if over else ""))
    if over:
        print("               (two visits of every network are the least, and a new device's reference comes first)")


def _print_device(device: Mapping[str, Any]) -> None:
    print(f"device         {device['cpu']}, {device['cores']} cores, {device['threads']} thread(s) used")
    print(f"flushed by     {device['flush_bytes'] // 2**20} MiB between runs")
    print(f"runtime        ONNX Runtime {device['onnxruntime']}, {device['provider']}, {device['system']}")
    print(f"fingerprint    {device['fingerprint']}")
