"""The main part of a kit's `measure.py`, which is this file behind the others that `latency/kit.py` names.

It measures all networks of the kit beside the reference network, and writes one JSON file; where it is interrupted, it
goes on later. Any ONNX file can be measured in the same way, with `--models`. The rest of kits is in `latency/kit.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .device import Device, allowed_cores
from .drift import (
    WARM_RUNS,
    Reading,
    Visit,
    drift_remark,
    measured_anew,
    readings_of,
    reference_now_of,
    unsteady_reason,
)
from .rounds import (
    DisturbedError,
    ProviderError,
    Setting,
    in_new_process,
    new_processes,
    open_session,
    rounds_of,
    run_rounds,
)
from .runtime import (
    REFERENCE_PROCESSES,
    REFERENCE_ROUNDS,
    REFERENCE_VISITS,
    measure,
    measure_reference,
    vague_remark,
)
from .seal import read_sealed, unsealed, write_sealed

VERSION = 8  # of what a kit and its result hold
KIT, RESULT, MODELS_RESULT, BEGUN = "hwnas kit", "hwnas kit result", "hwnas kit models", "hwnas kit begun"
KIT_FILE, NETWORKS_FILE, MAIN_FILE = "kit.json", "networks.zip", "measure.py"
REFERENCE = "reference"
KILLED = "a process that ran a network was killed, maybe for lack of memory"
REFERENCE_RUNS = REFERENCE_PROCESSES * REFERENCE_VISITS * REFERENCE_ROUNDS


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
        if given.models:
            out = given.out or kit.folder / "models.json"
            return write_models(kit, given.models, given.threads, out, overwrite=given.overwrite)
        out = given.out or kit.folder / "result.json"
        return write_result(kit, given.threads, out, overwrite=given.overwrite)
    except (KitError, DisturbedError, ProviderError) as error:
        print(f"{MAIN_FILE}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{MAIN_FILE}: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print(f"{MAIN_FILE}: {KILLED}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "" if given.models else "; the same command goes on after the last whole visit of all networks"
        print(f"\n{MAIN_FILE}: interrupted{goes_on}", file=sys.stderr)
        return 1


class Kit:
    """The folder that holds what is to be measured.

    Attributes:
        plan: what `kit.json` says.
        id: digest of that, by which results and kits are told apart.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        said = read_sealed(folder / KIT_FILE) or {}
        if (said.get("format"), said.get("version")) != (KIT, VERSION):
            raise KitError(
                f"{folder / KIT_FILE} must be of a {KIT} {VERSION}, and as it was written, but is missing, damaged or "
                "of another version: copy the kit again, all of it"
            )
        self.plan, self.id = unsealed(said), str(said["digest"])
        for name, sha256 in self.plan["files"].items():
            path = folder / name
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                raise KitError(f"{path} is missing, or not the file that the kit was made with: copy the kit again")

    def model(self, name: str) -> bytes:
        """The ONNX model of a network."""
        with zipfile.ZipFile(self.folder / NETWORKS_FILE) as archive:
            return archive.read(f"{name}.onnx")


def check_out(out: Path, kind: str, *, overwrite: bool) -> None:
    """Before anything is measured; only what is of the same kind is replaced."""
    if out.is_dir():
        raise KitError(f"--out must be a file to write, but {out} is a folder")
    if out.exists() and not overwrite:
        raise KitError(f"{out} exists already: give --overwrite to replace it, or another --out")
    if out.exists() and (read_sealed(out) or {}).get("format") != kind:
        raise KitError(f"{out} must be a {kind} to be replaced by one, and is none: give another --out")
    if not out.parent.is_dir():
        raise KitError(f"{out.parent} must be a folder to write {out.name} to, and there is none")
    check_writable(out.parent, "give another --out")


def check_writable(folder: Path, helps: str) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise KitError(f"{folder} must be writable, but is not ({error.strerror}): {helps}") from None


