"""The main part of a kit's `measure.py`, which is this file behind `rounds.py` and `device.py`.

It measures all networks of the kit beside the reference network, and writes one JSON file. Any ONNX file can be
measured in the same way, with `--models`. Everything else about the kit is in `latency/kit.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .device import Device
from .rounds import DisturbedError, ProviderError, Setting, open_session, run_rounds
from .runtime import REFERENCE_ROUNDS, REFERENCE_VISITS, measure, measure_reference

VERSION = 1  # of what a kit and its result hold
KIT, RESULT, MODELS_RESULT = "hwnas kit", "hwnas kit result", "hwnas kit models"
KIT_FILE, NETWORKS_FILE, MAIN_FILE = "kit.json", "networks.zip", "measure.py"
REFERENCE = "reference"
REFERENCE_RUNS = REFERENCE_VISITS * REFERENCE_ROUNDS


class KitError(Exception):
    """What whoever runs the kit can mend: said in one line."""


def main(argv: Sequence[str] | None = None, *, folder: Path | None = None) -> int:
    """Run the command in the folder of the kit; returns the exit code."""
    parser = argparse.ArgumentParser(prog=MAIN_FILE, description="Measure this device for hwnas.")
    parser.add_argument("--threads", type=int, default=1, help="of each run (default: 1)")
    parser.add_argument("--models", type=Path, nargs="+", metavar="FILE.onnx", help="measure these files instead")
    parser.add_argument("--out", type=Path, help="file to write (default: result.json, or models.json for --models)")
    parser.add_argument("--overwrite", action="store_true", help="replace that file where it exists")
    given = parser.parse_args(argv)
    try:
        kit = Kit(folder or Path(__file__).resolve().parent)
        out = given.out or kit.folder / ("models.json" if given.models else "result.json")
        check_out(out, overwrite=given.overwrite)
        device = device_here(given.threads)
        for path in given.models or ():
            check_runs(path, str(path))
        print(f"{MAIN_FILE}: measuring on {device}", file=sys.stderr)
        result = measure_files(kit, given.models, device) if given.models else measure_kit(kit, device)
        write_result(out, result)
    except (KitError, DisturbedError, ProviderError) as error:
        print(f"{MAIN_FILE}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{MAIN_FILE}: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{MAIN_FILE}: interrupted, nothing was written", file=sys.stderr)
        return 1
    print(f"{MAIN_FILE}: wrote {out}", file=sys.stderr)
    return 0


class Kit:
    """The folder that holds what is to be measured.

    Attributes:
        plan: what `kit.json` says.
        id: digest of that, by which results and kits are told apart.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.plan: dict[str, Any] = json.loads((folder / KIT_FILE).read_text(encoding="utf-8"))
            kind, version = self.plan["format"], self.plan["version"]
            self.plan["files"], self.plan["groups"], self.plan["seed"]
        except (ValueError, KeyError, TypeError) as error:
            raise KitError(f"{folder / KIT_FILE} is damaged ({error!r}): copy the kit again") from None
        if (kind, version) != (KIT, VERSION):
            raise KitError(f"{folder / KIT_FILE} must be of a {KIT} {VERSION}, but it is of a {kind} {version}")
        for name, sha256 in self.plan["files"].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != sha256:
                raise KitError(f"{folder / name} is not the file that the kit was made with: copy the kit again")
        self.id = digest(self.plan)

    def model(self, name: str) -> bytes:
        """The ONNX model of a network."""
        with zipfile.ZipFile(self.folder / NETWORKS_FILE) as archive:
            return archive.read(f"{name}.onnx")


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, however their JSON is spaced and ordered."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_out(out: Path, *, overwrite: bool) -> None:
    """Before anything is measured."""
    if out.exists() and not overwrite:
        raise KitError(f"{out} exists already: give --overwrite to replace it, or another --out")
    if not out.parent.is_dir():
        raise KitError(f"{out.parent} must be a folder to write {out.name} to, and there is none")


def device_here(threads: int) -> Device:
    """This machine with so many threads."""
    cores = os.cpu_count() or 1
    if not 1 <= threads <= cores:
        raise KitError(f"--threads must be from 1 to the {cores} cores of this machine, got {threads}")
    return Device.here(threads=threads)


def check_runs(model: bytes | Path, name: str) -> None:
    """Only a network of one float32 input, its sizes known except for that of the batch, can be timed on one image."""
    if isinstance(model, Path) and not model.is_file():
        raise KitError(f"{name} must be an ONNX file, and there is none")
    try:
        session = open_session(model)
        inputs = session.get_inputs()
        came = ", ".join(f"{spec.name}: {spec.type} {spec.shape}" for spec in inputs) or "none"
        is_image = len(inputs) == 1 and inputs[0].type == "tensor(float)" and len(inputs[0].shape) > 0
        if is_image and isinstance(inputs[0].shape[0], int) and inputs[0].shape[0] != 1:
            raise KitError(f"{name} must take one image at a time, but takes batches of {inputs[0].shape[0]}")
        if is_image and all(isinstance(size, int) for size in inputs[0].shape[1:]):
            shape = [size if isinstance(size, int) else 1 for size in inputs[0].shape]
            session.run(None, {inputs[0].name: np.zeros(shape, dtype=np.float32)})
            return
    except KitError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no common parent but this
        reason = " ".join(str(error).split())
        raise KitError(f"{name} must be a model that ONNX Runtime {onnxruntime.__version__} runs: {reason}") from None
    raise KitError(f"{name} must have one float32 input, all its sizes known except that of the batch; it has {came}")


