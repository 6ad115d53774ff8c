"""A trained network becomes an ONNX file that was checked and measured."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.execution import use_one_thread
from hwnas.objectives import Limit
from hwnas.soft_limits import SoftLimit, kept_share
from latency import Device, Timing, export_onnx
from latency.drift import unsteady_reason
from latency.files import write_json
from latency.reference import measuring_alone, reference_model, stored_reference_ms
from latency.runtime import measure
from spaces import InputError, Task

from .config import RunConfig
from .latencies import check_not_mixed, is_measured, is_measured_here, known_interval, known_ms, latencies_of
from .run_folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

PARITY_IMAGES = 256
DISTURBED = 2.0  # as many times its interval a latency may be off on a machine too disturbed for a number


def deploy(run: RunFolder, pick: str, out: Path | None = None) -> dict[str, Any]:
    """Write `model.onnx` and `model.json` of a final model of a run.

    Args:
        pick: `best` (by validation, among those that meet the limits), `fastest`, or the name of a model.
        out: where to; the model's own folder in the run by default.
    Returns:
        The folder, the checks, and what `model.json` says.
    Raises:
        InputError: if there is no such model, the target exists or is not the file that its certificate is about, the
            model would stand among others measured on another device, or another process works on the run.
        ParityError: if the exported model computes something else; nothing is left behind then.
    """
    use_one_thread()
    with run.locked():
        return deploy_locked(run, pick, out)


def deploy_locked(run: RunFolder, pick: str, out: Path | None = None) -> dict[str, Any]:
    """`deploy`, for a process that holds the run's lock already."""
    config = RunConfig.from_toml(run.config)
    models = run.models()
    name = choose(models, pick, config.parsed_limits)
    source, record = run.model(name), models[name]
    folder = source if out is None else out
    target = folder / "model.onnx"
    if folder.resolve() != source.resolve():
        _refuse_to_overwrite(run, folder)
    elif target.exists() and _is_certified(run, record):
        _check_certified(target, record)
        return {"folder": str(folder), "name": name, "checks": record["checks"], "model": record}
    else:
        check_not_mixed(run, "give an --out outside the run: what is measured here stands there")
    folder.mkdir(parents=True, exist_ok=True)
    # The model gets its name last: a process that dies before leaves nothing that looks finished.
    unchecked = folder / "unchecked.onnx"
    unchecked.unlink(missing_ok=True)
    try:
        record = _export(run, config, source, unchecked, record)
        if folder.resolve() != source.resolve():
            shutil.copyfile(source / "weights.pt", folder / "weights.pt")
        write_json(folder / "model.json", record)
        unchecked.replace(target)
    finally:
        unchecked.unlink(missing_ok=True)
    return {"folder": str(folder), "name": name, "checks": record["checks"], "model": record}


def _is_certified(run: RunFolder, record: Mapping[str, Any]) -> bool:
    """Whether all that can be said of a model's file is said; earlier versions gave no certificate.

    What a disturbed machine left open is measured again where it can be.
    """
    if not record.get("checks") or "certificate" not in record:
        return False
    left_open = is_measured(record) and record["certificate"]["met"] is None
    return not (left_open and is_measured_here(run))


def _refuse_to_overwrite(run: RunFolder, folder: Path) -> None:
    if (run.path / "models").resolve() in folder.resolve().parents:
        raise InputError(f"{folder} belongs to the models of {run.path}", hint="give an --out outside the run")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"--out must be a folder, but {there} is a file", hint="give another --out")
    for file in ("model.onnx", "model.json", "weights.pt"):
        if (folder / file).exists():
            raise InputError(f"{folder / file} exists already", hint="give another --out, or remove it")


def _check_certified(target: Path, record: Mapping[str, Any]) -> None:
    """Earlier versions did not say which file a certificate is about."""
    known = record.get("model_sha256")
    if known is not None and sha256(target.read_bytes()).hexdigest() != known:
        raise InputError(
            f"{target} must be the file that its certificate is about, but it was changed since",
            hint="remove it: it is made and measured again then",
        )


