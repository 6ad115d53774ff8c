"""A trained network becomes an ONNX file that was checked and measured."""

from __future__ import annotations

import concurrent.futures as cf
import importlib.metadata
import json
import multiprocessing
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.execution import use_one_thread
from hwnas.objectives import Limit
from latency import Device, Timing, export_onnx
from latency.reference import reference_model, stored_reference_ms
from latency.runtime import measure
from spaces import InputError, Task

from .config import RunConfig
from .run_folder import RunFolder, write_json

if TYPE_CHECKING:
    from torch import nn

PARITY_IMAGES = 256
VISITS = 12


def deploy(run: RunFolder, pick: str, out: Path | None = None) -> dict[str, Any]:
    """Write `model.onnx` and `model.json` of a final model of a run.

    Args:
        pick: `best` (by validation, among those that meet the limits), `fastest`, or the name of a model.
        out: where to; the model's own folder in the run by default.
    Returns:
        The folder, the checks, and what `model.json` says.
    Raises:
        InputError: if there is no such model, or the target exists.
        ParityError: if the exported model computes something else; nothing is left behind then.
    """
    use_one_thread()
    config = RunConfig.from_toml(run.config)
    models = run.models()
    name = choose(models, pick)
    source = run.model(name)
    folder = source if out is None else out
    record = models[name]
    target = folder / "model.onnx"
    if target.exists():
        if out is not None or not record.get("checks"):
            raise InputError(f"{target} exists already", hint="give another --out, or remove it")
        return {"folder": str(folder), "name": name, "checks": record["checks"], "model": record}
    folder.mkdir(parents=True, exist_ok=True)
    record = _export(run, config, source, target, record)
    write_json(folder / "model.json", record)
    if folder != source:
        shutil.copyfile(source / "weights.pt", folder / "weights.pt")
    return {"folder": str(folder), "name": name, "checks": record["checks"], "model": record}


def choose(models: Mapping[str, Mapping[str, Any]], pick: str) -> str:
    """The name of the model that `pick` means. Validation decides `best`, never the test split.

    Raises:
        InputError: if there is none.
    """
    if pick in models:
        return pick
    if pick not in {"best", "fastest"} or not models:
        known = ", ".join(models) or "none yet: the run has not ended"
        raise InputError(
            f"--pick must be best, fastest or the name of a final model, got {pick!r}", hint=f"models: {known}"
        )
    meeting = {name: model for name, model in models.items() if model["meets_limits"]} or dict(models)
    if pick == "fastest":
        return min(meeting, key=lambda name: (meeting[name]["latency_ms"], name))
    return max(meeting, key=lambda name: (meeting[name]["accuracy_val"], -meeting[name]["latency_ms"]))


def _export(run: RunFolder, config: RunConfig, source: Path, target: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from hwnas.training import ImageData

    data = ImageData.open(run.data)
    space = run.open_space(config, data.task)
    arch = space.parse(record["arch"])
    network = space.build(arch, data.task)
    network.load_state_dict(torch.load(source / "weights.pt", map_location="cpu", weights_only=True))
    module = with_normalisation(network, data.mean, data.std)
    images = np.asarray(data.val_images[:PARITY_IMAGES], dtype=np.float32) / np.float32(255)
    range_text = "float32 in [0, 1], pixel / 255, channels first; normalisation is inside the graph"
    metadata = {
        "class_names": json.dumps(list(data.class_names)),
        "input": range_text,
        "arch": str(arch),
        "accuracy_test": str(record["accuracy_test"]),
        "produced_by": f"hwnas {importlib.metadata.version('hwnas')}",
        "data": data.fingerprint,
        "seed": str(config.seed),
    }
    parity = export_onnx(module, target, images, metadata=metadata)
    try:
        timing, device = measure_in_new_process(target, data.task)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    low, high = timing.latency_ms_interval
    kept = {str(limit): _holds(limit, record, low, high) for limit in config.parsed_limits}
    return {
        **record,
        "latency_ms": timing.latency_ms,
        "latency_ms_interval": [low, high],
        "latency_warm_ms": timing.warm_ms,
        "latency_wall_p50_ms": timing.wall_p50_ms,
        "latency_wall_p90_ms": timing.wall_p90_ms,
        "latency_of": "model.onnx, in a process of its own",
        "meets_limits": all(kept.values()),
        "device": device,
        "input": {"name": "images", "shape": ["batch", *data.task.input_shape], "range": range_text},
        "output": {"name": "logits", "shape": ["batch", data.task.classes]},
        "class_names": list(data.class_names),
        "model_bytes": target.stat().st_size,
        "checks": {
            "parity_images": parity.images,
            "largest_difference": parity.largest_difference,
            "largest_logit": parity.largest_logit,
            "agreement": parity.agreement,
            "limits": kept,
        },
        "versions": versions(),
    }


def _holds(limit: Limit, record: Mapping[str, Any], low: float, high: float) -> bool:
    if limit.name == "latency_ms":
        return bool(limit.holds(high if limit.op == "<=" else low))
    return bool(limit.holds(record[limit.name]))


def with_normalisation(network: nn.Module, mean: np.ndarray, std: np.ndarray) -> nn.Module:
    """The network behind the per-channel scale and shift that it was trained with, for images in [0, 1]."""
    import torch
    from torch import nn

    class Normalised(nn.Module):
        mean: torch.Tensor
        std: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1))
            self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network((images - self.mean) / self.std)
            return logits

    return Normalised().eval()


def measure_in_new_process(path: Path, task: Task) -> tuple[Timing, str]:
    """Measure an ONNX file where nothing else has run: what someone who takes the file would find."""
    with cf.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure_file, path, task).result()


def measure_file(path: Path, task: Task) -> tuple[Timing, str]:
    """Measure an ONNX file beside the reference network of its task, on this device."""
    device = Device.here()
    rng = np.random.default_rng(0)  # orders the rounds; the network's weights are its own
    reference_ms = stored_reference_ms(task, device, rng)
    (timing,) = measure([path], reference_model(task), reference_ms, visits=VISITS, rng=rng)
    return timing, str(device)


def versions() -> dict[str, str]:
    """Of this project and the libraries that results depend on."""
    names = ("hwnas", "torch", "torchvision", "onnx", "onnxruntime", "optuna", "numpy")
    return {name: importlib.metadata.version(name) for name in names}
