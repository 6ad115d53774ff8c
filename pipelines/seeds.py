"""Work of many seeds: what is asked for, where it is done, and which results belong together."""

from __future__ import annotations

import concurrent.futures as cf
import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from hwnas.evaluation.table import Table
from hwnas.execution import WorkerPool, use_one_thread
from spaces import InputError

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


def origin(table: Table) -> dict[str, str]:
    """What results come from besides settings: {"table": digest of rows and values, "hwnas": version}."""
    digest = hashlib.sha256(np.ascontiguousarray(table.rows, dtype="<i8").tobytes())
    for name in sorted(table.names):
        values = table.read(name, np.arange(len(table.rows)))
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(values, dtype="<f8").tobytes())
    return {"table": digest.hexdigest(), "hwnas": importlib.metadata.version("hwnas")}


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
