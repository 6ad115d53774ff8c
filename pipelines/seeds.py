"""Work of many seeds: what is asked for, where it is done, and which results belong together."""

from __future__ import annotations

import concurrent.futures as cf
import dataclasses
import hashlib
import importlib.metadata
import inspect
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import hwnas
import latency
import spaces
from hwnas.evaluation import TabularBenchmark
from hwnas.execution import WorkerPool, use_one_thread
from latency.files import read_json
from spaces import InputError

PIPELINES = (
    "benchmark.py",
    "levels.py",
    "plan.py",
    "predictor_quality.py",
    "seeds.py",
    "strategies.py",
)  # that make results

LIBRARIES = ("moocore", "numpy", "optuna", "pymoo", "scikit-learn", "scipy", "torch")  # that make results too

Task = TypeVar("Task")
Result = TypeVar("Result")


def check_asked(kind: str, names: Sequence[str], known: Collection[str], seeds: Sequence[int]) -> None:
    """Make sure that there are seeds, and strategies or predictors (the `kind`) of all these names.

    Raises:
        InputError: if not.
    """
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(f"there is no {kind} {', '.join(unknown) or 'named'}", hint=f"there are {', '.join(known)}")
    if not seeds:
        raise InputError("a comparison needs at least one seed")


def done(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, Result]]:
    """Each task with its result as it is done; here or in worker processes, always in one thread each."""
    if workers == 1 or len(tasks) < 2:
        use_one_thread()
        yield from ((task, work(task)) for task in tasks)
        return
    with WorkerPool(min(workers, len(tasks))) as pool:
        try:
            futures = {pool.submit(work, task): task for task in tasks}
            yield from ((futures[each], each.result()) for each in cf.as_completed(futures))
        except BaseException:
            pool.stop()
            raise


def origin(benchmark: TabularBenchmark) -> dict[str, str]:
    """What results come from besides settings.

    Returns:
        {"table": digest of the table and of what is asked of it, "code": digest of the code that makes results,
        "hwnas": version, "libraries": their versions}. Where the files lie is no part of it.
    """
    table = benchmark.table
    asked = (
        benchmark.space.name,
        benchmark.task,
        benchmark.questions,
        sorted(benchmark.costs.items()),
        benchmark.accuracy_floor,
    )
    digest = hashlib.sha256(np.ascontiguousarray(table.rows, dtype="<i8").tobytes())
    digest.update(repr(asked).encode())
    for name in sorted(table.names):
        values = table.read(name, np.arange(len(table.rows)))
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(values, dtype="<f8").tobytes())
    code = hashlib.sha256(code_digest().encode())
    code.update(Path(inspect.getfile(type(benchmark.space))).read_bytes())  # which may be a person's own file
    return {
        "table": digest.hexdigest(),
        "code": code.hexdigest(),
        "hwnas": importlib.metadata.version("hwnas"),
        "libraries": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES),
    }


@cache
def code_digest() -> str:
    """Of the Python files of spaces, latency and hwnas, and of `PIPELINES`: as they were when first asked."""
    here = Path(__file__).parent
    files = [here / name for name in PIPELINES]
    for package in (spaces, latency, hwnas):
        files += sorted(Path(inspect.getfile(package)).parent.rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        text = file.read_bytes()
        digest.update(f"{file.relative_to(here.parent)}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()


def differing(stored: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """In which of its entries `own` differs from what is stored; of `origin`, in which parts."""
    found = [name for name in own if name != "origin" and (name not in stored or stored[name] != own[name])]
    theirs = stored.get("origin", {})
    return found + [f"origin: {name}" for name, each in own["origin"].items() if theirs.get(name) != each]


def what_to_do(differ: Collection[str]) -> str:
    """A hint for a folder that `differing` says is of another origin."""
    if set(differ) <= {"origin: code", "origin: hwnas", "origin: libraries"}:
        return (
            "the code or a library has changed since, and results of two versions are not mixed: give another --out, "
            "or go on with the versions that began it"
        )
    return "give another --out"


def recorded(file: Path, of: Mapping[str, Any]) -> dict[str, Any]:
    """What `record` wrote; nothing where the file is not there.

    Raises:
        InputError: if it is of another table, code or setting, or does not say of which.
    """
    if not file.exists():
        return {}
    stored = read_json(file)
    if differ := differing(stored.get("of", {}), of):
        raise InputError(
            f"{file.parents[1]} holds other fits, see {file}: they differ in, or do not say, {', '.join(differ)}",
            hint=what_to_do(differ),
        )
    return stored


def record(file: Path, of: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Write a result with what it is of, in one go: a break leaves the whole file or none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps({"of": of, **found}))
    part.replace(file)


def settings_of(value: object) -> Any:
    """The settings of a strategy or predictor that has not begun, with those of its parts, as JSON can hold them."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [settings_of(each) for each in value]
    fields = (
        {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if dataclasses.is_dataclass(value)
        else {name: each for name, each in vars(value).items() if not name.startswith("_")}
    )
    return {"class": type(value).__name__, **{name: settings_of(each) for name, each in fields.items()}}