def device_here(threads: int) -> Device:
    """This machine with so many threads."""
    cores = len(allowed_cores())
    if not 1 <= threads <= cores:
        raise KitError(f"--threads must be from 1 to the {cores} cores that it may run on, got {threads}")
    return Device.here(threads=threads)


def check_runs(model: bytes | Path, name: str, batches: Sequence[int] = (1,)) -> None:
    """Only a network of one float32 input, its sizes known except for that of the batch, can be timed on images.

    Raises:
        KitError: if it is another, does not run, or takes other batches than these.
    """
    if isinstance(model, Path) and not model.is_file():
        raise KitError(f"{name} must be an ONNX file, and there is none")
    try:
        session = open_session(model)
        inputs = session.get_inputs()
        came = ", ".join(f"{spec.name}: {spec.type} {spec.shape}" for spec in inputs) or "none"
        is_image = len(inputs) == 1 and inputs[0].type == "tensor(float)" and len(inputs[0].shape) > 0
        batch = inputs[0].shape[0] if is_image else None
        if isinstance(batch, int) and any(each != batch for each in batches):
            asked = ", ".join(map(str, batches))
            raise KitError(f"{name} takes batches of {batch}, so the batch must be {batch}; got {asked}")
        if is_image and all(isinstance(size, int) for size in inputs[0].shape[1:]):
            for each in batches:
                shape = [size if isinstance(size, int) else each for size in inputs[0].shape]
                session.run(None, {inputs[0].name: np.zeros(shape, dtype=np.float32)})
            return
    except KitError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no common parent but this
        reason = " ".join(str(error).split())
        raise KitError(f"{name} must be a model that ONNX Runtime {onnxruntime.__version__} runs: {reason}") from None
    raise KitError(f"{name} must have one float32 input, all its sizes known except that of the batch; it has {came}")


class Progress:
    """How much is done and how long the rest will take, on stderr.

    Args:
        done: of the total, at an earlier time.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self.earlier, self.done, self.said = total, done, done, -1
        self.started = time.monotonic()

    def advance(self, runs: int) -> None:
        self.done += runs
        percent = 100 * self.done // self.total
        live = sys.stderr.isatty()
        if percent // 10 > self.said // 10 or (live and percent > self.said):
            self.said = percent
            each_s = (time.monotonic() - self.started) / (self.done - self.earlier)
            left_s = round(each_s * (self.total - self.done))
            text = f"{percent:3d} % done, about {left_s // 60} min {left_s % 60:02d} s left"
            print(
                f"\r{text} " if live else text, end="" if live and percent < 100 else "\n", file=sys.stderr, flush=True
            )


def runs_of(plan: Mapping[str, Any], which: Iterable[int]) -> int:
    """How often something runs in one visit of these groups, the reference network beside the others included."""
    groups = [plan["groups"][i] for i in which]
    return sum((rounds_of(group) + WARM_RUNS) * (len(group) + 1) for group in groups)


def begun_name(fingerprint: str) -> str:
    """The file beside `measure.py` that holds what a device has measured so far, its reference latency first."""
    return f"begun-{fingerprint}.json"


class Begun:
    """What this device has measured of a kit so far, in a file beside it: nothing is measured twice, or lost.

    Attributes:
        stored: the reference's own latency, one value for all that this device measures; and the visits that no result
            holds yet.
    """

    def __init__(self, kit: Kit, device: Device) -> None:
        self.kit, self.device = kit, device
        self.path = kit.folder / begun_name(device.fingerprint)
        found = read_sealed(self.path) if self.path.exists() else {}
        self.stored: dict[str, Any] = found or {}
        if found is None or (found and (found.get("format"), found.get("kit_id")) != (BEGUN, kit.id)):
            raise KitError(f"{self.path} is damaged, or of another kit: remove it; what it held is measured again")

    def check_kept(self) -> None:
        """Before minutes are spent on what is to be kept."""
        check_writable(self.path.parent, f"copy the kit to where {MAIN_FILE} may keep what it has measured")

    def reference_ms(self, rng: np.random.Generator) -> float:
        """The reference network's own latency, measured the first time it is asked for."""
        if not self.stored:
            print(f"{MAIN_FILE}: timing the reference network first, half a minute or more", file=sys.stderr)
            setting = Setting(self.device.threads, self.device.provider)
            found = measure_reference(self.kit.model(REFERENCE), rng, setting=setting)
            self.stored = {**said_of(BEGUN, self.kit, self.device), "reference_ms": found.ms, "visits": []}
            self.stored["reference_ms_interval"] = list(found.interval)
            self._write()
        reference_ms = float(self.stored["reference_ms"])
        vague = vague_remark(reference_ms, self.stored["reference_ms_interval"], helps=measured_anew(self.path))
        if vague:
            print(f"{MAIN_FILE}: {vague}", file=sys.stderr)
        return reference_ms

    def add(self, visit: Visit) -> None:
        """What one visit tells of all networks, by name."""
        self.stored["visits"].append({name: reading._asdict() for name, reading in visit.items()})
        self._write()

    def forget_visits(self) -> None:
        self.stored["visits"] = []
        self._write()

    def _write(self) -> None:
        write_sealed(self.path, self.stored)


