"""Kits: a folder that measures on a machine without this project or torch, and reading back what it measured.

A kit holds the networks of a `MeasuringPlan` with random weights, what to do with them (`kit.json`), and one Python
file, `measure.py`, made of the very sources that measure here (`SOURCES`).
"""

from __future__ import annotations

import ast
import importlib.metadata
import io
import math
import sys
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spaces import InputError, SearchSpace, Task, get_space
from spaces.own_file import SpaceFile

from . import kit_main
from .device import Device
from .drift import Reading
from .files import read_json, write_atomically
from .kit_main import KIT, KIT_FILE, MAIN_FILE, NETWORKS_FILE, REFERENCE, RESULT, VERSION
from .measuring import LEAST_PLAN_VISITS, PLAN_VISITS, MeasuringPlan, PlanTimes, network_name
from .model import LatencyModel
from .modelling import calibration_of, check_estimates, fit_latency_model, plan_latency_model
from .reference import keep_reference, reference_model
from .runtime import ReferenceTime
from .seal import digest, is_whole, write_sealed

LEAST_PYTHON = (3, 10)
LEAST_NUMPY = "1.25"  # whose generators can spawn others
FARTHEST = math.log(20)  # a visit's reference from the stored one; a machine throttled to a tenth is nearer
PERIOD = 1024  # after so many values a weight begins anew, so that networks of random weights can be packed
SOURCES = ("rounds.py", "drift.py", "runtime.py", "device.py", "seal.py", "kit_main.py")

README = """hwnas kit: measures this device for {space}, {resolution} px, {channels} channel(s), {classes} classes

It needs Python {python} or newer, and nothing but: pip install "numpy>={numpy}" "onnxruntime>=1.18"
Let the machine be idle, and plugged in, while it runs: {runs:,} runs of networks, minutes on most machines.

    python measure.py                       measures, and writes result.json; --threads N for more than one thread
    hwnas device import result.json --kit {folder} --out device.json            on the machine that has hwnas
    hwnas search --data ... --device-table device.json
    python measure.py --models model.onnx   measures what the search found, here
"""

ANEW = f"there, remove begun-*.json beside {MAIN_FILE}, which keeps the reference, and run it with --overwrite"
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LogRatio = Annotated[float, Field(allow_inf_nan=False, gt=-12, lt=12)]  # no network takes a 160,000th of another's time
T = TypeVar("T", bound=BaseModel)


