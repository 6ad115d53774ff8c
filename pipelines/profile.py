"""All costs of networks on this device, counted and measured, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hwnas.execution import WorkerPool
from latency import Device, build_onnx, count, measure
from latency.device import UNKNOWN, allowed_cores
from latency.drift import drift_remark, measured_anew, unsteady_reason
from latency.kit_main import KILLED, KitError, check_runs
from latency.memory import peak_resident_bytes
from latency.onnx_counts import count_file, file_bytes
from latency.reference import (
    measuring_alone,
    reference_file,
    reference_interval,
    reference_model,
    stored_reference_ms,
)
from latency.rounds import CPU_PROVIDER, Setting, in_new_process, open_session
from latency.runtime import vague_remark
from spaces import PUBLISHED, Arch, InputError, SearchSpace, Task, get_space, parse_arch

MOST_IMAGES = 4096  # of a batch
LATENCY_COLUMNS = ("latency ms (95 %)", "warm ms", "wall p50, p90 ms")
COLUMNS = ("network", *LATENCY_COLUMNS, "flops", "params", "intensity", "peak MiB", "model MiB")
WIDEST = 1000
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
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    provider: str = CPU_PROVIDER,
) -> dict[str, Any]:
    """Count and measure networks side by side.

    Args:
        names: published names, architecture texts or paths of ONNX files.
        resolution, classes, channels: for the networks that are given by name or text. Left out, published networks
            come at the resolution and with the classes that they were published for, others at 224 px with 1000.
        space: a further space that texts may be of, a person's own.
        threads, batches: of one inference; every network is measured with each of both. The first of each is that of
            a network's own `latency_ms`; all are among its `latencies`.
        provider: ONNX Runtime's name of what computes.
    Returns:
        The device, a row for each network, and what a person should know of the reference latency. What needs no
        measuring is for one image. `task` is None for files that are for other things than to classify square images,
        and `input` is what they read.
    Raises:
        InputError: if a name is none of these, a file is no ONNX model with one float32 input of known size, or an
            option is out of its range.
    """
    if seed < 0:
        raise InputError(f"--seed must be 0 or more, got {seed}")
    settings = _settings(threads, batches, provider)
    rng = np.random.default_rng(seed)
    asked = Task(
        224 if resolution is None else resolution,
        1000 if classes is None else classes,
        3 if channels is None else channels,
    )
    nothing_asked = (resolution, classes, channels) == (None, None, None)
    own = None if space is None else get_space(space, asked)
    rows: list[dict[str, Any]] = []
    models: list[bytes | Path] = []
    tasks: list[Task] = []  # whose reference network stands beside each
    for name in names:
        if name.endswith(".onnx"):
            row, path = _of_file(Path(name), batches)
            models.append(path)
            own_task = task_of_file(path)
            row["task"], task = None if own_task is None else asdict(own_task), own_task or asked
        else:
            task = PUBLISHED[name].task if name in PUBLISHED and nothing_asked else asked
            row, model = _of_arch(name, task, rng, own)
            _check_runs(model, name, batches, hint="give a smaller --batch or --resolution")
            models.append(model)
            row["task"] = asdict(task)
        rows.append(row)
        tasks.append(task)
    if not nothing_asked and all(row["arch"] is None and row["task"] is not None for row in rows):
        raise InputError(
            "--resolution, --classes and --channels are for networks that are given by name, and these are files, "
            "which say their own",
            hint="leave them out",
        )
    for row, each, task in zip(rows, models, tasks, strict=True):
        latencies = [_measured(each, task, setting, rng) for setting in settings]
        row.update(latencies[0], latencies=latencies, peak_resident_bytes=_peak_resident_bytes(each, settings[0]))
    device = Device.here(threads=settings[0].threads, provider=provider)
    remarks = reference_remarks(rows)
    return {"device": {**asdict(device), "fingerprint": device.fingerprint}, "networks": rows, "remarks": remarks}


def _settings(threads: Sequence[int], batches: Sequence[int], provider: str) -> list[Setting]:
    cores = len(allowed_cores())
    for each in threads:
        if not 1 <= each <= cores:
            raise InputError(f"--threads must be 1 to {cores}, the cores that it may run on; got {each}")
    for each in batches:
        if not 1 <= each <= MOST_IMAGES:
            raise InputError(f"--batch must be 1 to {MOST_IMAGES}, got {each}")
    known = onnxruntime.get_available_providers()
    if provider not in known:
        raise InputError(
            f"--provider must be one that this ONNX Runtime has ({', '.join(known)}), got {provider}",
            hint="other providers come with other builds, such as onnxruntime-gpu",
        )
    return [Setting(t, provider, b) for t in dict.fromkeys(threads) for b in dict.fromkeys(batches)]


def _measured(model: bytes | Path, task: Task, setting: Setting, rng: np.random.Generator) -> dict[str, Any]:
    device = Device.here(threads=setting.threads, provider=setting.provider)
    for_reference, rng = rng.spawn(2)  # whether it is stored changes nothing else
    with measuring_alone():
        reference_ms = stored_reference_ms(task, device, for_reference)
        (timing,) = measure([model], reference_model(task), reference_ms, rng=rng, setting=setting)
    said = {"threads": setting.threads, "batch": setting.batch, "device_fingerprint": device.fingerprint}
    interval = reference_interval(task, device, reference_ms)
    return {**said, **timing.record(), "reference_ms_interval": interval}


def _peak_resident_bytes(model: bytes | Path, setting: Setting) -> int | None:
    with WorkerPool(1) as pool:
        return pool.submit(peak_resident_bytes, model, setting).result()


def task_of_file(path: Path) -> Task | None:
    """What an ONNX file is for, where its input is a square image and its output class scores; else None."""
    session = open_session(path)
    input_shape, output_shape = session.get_inputs()[0].shape, session.get_outputs()[0].shape
    if len(input_shape) != 4 or len(output_shape) != 2 or not isinstance(output_shape[1], int):
        return None
    channels, height, width = input_shape[1:]
    return Task(height, output_shape[1], channels) if height == width and output_shape[1] >= 2 else None


def _of_file(path: Path, batches: Sequence[int]) -> tuple[dict[str, Any], Path]:
    if not path.is_file():
        raise InputError(f"{path} must be an ONNX file, but there is no such file")
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # the checker, protobuf and the file system each have their own
        reason = str(error).splitlines()[0].strip() if str(error) else type(error).__name__
        raise InputError(f"{path} must be an ONNX model: {reason}") from None
    how = "export it with fixed sizes but for the batch, and without conversions from other types"
    _check_runs(path, str(path), batches, hint=how)
    shape = open_session(path).get_inputs()[0].shape[1:]
    return {
        "name": str(path),
        "arch": None,
        "input": shape,
        "model_bytes": file_bytes(path),
        **_counts_of_file(path),
    }, path


def _check_runs(model: bytes | Path, name: str, batches: Sequence[int], *, hint: str) -> None:
    """Before anything is measured: a batch may be too large for the memory, or for what a file can do."""
    try:
        in_new_process(check_runs, model, name, batches)  # which it may not survive
    except KitError as error:
        raise InputError(str(error), hint=hint) from None
    except BrokenProcessPool:
        raise InputError(f"{name} cannot be run here: {KILLED}", hint=hint) from None


def _counts_of_file(path: Path) -> dict[str, Any]:
    """None each, with the reason, where sizes inside the file depend on what comes in: it can be timed all the same."""
    try:
        counts = count_file(path)
    except InputError as error:
        return {**dict.fromkeys(("flops", "params", "bytes", "weight_bytes", "intensity")), "not_counted": str(error)}
    return {**asdict(counts), "intensity": counts.intensity}


def _of_arch(name: str, task: Task, rng: np.random.Generator, own: SearchSpace | None) -> tuple[dict[str, Any], bytes]:
    space, arch = _arch(name, own)
    network = space.layers(arch, task)
    counts = count(network)
    model = build_onnx(network, rng, normalise=True, dynamic_batch=True)
    row = {"name": name, "arch": str(arch), "model_bytes": len(model), **asdict(counts), "intensity": counts.intensity}
    if name in PUBLISHED:
        known = PUBLISHED[name]
        figures = {"params": known.params, "flops": known.flops, **known.figures}
        at = {"resolution": known.task.resolution, "classes": known.task.classes}
        row["published"] = {**at, **figures, "source": known.source}
    return row, model


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
    lines: list[tuple[str, list[str], str]] = []
    for row in outcome["networks"]:
        more = ["" if row["intensity"] is None else f"{row['intensity']:.2f}"]
        more += map(_mebibytes, (row["peak_resident_bytes"], row["model_bytes"]))
        lines.append((f"{row['name']}, {_size(row)}", [*_latency_cells(row), *_counted(row), *more], ""))
        lines += [(f"  {_setting(each)}", _latency_cells(each), "") for each in row["latencies"][1:]]
        if "published" in row:
            known = row["published"]
            name = f"  published, {known['resolution']} px, {known['classes']} classes"
            lines.append((name, [*[""] * len(LATENCY_COLUMNS), *_counted(known)], "dim"))
    _print_lines(lines, console)
    for row in outcome["networks"]:
        if "published" in row:
            console.print(Text(_published(row), style="dim"), soft_wrap=True)
    for row in outcome["networks"]:
        if "not_counted" in row:
            console.print(Text(f"not counted: {row['not_counted']}", style="dim"), soft_wrap=True)
    timed = [each for row in outcome["networks"] for each in row["latencies"]]
    if unsteady := _unsteady(timed):
        console.print(Text(f"unsteady: {'; '.join(unsteady)}; measure again when less runs beside it"), soft_wrap=True)
    for remark in outcome["remarks"]:
        console.print(Text(remark), soft_wrap=True)
    device, first = outcome["device"], outcome["networks"][0]["latencies"][0]
    several = len(outcome["networks"][0]["latencies"]) > 1
    setting = f"{_setting(first)} unless said" if several else _setting(first)
    if device.get("accelerator") == UNKNOWN:
        said = f"what {device['provider']} computes on is unknown: other accelerators of this machine count as the same"
        console.print(Text(said), soft_wrap=True)
    accelerator = f" on {device['accelerator']}" if device.get("accelerator") else ""
    of = f"{device['provider']}{accelerator} of ONNX Runtime {device['onnxruntime']}"
    on = f"on {device['cpu']}, {setting}, {of}"
    console.print(Text(on, style="dim"))


def _unsteady(timed: Sequence[dict[str, Any]]) -> list[str]:
    """Why some latencies are no numbers."""
    reasons = (
        unsteady_reason(each["latency_ms_interval"], each["half_between_measurements"])
        for each in timed
        if not each["latency_steady"]
    )
    return list(dict.fromkeys(reasons))


def reference_remarks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """On the reference of each setting, once: what is most to be said of it among all networks."""
    of_setting: dict[str, list[dict[str, Any]]] = {}
    for each in (each for row in rows for each in row["latencies"]):
        of_setting.setdefault(_setting(each), []).append(each)
    found = []
    for setting, those in of_setting.items():
        moved = max(those, key=lambda each: abs(each["reference_now_ms"] / each["reference_ms"] - 1))
        helps = measured_anew(reference_file(moved["device_fingerprint"]))
        vague = [vague_remark(each["reference_ms"], each["reference_ms_interval"], helps=helps) for each in those]
        remarks = [*vague, drift_remark(moved["reference_ms"], moved["reference_now_ms"], helps=helps)]
        before = f"{setting}: " if len(of_setting) > 1 else ""
        found += [f"{before}{remark}" for remark in dict.fromkeys(remarks) if remark]
    return found


def _print_lines(lines: Sequence[tuple[str, list[str], str]], console: Console) -> None:
    """Names, cells and style of each line: as a table, or below each other where the console is too narrow for one."""
    table = Table(*COLUMNS, box=None)
    for name, cells, style in lines:
        table.add_row(Text(name), *cells, style=style)
    if console.measure(table, options=console.options.update(width=WIDEST)).maximum <= console.width:
        console.print(table)
        return
    for name, cells, style in lines:
        console.print(Text(name, style=style), soft_wrap=True)
        for column, cell in zip(COLUMNS[1:], cells, strict=False):
            if cell:
                console.print(Text(f"    {column:18s}{cell}", style=style), soft_wrap=True)


def _size(row: dict[str, Any]) -> str:
    if row["task"] is not None:
        return f"{row['task']['resolution']} px"
    return f"input {' x '.join(map(str, row['input'])) or 'one number'}"


def _latency_cells(timed: dict[str, Any]) -> list[str]:
    """For `LATENCY_COLUMNS`; on a machine too disturbed there is an interval and no number."""
    low, high = timed["latency_ms_interval"]
    number = f"{timed['latency_ms']:.3g}" if timed["latency_steady"] else "unsteady"
    wall = f"{timed['latency_wall_p50_ms']:.3g}, {timed['latency_wall_p90_ms']:.3g}"
    return [f"{number} ({low:.3g} to {high:.3g})", f"{timed['latency_warm_ms']:.3g}", wall]


def _setting(timed: dict[str, Any]) -> str:
    threads = "1 thread" if timed["threads"] == 1 else f"{timed['threads']} threads"
    return threads if timed["batch"] == 1 else f"{threads}, batch {timed['batch']}"


def _mebibytes(n: int | None) -> str:
    return "" if n is None else f"{n / 2**20:.2f}"


def _counted(row: dict[str, Any]) -> list[str]:
    return [f"{row[key]:,.0f}" if row.get(key) is not None else "" for key in ("flops", "params")]


def _published(row: dict[str, Any]) -> str:
    """Figures that are not counted here, such as the accuracy on ImageNet, and the source of all."""
    known = row["published"]
    figures = [f"{name} {value:g}, " for name, value in known.items() if name not in COUNTED_OR_SAID]
    return f"published for {row['name']}: {''.join(figures)}{known['source']}"
