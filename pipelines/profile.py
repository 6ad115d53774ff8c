"""All costs of networks on this device, counted and measured, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from latency import Device, Timing, build_onnx, count, measure
from latency.reference import reference_model, stored_reference_ms
from latency.rounds import open_session
from spaces import PUBLISHED, Arch, InputError, SearchSpace, Task, get_space, parse_arch

VISITS = 8
COUNTED_OR_SAID = {
    "resolution",
    "classes",
    "params",
    "flops",
    "source",
}  # of what is published, all but further figures


def profile(
    names: Sequence[str],
    *,
    seed: int,
    resolution: int | None = None,
    classes: int | None = None,
    channels: int | None = None,
    space: str | None = None,
) -> dict[str, Any]:
    """Count and measure networks side by side.

    Args:
        names: published names, architecture texts or paths of ONNX files (of which only latency and size are known).
        resolution, classes, channels: for the networks that are given by name or text. Left out, published networks
            come at the resolution and with the classes that they were published for, others at 224 px with 1000.
        space: a further space that texts may be of, a person's own.
    Raises:
        InputError: if a name is none of these, a file is no ONNX model with one float32 input of known size, or the
            seed is negative.
    """
    if seed < 0:
        raise InputError(f"--seed must be 0 or more, got {seed}")
    rng = np.random.default_rng(seed)
    device = Device.here()
    asked = Task(
        224 if resolution is None else resolution,
        1000 if classes is None else classes,
        3 if channels is None else channels,
    )
    nothing_asked = (resolution, classes, channels) == (None, None, None)
    own = None if space is None else get_space(space, asked)
    rows: list[dict[str, Any]] = []
    models: list[bytes | Path] = []
    tasks: list[Task] = []
    for name in names:
        if name.endswith(".onnx"):
            row, path = _of_file(Path(name))
            models.append(path)
            tasks.append(task_of_file(path) or asked)
        else:
            tasks.append(PUBLISHED[name].task if name in PUBLISHED and nothing_asked else asked)
            row, model = _of_arch(name, tasks[-1], rng, own)
            models.append(model)
        rows.append({**row, "task": asdict(tasks[-1])})
    for task in dict.fromkeys(tasks):  # networks of one task share the rounds with the reference network of that task
        places = [i for i, each in enumerate(tasks) if each == task]
        reference_ms = stored_reference_ms(task, device, rng)
        timings = measure([models[i] for i in places], reference_model(task), reference_ms, visits=VISITS, rng=rng)
        for i, timing in zip(places, timings, strict=True):
            rows[i].update(_timed(timing))
    return {"device": {**asdict(device), "fingerprint": device.fingerprint}, "networks": rows}


def _timed(timing: Timing) -> dict[str, Any]:
    return {
        "latency_ms": timing.latency_ms,
        "latency_ms_interval": timing.latency_ms_interval,
        "latency_warm_ms": timing.warm_ms,
        "latency_wall_p50_ms": timing.wall_p50_ms,
        "latency_wall_p90_ms": timing.wall_p90_ms,
        "rounds": timing.rounds,
        "reference_ms": timing.reference_ms,
        "reference_now_ms": timing.reference_now_ms,
    }


def task_of_file(path: Path) -> Task | None:
    """What an ONNX file is for, where its input is a square image and its output class scores; else None."""
    session = open_session(path)
    input_shape, output_shape = session.get_inputs()[0].shape, session.get_outputs()[0].shape
    if len(input_shape) != 4 or len(output_shape) != 2 or not isinstance(output_shape[1], int):
        return None
    channels, height, width = input_shape[1:]
    return Task(height, output_shape[1], channels) if height == width and output_shape[1] >= 2 else None


def _of_file(path: Path) -> tuple[dict[str, Any], Path]:
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # the checker, protobuf and the file system each have their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} must be an ONNX model: {reason}") from None
    _check_runs(path)
    return {"name": str(path), "arch": None, "model_bytes": path.stat().st_size}, path


def _check_runs(path: Path) -> None:
    """Only a network of one float32 input, its sizes known except for that of the batch, can be timed on one image."""
    try:
        session = open_session(path)
        inputs = session.get_inputs()
        came = ", ".join(f"{spec.name}: {spec.type} {spec.shape}" for spec in inputs)
        if len(inputs) == 1 and _is_image_batch(inputs[0].type, inputs[0].shape):
            shape = [size if isinstance(size, int) else 1 for size in inputs[0].shape]
            session.run(None, {inputs[0].name: np.zeros(shape, dtype=np.float32)})
            return
    except Exception as error:  # ONNX Runtime's errors have no common parent but this
        reason = " ".join(str(error).split())
        raise InputError(f"{path} must be a model that ONNX Runtime can run: {reason}") from None
    raise InputError(
        f"{path} must have one float32 input (batch, channels, height, width), all sizes known except the batch; "
        f"it has {came or 'none'}",
        hint="export it with fixed sizes, and with conversions from other types left out",
    )


def _is_image_batch(kind: str, shape: Sequence[int | str | None]) -> bool:
    return kind == "tensor(float)" and len(shape) > 0 and all(isinstance(size, int) for size in shape[1:])


def _of_arch(name: str, task: Task, rng: np.random.Generator, own: SearchSpace | None) -> tuple[dict[str, Any], bytes]:
    space, arch = _arch(name, own)
    network = space.layers(arch, task)
    counts = count(network)
    row = {"name": name, "arch": str(arch), **asdict(counts), "intensity": counts.intensity}
    if name in PUBLISHED:
        known = PUBLISHED[name]
        figures = {"params": known.params, "flops": known.flops, **known.figures}
        at = {"resolution": known.task.resolution, "classes": known.task.classes}
        row["published"] = {**at, **figures, "source": known.source}
    return row, build_onnx(network, rng, normalise=True)


def _arch(name: str, own: SearchSpace | None) -> tuple[SearchSpace, Arch]:
    if name in PUBLISHED:
        known = PUBLISHED[name]
        if known.arch is None:
            raise InputError(f"the genes of {name} were never published: {known.source}", hint="name another network")
        return get_space(known.arch.space), known.arch
    if ":" not in name:
        raise InputError(
            f"a network is a published name, SPACE:GENES or a file that ends in .onnx; got {name!r}",
            hint=f"published: {', '.join(sorted(name for name, known in PUBLISHED.items() if known.arch))}",
        )
    named = parse_arch(name).space
    space = own if own is not None and own.name == named else get_space(named)
    return space, space.parse(name)


def print_profile(outcome: dict[str, Any], console: Console) -> None:
    """The same as a table for people; flops are multiply-adds. What its source says stands below a network."""
    table = Table("network", "latency ms (95 %)", "warm ms", "flops", "params", "intensity", "peak MiB", box=None)
    for row in outcome["networks"]:
        low, high = row["latency_ms_interval"]
        table.add_row(
            Text(f"{row['name']}, {row['task']['resolution']} px"),
            f"{row['latency_ms']:.3g} ({low:.3g} to {high:.3g})",
            f"{row['latency_warm_ms']:.3g}",
            *_counted(row),
            f"{row['intensity']:.2f}" if "intensity" in row else "",
            f"{row['peak_memory_bytes'] / 2**20:.2f}" if "peak_memory_bytes" in row else "",
        )
        if "published" in row:
            known = row["published"]
            name = f"  published, {known['resolution']} px, {known['classes']} classes"
            table.add_row(name, "", "", *_counted(known), style="dim")
    console.print(table)
    for row in outcome["networks"]:
        if "published" in row:
            console.print(Text(_published(row), style="dim"), soft_wrap=True)
    device = outcome["device"]
    on = f"on {device['cpu']}, {device['threads']} thread(s), ONNX Runtime {device['onnxruntime']}"
    console.print(Text(on, style="dim"))


def _counted(row: dict[str, Any]) -> list[str]:
    return [f"{row[key]:,.0f}" if row.get(key) is not None else "" for key in ("flops", "params")]


def _published(row: dict[str, Any]) -> str:
    """Figures that are not counted here, such as the accuracy on ImageNet, and the source of all."""
    known = row["published"]
    figures = [f"{name} {value:g}, " for name, value in known.items() if name not in COUNTED_OR_SAID]
    return f"published for {row['name']}: {''.join(figures)}{known['source']}"