def write_result(kit: Kit, threads: int, out: Path, *, overwrite: bool) -> int:
    """Measure all that the kit asks for, and write it; returns the exit code."""
    begun = Begun(kit, device_here(threads))
    begun.check_kept()
    check_out(out, RESULT, overwrite=overwrite)
    begin(begun)
    write_sealed(out, measure_kit(kit, begun))
    begun.forget_visits()  # the result has them
    print(f"{MAIN_FILE}: wrote {out}", file=sys.stderr)
    return 0


def write_models(kit: Kit, files: Sequence[Path], threads: int, out: Path, *, overwrite: bool) -> int:
    """Measure ONNX files, and write what was found under another name where that is not all; returns the exit code."""
    begun = Begun(kit, device_here(threads))
    if not begun.stored:
        begun.check_kept()
    check_out(out, MODELS_RESULT, overwrite=overwrite)
    incomplete = out.with_name(f"{out.stem}-incomplete{out.suffix}")
    check_out(incomplete, MODELS_RESULT, overwrite=overwrite)
    for path in files:
        try:
            in_new_process(check_runs, path, str(path))
        except BrokenProcessPool:
            raise KitError(f"{path}: {KILLED}") from None
    begin(begun)
    result, interrupted = measure_files(kit, files, begun)
    left_out = len(files) - len(result["models"])
    if left_out:
        write_sealed(incomplete, result)
        print(f"{MAIN_FILE}: wrote {incomplete}, without {left_out} of {len(files)} files", file=sys.stderr)
        return 1 if interrupted else 2
    write_sealed(out, result)
    incomplete.unlink(missing_ok=True)  # of an earlier time, and `check_out` has seen it
    print(f"{MAIN_FILE}: wrote {out}", file=sys.stderr)
    return 0


def begin(begun: Begun) -> None:
    """The last that is checked, and the first that a person is told."""
    in_new_process(check_runs, begun.kit.model(REFERENCE), "the kit's reference network")
    print(f"{MAIN_FILE}: measuring on {begun.device}", file=sys.stderr)