class _Told(BaseModel):
    """What is read from a file: nothing is converted, nothing unknown is let through."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Task(_Told):
    resolution: int
    classes: int
    channels: int


class KitPlan(_Told):
    """What is measured with what: `kit.json` without its digest."""

    format: Literal["hwnas kit"]
    version: int
    made_by: str
    space: str
    space_sha256: str | None  # of the file of a person's own space
    task: _Task
    seed: int
    calibration: Annotated[list[str], Field(min_length=1)]
    visits: Annotated[int, Field(ge=LEAST_PLAN_VISITS)]
    groups: list[list[str]]
    files: dict[str, str]


class _Device(_Told):
    cpu: str
    cores: Count
    threads: Count
    provider: str
    onnxruntime: str
    system: str
    flush_bytes: Count
    accelerator: str


class _Reading(_Told):
    log_ratio: LogRatio
    reference_ms: Positive
    expected_slope: Annotated[float, Field(allow_inf_nan=False, ge=-1, le=1)]


class KitResult(_Told):
    """What `measure.py` writes."""

    format: Literal["hwnas kit result"]
    version: int
    kit_id: str
    device: _Device
    fingerprint: str
    versions: dict[str, str]
    kit: KitPlan
    reference_ms: Positive
    reference_ms_interval: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    readings: dict[str, list[_Reading]]  # of each visit
    digest: str


def write_kit(out: Path, space: SearchSpace, task: Task, *, seed: int, own: SpaceFile | None = None) -> dict[str, Any]:
    """Write the folder of a kit for one space and task; returns what `kit.json` says.

    Args:
        own: the file that the space is from, where it is a person's own.
    Raises:
        InputError: if `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} must be a new folder, but it exists and is not empty", hint="give another OUT")
    rng = np.random.default_rng(seed)
    plan = plan_latency_model(space, task, calibration_of(space, task, rng))
    networks = _archive(plan, rng)
    source = measure_source()
    kit = {
        "format": KIT,
        "version": VERSION,
        "made_by": f"hwnas {importlib.metadata.version('hwnas')}",
        "space": space.name,
        "space_sha256": None if own is None else own.sha256,
        "task": asdict(task),
        "seed": seed,
        "calibration": [space.format(row) for row in plan.calibration],
        "visits": PLAN_VISITS,
        "groups": [list(map(network_name, group)) for group in plan.groups],
        "files": {NETWORKS_FILE: sha256(networks).hexdigest(), MAIN_FILE: sha256(source.encode()).hexdigest()},
    }
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / NETWORKS_FILE, networks)
    write_atomically(out / MAIN_FILE, source.encode())
    write_atomically(out / "README.txt", _readme(out, kit).encode())
    write_sealed(out / KIT_FILE, kit)  # last: without it a folder is no kit
    return kit


def _archive(plan: MeasuringPlan, rng: np.random.Generator) -> bytes:
    """All networks as ONNX files in one zip file, the same bytes for the same plan and seed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, REFERENCE, reference_model(plan.task))
        for group in plan.groups:
            for name, model in plan.models(group, rng).items():
                _add(archive, name, model)
    return file.getvalue()


def _add(archive: zipfile.ZipFile, name: str, model: bytes) -> None:
    proto = onnx.load_from_string(model)
    for weight in proto.graph.initializer:
        values = np.frombuffer(weight.raw_data, dtype=np.uint8)
        weight.raw_data = np.resize(values[: 4 * PERIOD], len(values)).tobytes()  # latency depends on no value
    member = zipfile.ZipInfo(f"{name}.onnx")
    member.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(member, proto.SerializeToString())


def _readme(out: Path, kit: Mapping[str, Any]) -> str:
    runs = kit["visits"] * kit_main.runs_of(kit, range(len(kit["groups"])))
    return README.format(
        **kit["task"],
        space=kit["space"],
        folder=out.name,
        runs=runs + kit_main.REFERENCE_RUNS,
        python=".".join(map(str, LEAST_PYTHON)),
        numpy=LEAST_NUMPY,
    )


def measure_source() -> str:
    """The text of `measure.py`: our own modules one after the other, their imports gathered at the top.

    Raises:
        ValueError: if two of them define the same name.
    """
    imports: list[ast.Import | ast.ImportFrom] = []
    parts: list[str] = []
    defined: Counter[str] = Counter()
    for name in SOURCES:
        text = Path(__file__).with_name(name).read_text(encoding="utf-8")
        tree = ast.parse(text)
        at_the_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        imports += at_the_top
        defined.update(_defined(tree.body))
        own = text.splitlines()[at_the_top[-1].end_lineno :]
        said = "\n".join(f"# {line}".rstrip() for line in (ast.get_docstring(tree) or "").splitlines())
        parts.append("\n".join([f"# ---- {name} ----", said, *own]))
    twice = [name for name, times in defined.items() if times > 1]
    if twice:
        raise ValueError(f"{', '.join(SOURCES)} must not define the same names, but share {', '.join(twice)}")
    ours, others = _imports(imports)
    head = HEAD.format(least=LEAST_PYTHON, numpy=LEAST_NUMPY, standard="\n".join(ours), others="\n    ".join(others))
    return "\n\n\n".join([head, *parts, 'if __name__ == "__main__":\n    sys.exit(main())\n'])


HEAD = '''"""Measures this device for hwnas; see README.txt. It needs numpy and onnxruntime, nothing else.

Made of the sources of hwnas that measure there, so that both mean the same by a latency.
"""

from __future__ import annotations

import sys

if sys.version_info < {least}:
    sys.exit("measure.py needs Python %d.%d or newer, this is %d.%d" % ({least} + sys.version_info[:2]))

{standard}

try:
    {others}
except ImportError as missing:
    sys.exit("measure.py: %s (python -m pip install numpy onnxruntime)" % missing)
if not hasattr(np.random.Generator, "spawn"):
    sys.exit("measure.py needs numpy {numpy} or newer, this is %s (python -m pip install -U numpy)" % np.__version__)'''


def _imports(nodes: list[ast.Import | ast.ImportFrom]) -> tuple[list[str], list[str]]:
    """Lines that import the same, of the standard library and of other packages; what is ours stands in the file."""
    lines: set[str] = set()
    names: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            lines |= {f"import {ast.unparse(alias)}" for alias in node.names}
        elif not node.level and node.module and node.module != "__future__":
            names.setdefault(node.module, set()).update(map(ast.unparse, node.names))
    found = [*sorted(lines), *(f"from {module} import {', '.join(sorted(names[module]))}" for module in sorted(names))]
    roots = [line.split()[1].partition(".")[0] for line in found]
    standard = [line for line, root in zip(found, roots, strict=True) if root in sys.stdlib_module_names]
    return [line for line in standard if line != "import sys"], [line for line in found if line not in standard]


def _defined(nodes: list[ast.stmt]) -> list[str]:
    found = []
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign):
            found += [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.append(node.target.id)
    return found


def read_result(path: Path, kit_folder: Path | None = None) -> KitResult:
    """What `measure.py` wrote, checked by itself.

    Args:
        kit_folder: the kit that it must be of.
    Raises:
        InputError: if it is no such file, of another version or kit, edited, or holds what no device can measure.
    """
    stored = read_json(path)
    _check_kind(path, stored, RESULT)
    result = _validated(path, KitResult, stored)
    again = f"run {MAIN_FILE} again, and import what it writes"
    device = Device(**result.device.model_dump())
    if device.fingerprint != result.fingerprint:
        raise InputError(
            f"{path} must be of the device that it names, but its device was edited ({device}), or a kit of another "
            "hwnas measured it",
            hint=f"{again}; if that says the same, make a new kit",
        )
    if digest(stored["kit"]) != result.kit_id:
        raise InputError(f"{path} must say what kit it is of, but that part was edited", hint=again)
    if kit_folder is not None:
        kit = read_json(kit_folder / KIT_FILE)
        _check_kind(kit_folder / KIT_FILE, kit, KIT)
        if not is_whole(kit):
            hint = "copy the kit again, or leave --kit out"
            raise InputError(f"{kit_folder / KIT_FILE} must be as it was written, but was edited or cut", hint=hint)
        if kit["digest"] != result.kit_id:
            raise InputError(
                f"{path} must be of the kit in {kit_folder}, but it is of another one, of {result.kit.space}, "
                f"{result.kit.task.resolution} px, {result.kit.task.classes} classes, seed {result.kit.seed}",
                hint="leave --kit out, or give the folder that was carried to the device",
            )
    _check_complete(path, result)
    if not is_whole(stored):
        raise InputError(f"{path} must be as {MAIN_FILE} wrote it, but it was edited", hint=again)
    _check_possible(path, result)
    return result


def _check_possible(path: Path, result: KitResult) -> None:
    threads, cores = result.device.threads, result.device.cores
    if threads > cores:
        raise InputError(
            f"{path} must be measured with no more threads than cores, got {threads} threads on {cores}",
            hint=f"run {MAIN_FILE} again",
        )
    try:
        _reference_of(result)
    except ValueError as error:
        raise InputError(f"{path}: {error}", hint=ANEW) from None
    stored = math.log(result.reference_ms)
    for name, visits in result.readings.items():
        far = [each.reference_ms for each in visits if abs(math.log(each.reference_ms) - stored) > FARTHEST]
        if far:
            raise InputError(
                f"{path}: the reference network takes {result.reference_ms:.4g} ms, but beside network {name} "
                f"{far[0]:.4g} ms: no machine's speed changes so much",
                hint=ANEW,
            )


def _reference_of(result: KitResult) -> ReferenceTime:
    low, high = result.reference_ms_interval
    return ReferenceTime(result.reference_ms, (low, high))


def _check_complete(path: Path, result: KitResult) -> None:
    wanted = [name for group in result.kit.groups for name in group]
    missing = [name for name in wanted if name not in result.readings]
    if missing:
        raise InputError(
            f"{path} must hold {len(wanted)} networks of its kit, but {len(missing)} are missing ({missing[0]})",
            hint=f"run {MAIN_FILE} again",
        )
    visits = result.kit.visits
    for name in wanted:
        if (came := len(result.readings[name])) != visits:
            raise InputError(f"{path} must hold {visits} visits of network {name}, got {came}", hint="measure again")


def import_result(result: KitResult, *, space: str | None = None) -> LatencyModel:
    """The latency model of the device that a kit was run on.

    Where that is this very device, the reference latency that is stored for it holds for the kit too; what the kit
    found is stored where none is.

    Args:
        space: the file of a person's own space, which no kit carries.
    Raises:
        InputError: if the space is another one now than when the kit was made, the kit is of no networks, or what was
            measured makes no model.
    """
    kit, task = result.kit, Task(**result.kit.task.model_dump())
    # What was carried here names no file of this machine to be run.
    if space is None and (kit.space_sha256 is not None or SpaceFile.is_meant_by(kit.space)):
        raise InputError(f"the kit is of {kit.space}, a space of your own", hint="give it: --space FILE.py:CLASS")
    opened = get_space(space or kit.space, task)
    if opened.name != kit.space:
        raise InputError(f"--space must be {kit.space}, which the kit is of, got {opened.name}")
    calibration = np.stack([opened.row(opened.parse(text)) for text in kit.calibration])
    plan = plan_latency_model(opened, task, calibration)
    names = dict.fromkeys(name for group in plan.groups for name in map(network_name, group))
    unknown = [name for name in names if name not in result.readings]
    if unknown:
        raise InputError(
            f"the networks of {kit.space} must be those that the kit was made with, but {len(unknown)} are others now",
            hint=f"make a new kit; this one is by {kit.made_by}",
        )
    device = Device(**result.device.model_dump())
    readings = {name: [Reading(**each.model_dump()) for each in result.readings[name]] for name in names}
    visits = [{name: made[number] for name, made in readings.items()} for number in range(kit.visits)]

    def fitted(reference_ms: float) -> LatencyModel:
        return fit_latency_model(opened, plan, device, reference_ms, PlanTimes.of(visits, reference_ms))

    model = fitted(result.reference_ms)
    try:
        check_estimates(model, opened)
    except ValueError as error:
        raise InputError(f"what the kit measured makes no latency model: {error}", hint=ANEW) from None
    if device == Device.here(threads=device.threads, provider=device.provider):  # what was refused is not kept
        reference_ms = keep_reference(task, device, _reference_of(result))
        return model if reference_ms == model.reference_ms else fitted(reference_ms)
    return model


def _check_kind(path: Path, stored: Mapping[str, Any], kind: str) -> None:
    came = stored.get("format"), stored.get("version")
    if came[0] != kind:
        raise InputError(f"{path} must be a {kind}, as {MAIN_FILE} of a kit writes it", hint="see hwnas device kit")
    if came[1] != VERSION:
        raise InputError(
            f"{path} must be of version {VERSION} of the kit, but it is of version {came[1]}",
            hint="make a kit with this hwnas, or import it with the hwnas that made it",
        )


def _validated(path: Path, kind: type[T], stored: Mapping[str, Any]) -> T:
    try:
        return kind.model_validate(stored)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}, {place}: {first['msg'].lower()}, got {first['input']!r}"[:300]) from None