def choose(models: Mapping[str, Mapping[str, Any]], pick: str, limits: Sequence[Limit]) -> str:
    """The name of the model that `pick` means. Validation decides `best`, never the test split.

    Those of which it is not known whether they meet the limits come after those that do. Where no model meets the
    limits, `best` and `fastest` both mean the one that misses them by least.

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
    groups = [{name: model for name, model in models.items() if model["meets_limits"] is met} for met in (True, None)]
    meeting = groups[0] or groups[1]
    if not meeting:
        return min(models, key=lambda name: (_violation(limits, models[name]), name))
    if pick == "fastest":
        return min(meeting, key=lambda name: (known_ms(meeting[name]), name))
    # What soft limits leave of the accuracy; models of earlier versions know no soft limits.
    worth = {name: model.get("kept_share", 1.0) * model["accuracy_val"] for name, model in meeting.items()}
    # Of equals the one that was handed over before: to measure its file must not make another one the best.
    return max(meeting, key=lambda name: (worth[name], "certificate" in meeting[name], -known_ms(meeting[name])))


def limits_met(limits: Sequence[Limit], model: Mapping[str, Any]) -> dict[str, bool | None]:
    """Of each limit whether a model meets it; None where nobody knows.

    Of a latency that is not known: it was not measured on its device, or on a machine too disturbed to tell.
    """
    return {
        str(limit): _violation([limit], model) == 0
        if limit.name != "latency_ms" or is_settled(model, limit.value)
        else None
        for limit in limits
    }


def is_settled(model: Mapping[str, Any], target_ms: float) -> bool:
    """Whether the measured latency tells on which side of a target it is.

    On a machine too disturbed for a number its interval still tells where it is far from the target.
    """
    if not is_measured(model):
        return False
    low, high = known_interval(model)
    return bool(model["latency_steady"] or high * DISTURBED <= target_ms or low >= target_ms * DISTURBED)


def is_told(limits: Sequence[Limit], model: Mapping[str, Any]) -> bool:
    """Whether it is known of each limit on latency_ms whether a model meets it, as far as its latency ever tells."""
    return not is_measured(model) or all(
        is_settled(model, limit.value) for limit in limits if limit.name == "latency_ms"
    )


def all_met(met: Mapping[str, bool | None]) -> bool | None:
    """Whether all limits are met; None where none is missed, but of some nobody knows."""
    if False in met.values():
        return False
    return None if None in met.values() else True


def latency_violation(limits: Sequence[Limit], interval: Sequence[float]) -> float:
    """The sum of the relative violations of all limits on latency_ms by the worse end of a measured interval."""
    low, high = interval
    return sum(
        float(limit.violation(high if limit.op == "<=" else low)) for limit in limits if limit.name == "latency_ms"
    )


def share_kept(soft: Sequence[SoftLimit], model: Mapping[str, Any]) -> float:
    """What soft limits leave of the accuracy of a model, by the worse end of the latency that is known of it."""
    low, high = known_interval(model)
    share = 1.0
    for each in soft:
        name = each.limit.name
        value = (high if each.limit.op == "<=" else low) if name == "latency_ms" else model[name]
        share *= float(kept_share([each], {name: value}))
    return share


def _violation(limits: Sequence[Limit], model: Mapping[str, Any]) -> float:
    counted = sum(float(limit.violation(model[limit.name])) for limit in limits if limit.name != "latency_ms")
    return counted + latency_violation(limits, known_interval(model))


def _export(run: RunFolder, config: RunConfig, source: Path, target: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    from hwnas.evaluation import load_weights
    from hwnas.training import ImageData

    data = ImageData.open(run.data)
    space = run.open_space(config, data.task)
    arch = space.parse(record["arch"])
    network = space.build(arch, data.task)
    load_weights(network, source / "weights.pt", arch)
    module = with_normalisation(network, data.mean, data.std)
    images = np.asarray(data.val_images[:PARITY_IMAGES], dtype=np.float32) / np.float32(255)
    range_text = (
        "float32 in [0, 1], 0 the least and 1 the greatest value that a pixel can have (255 in 8-bit images, 16 in "
        "scikit-learn's digits), channels first; normalisation is inside the graph"
    )
    metadata = {
        "class_names": json.dumps(list(data.class_names)),
        "input": range_text,
        "preprocess": data.preprocessing,
        "arch": str(arch),
        "accuracy_test": str(record["accuracy_test"]),
        "produced_by": f"hwnas {importlib.metadata.version('hwnas')}",
        "data": data.fingerprint,
        "seed": str(config.seed),
    }
    parity = export_onnx(module, target, images, metadata=metadata)
    record = {**record, **latencies_of(config, run, space, data.task).of_file(target, arch).record}
    kept = limits_met(config.parsed_limits, record)
    return {
        **record,
        "kept_share": share_kept(config.parsed_soft_limits, record),
        "certificate": certificate(record, config.parsed_limits),
        "meets_limits": all_met(kept),
        "input": {"name": "images", "shape": ["batch", *data.task.input_shape], "range": range_text},
        "preprocess": data.preprocessing,
        "output": {"name": "logits", "shape": ["batch", data.task.classes]},
        "class_names": list(data.class_names),
        "model_bytes": target.stat().st_size,
        "model_sha256": sha256(target.read_bytes()).hexdigest(),
        "checks": {
            "parity_images": parity.images,
            "largest_difference": parity.largest_difference,
            "largest_logit": parity.largest_logit,
            "agreement": parity.agreement,
            "limits": kept,
        },
        "versions": versions(),
    }


def _rounded(ms: float, rounding: str) -> str:
    """To four digits, in the direction in which what is promised stays true."""
    return f"{float(Context(prec=4, rounding=rounding).create_decimal(repr(float(ms)))):.4g}"


LATENCY_MEANS = (
    "one image under ONNX Runtime on the device named here, all graph optimisations, caches flushed before every run; "
    "CPU time of one thread (wall clock where the device has more), as ratio to a reference network in the same "
    "rounds, brought to the speed that the machine had when the reference was stored, times the milliseconds that are "
    "stored for it; while the machine is busier than then, the wall clock says more"
)


def certificate(record: Mapping[str, Any], limits: Sequence[Limit]) -> dict[str, Any]:
    """What the measured file promises about its latency, or that it misses its target.

    `met` is None where the file was not measured, or not well enough to say.
    The bound is the upper end of the two-sided 95 % interval, so the latency is below it with more than 95 %
    confidence. Without an upper limit on latency_ms the target is that bound. It is of this file alone: where a search
    measured several until one met the limit, that one of them seems to meet it by chance is likelier.

    Args:
        record: of the model, with its latency.
    """
    low, high = known_interval(record)
    upper = [limit.value for limit in limits if limit.name == "latency_ms" and limit.op == "<="]
    target_ms = min(upper) if upper else high
    met, settled, most = False, is_settled(record, target_ms), _rounded(target_ms, ROUND_CEILING)
    if not is_measured(record):
        says = f"no statement about {target_ms:.4g} ms: the file was not measured on the device it is for"
    elif not settled:
        why = unsteady_reason(record["latency_ms_interval"], record["half_between_measurements"])
        says = f"no statement about {target_ms:.4g} ms: {why} while the file was measured"
    elif low > target_ms:
        least = _rounded(low, ROUND_FLOOR)
        says = f"the target of {target_ms:.4g} ms is missed: latency_ms is at least {least} with 95 % confidence"
    elif high > target_ms:
        says = f"the target of {target_ms:.4g} ms is missed: latency_ms may be {low:.4g} to {high:.4g} (95 %)"
    elif not record["latency_steady"]:
        met = True
        why = unsteady_reason(record["latency_ms_interval"], record["half_between_measurements"])
        says = f"latency_ms is at most {most}: far below it, though {why} for a number"
    else:
        met, says = True, f"latency_ms is at most {most} with 95 % confidence"
    if is_measured(record):
        says += f"; wall clock, p90: {record['latency_wall_p90_ms']:.4g} ms"
    return {
        "statement": says,
        "met": met if settled else None,
        "target_ms": target_ms,
        "upper_ms": high if is_measured(record) else None,
        "latency_wall_p90_ms": record["latency_wall_p90_ms"],
        "latency_ms_means": LATENCY_MEANS,
        "device": record["device"],
        "device_fingerprint": record["device_fingerprint"],
    }


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


def measure_file(path: Path, task: Task, reference_ms: float | None = None) -> tuple[Timing, Device]:
    """Measure an ONNX file on this device, where nothing else has run: what someone who takes the file would find.

    Args:
        reference_ms: of the reference network; None: what is stored for this device.
    """
    rng = np.random.default_rng(0)  # orders the rounds; the network's weights are its own
    with measuring_alone():
        if reference_ms is None:
            reference_ms = stored_reference_ms(task, Device.here(), np.random.default_rng(0))
        (timing,) = measure([path], reference_model(task), reference_ms, rng=rng)
    return timing, Device.here()


def versions() -> dict[str, str]:
    """Of this project and the libraries that results depend on."""
    names = ("hwnas", "torch", "torchvision", "onnx", "optuna", "numpy")
    import onnxruntime

    found = {name: importlib.metadata.version(name) for name in names}
    return {**found, "onnxruntime": onnxruntime.__version__}  # whichever of its distributions is installed