def measure_kit(kit: Kit, begun: Begun) -> dict[str, Any]:
    """All that the kit asks for: what `hwnas device import` reads."""
    device, groups, visits = begun.device, kit.plan["groups"], kit.plan["visits"]
    seed, setting = kit.plan["seed"], Setting(device.threads, device.provider)
    done = len(begun.stored.get("visits", []))
    reference_ms = begun.reference_ms(np.random.default_rng(seed))
    runs = runs_of(kit.plan, range(len(groups)))
    progress = Progress(visits * runs, done * runs)
    for number in range(done, visits):
        # Its own, since going on must not repeat the orders of earlier visits; of the seed and 0 is the reference's.
        rng = np.random.default_rng([seed, number + 1])
        found: Visit = {}
        with new_processes() as run:
            for i in rng.permutation(len(groups)):
                found.update(run(kit_visit, kit, int(i), setting, *rng.spawn(1)))
                progress.advance(runs_of(kit.plan, [i]))
        begun.add(found)
    made = begun.stored["visits"]
    now_ms = reference_now_of([{name: Reading(**each) for name, each in visit.items()} for visit in made])
    ran = "while it was measured, this machine ran"
    remark = drift_remark(reference_ms, now_ms, ran=ran, helps=measured_anew(begun.path))
    if remark:
        print(f"{MAIN_FILE}: {remark}", file=sys.stderr)
    return {
        **said_of(RESULT, kit, device),
        "kit": kit.plan,
        "reference_ms": reference_ms,
        "reference_ms_interval": begun.stored["reference_ms_interval"],
        "readings": {name: [visit[name] for visit in made] for name in made[0]},
    }


def kit_visit(kit: Kit, number: int, setting: Setting, rng: np.random.Generator) -> Visit:
    """One visit of each network of the group of this number, by this process."""
    group = kit.plan["groups"][number]
    models = [kit.model(name) for name in (REFERENCE, *group)]
    raw = run_rounds(models, visits=1, rounds=rounds_of(group), warm_runs=WARM_RUNS, rng=rng, setting=setting)
    return {name: visits[0] for name, visits in zip(group, readings_of(raw), strict=True)}


def measure_files(kit: Kit, files: Sequence[Path], begun: Begun) -> tuple[dict[str, Any], bool]:
    """Latencies of ONNX files beside the reference network, which are printed too, and whether it was interrupted.

    Those that could not be measured are left out, and the reason is printed; after an interrupt, all that follow.

    Raises:
        KitError: if none is left.
    """
    device = begun.device
    setting = Setting(device.threads, device.provider)
    for_reference, rng = np.random.default_rng(kit.plan["seed"]).spawn(2)  # whether it is stored changes nothing else
    reference, reference_ms = kit.model(REFERENCE), begun.reference_ms(for_reference)
    rows: list[dict[str, Any]] = []
    interrupted = False
    for path in files:
        try:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            (timing,) = measure([path], reference, reference_ms, rng=rng, setting=setting)
        except Exception as error:  # ONNX Runtime's errors have no common parent but this
            print(f"{path}: {KILLED if isinstance(error, BrokenProcessPool) else error}", file=sys.stderr)
            continue
        except KeyboardInterrupt:
            if not rows:
                raise
            print(f"\n{path}: interrupted", file=sys.stderr)
            interrupted = True
            break
        low, high = timing.latency_ms_interval
        why = unsteady_reason(timing.latency_ms_interval, timing.half_between_measurements)
        number = f"{timing.latency_ms:.4g} ms" if timing.steady else f"unsteady: {why}"
        print(
            f"{path}: {number} (95 %: {low:.4g} to {high:.4g}), warm {timing.warm_ms:.4g} ms, "
            f"wall clock p50 {timing.wall_p50_ms:.4g} ms, p90 {timing.wall_p90_ms:.4g} ms"
        )
        remark = drift_remark(reference_ms, timing.reference_now_ms, helps=measured_anew(begun.path))
        if remark:
            print(f"{path}: {remark}", file=sys.stderr)
        rows.append({"file": str(path), "sha256": sha256, **timing.record()})
    if not rows:
        raise KitError("none of the files was measured, and nothing is written")
    known = {"reference_ms": reference_ms, "reference_ms_interval": begun.stored["reference_ms_interval"]}
    return {**said_of(MODELS_RESULT, kit, device), **known, "models": rows}, interrupted


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
