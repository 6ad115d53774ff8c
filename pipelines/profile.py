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

from latency import Device, build_onnx, count, measure
from latency.reference import reference_model, stored_reference_ms
from spaces import PUBLISHED, Arch, InputError, SearchSpace, Task, get_space, parse_arch

VISITS = 8


def profile(names: Sequence[str], task: Task, *, seed: int, space: str | None = None) -> dict[str, Any]:
    """Count and measure networks side by side.

    Args:
        names: published names, architecture texts or paths of ONNX files (of which only latency and size are known).
        task: for the networks that are given by name or text.
        space: a further space that texts may be of, a person's own.
    Raises:
        InputError: if a name is none of these, or a file is no ONNX model.
    """
    rng = np.random.default_rng(seed)
    device = Device.here()
    own = None if space is None else get_space(space, task)
    rows: list[dict[str, Any]] = []
    models: list[bytes | Path] = []
    for name in names:
        row, model = _of_file(Path(name)) if name.endswith(".onnx") else _of_arch(name, task, rng, own)
        rows.append(row)
        models.append(model)
    reference_ms = stored_reference_ms(task, device, rng)
    for row, timing in zip(
        rows, measure(models, reference_model(task), reference_ms, visits=VISITS, rng=rng), strict=True
    ):
        measured = asdict(timing)
        row["latency_ms"], row["latency_ms_interval"] = measured.pop("latency_ms"), measured.pop("latency_ms_interval")
        row.update({f"latency_{key}" if key.endswith("_ms") else key: value for key, value in measured.items()})
    return {"device": {**asdict(device), "fingerprint": device.fingerprint}, "task": asdict(task), "networks": rows}


def _of_file(path: Path) -> tuple[dict[str, Any], Path]:
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # the checker, protobuf and the file system each have their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} must be an ONNX model: {reason}") from None
    return {"name": str(path), "arch": None, "model_bytes": path.stat().st_size}, path


def _of_arch(name: str, task: Task, rng: np.random.Generator, own: SearchSpace | None) -> tuple[dict[str, Any], bytes]:
    space, arch = _arch(name, own)
    network = space.layers(arch, task)
    counts = count(network)
    row = {"name": name, "arch": str(arch), **asdict(counts), "intensity": counts.intensity}
    if name in PUBLISHED:
        known = PUBLISHED[name]
        figures = {"params": known.params, "flops": known.flops, **known.figures}
        row["published"] = {**figures, "task": asdict(known.task), "source": known.source}
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
    """The same as a table for people; flops are multiply-adds."""
    table = Table("network", "latency ms (95 %)", "warm ms", "flops", "params", "intensity", "peak MiB", box=None)
    for row in outcome["networks"]:
        low, high = row["latency_ms_interval"]
        counted = [f"{row[key]:,.0f}" if key in row else "" for key in ("flops", "params")]
        table.add_row(
            row["name"],
            f"{row['latency_ms']:.3g} ({low:.3g} to {high:.3g})",
            f"{row['latency_warm_ms']:.3g}",
            *counted,
            f"{row['intensity']:.2f}" if "intensity" in row else "",
            f"{row['peak_memory_bytes'] / 2**20:.2f}" if "peak_memory_bytes" in row else "",
        )
    console.print(table)
    device = outcome["device"]
    console.print(
        f"on {device['cpu']}, {device['threads']} thread(s), ONNX Runtime {device['onnxruntime']}", style="dim"
    )