class Progress:
    """How much is done and how long the rest will take, on stderr."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.said = total, 0, -1
        self.started = time.monotonic()

    def advance(self, runs: int) -> None:
        self.done += runs
        percent = 100 * self.done // self.total
        live = sys.stderr.isatty()
        if percent // 10 > self.said // 10 or (live and percent > self.said):
            self.said = percent
            left_s = round((time.monotonic() - self.started) * (self.total / self.done - 1))
            text = f"{percent:3d} % done, about {left_s // 60} min {left_s % 60:02d} s left"
            print(
                f"\r{text} " if live else text, end="" if live and percent < 100 else "\n", file=sys.stderr, flush=True
            )


def runs_of(plan: Mapping[str, int], models: int) -> int:
    """How often something runs, the reference network beside the models included."""
    return plan["visits"] * plan["rounds"] * (models + 1)


def measure_kit(kit: Kit, device: Device) -> dict[str, Any]:
    """All that the kit asks for: what `hwnas device import` reads."""
    groups = kit.plan["groups"]
    progress = Progress(sum(runs_of(group, len(group["networks"])) for group in groups) + REFERENCE_RUNS)
    rng, setting = np.random.default_rng(kit.plan["seed"]), Setting(device.threads, device.provider)
    reference = kit.model(REFERENCE)
    check_runs(reference, "the kit's reference network")
    reference_ms = measure_reference(reference, rng, setting=setting)  # first, in a process that has done nothing else
    progress.advance(REFERENCE_RUNS)
    log_ratios: dict[str, list[float]] = {}
    visits_ms: list[float] = []
    for group in groups:
        models = [kit.model(name) for name in group["networks"]]
        raw = run_rounds([reference, *models], visits=group["visits"], rounds=group["rounds"], rng=rng, setting=setting)
        log_ratios.update(zip(group["networks"], raw.log_ratios().tolist(), strict=True))
        visits_ms += raw.quartiles_ms()[0].tolist()
        progress.advance(runs_of(group, len(models)))
    return {
        **said_of(RESULT, kit, device),
        "kit": kit.plan,
        "reference_ms": reference_ms,
        "reference_visits_ms": visits_ms,
        "log_ratios": log_ratios,
    }


def measure_files(kit: Kit, files: Sequence[Path], device: Device) -> dict[str, Any]:
    """Latencies of ONNX files beside the reference network; they are printed too."""
    rng, setting = np.random.default_rng(kit.plan["seed"]), Setting(device.threads, device.provider)
    reference = kit.model(REFERENCE)
    reference_ms = known_reference_ms(kit, device)
    if reference_ms is None:
        reference_ms = measure_reference(reference, rng, setting=setting)
    rows = []
    for path in files:
        (timing,) = measure([path], reference, reference_ms, rng=rng, setting=setting)
        low, high = timing.latency_ms_interval
        number = f"{timing.latency_ms:.4g} ms" if timing.steady else "unsteady: the machine is too disturbed"
        print(
            f"{path}: {number} (95 %: {low:.4g} to {high:.4g}), warm {timing.warm_ms:.4g} ms, "
            f"wall clock p50 {timing.wall_p50_ms:.4g} ms, p90 {timing.wall_p90_ms:.4g} ms"
        )
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append({"file": str(path), "sha256": sha256, **timing.record()})
    return {**said_of(MODELS_RESULT, kit, device), "reference_ms": reference_ms, "models": rows}


def known_reference_ms(kit: Kit, device: Device) -> float | None:
    """What an earlier run of this kit found on this device, or None: a device has one value for all its latencies."""
    try:
        known = json.loads((kit.folder / "result.json").read_text(encoding="utf-8"))
        same = (known["kit_id"], known["fingerprint"]) == (kit.id, device.fingerprint)
        return float(known["reference_ms"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def said_of(kind: str, kit: Kit, device: Device) -> dict[str, Any]:
    """What every result begins with."""
    return {
        "format": kind,
        "version": VERSION,
        "kit_id": kit.id,
        "device": asdict(device),
        "fingerprint": device.fingerprint,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }


def write_result(out: Path, result: Mapping[str, Any]) -> None:
    """Sealed by its digest, and under its name only when it is whole."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps({**result, "digest": digest(result)}, indent=1) + "\n", encoding="utf-8")
        part.replace(out)
    finally:
        if part.exists():
            part.unlink()
