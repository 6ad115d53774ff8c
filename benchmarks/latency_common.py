"""What the benchmarks of latency share: networks that differ widely, processes of their own, a busy machine."""

from __future__ import annotations

import contextlib
import csv
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from hwnas.study import write_csv
from latency import Timing, build_onnx, measure
from latency.device import Device
from latency.reference import reference_model, stored_reference_ms
from spaces import Population, SearchSpace, Task
from spaces.additive import AdditiveSampler, Interval
from spaces.chain import ChainSpace


def wide_sample(space: SearchSpace, task: Task, n: int, rng: np.random.Generator) -> Population:
    """(n, genes) random rows: of a chain from the whole range of multiply-adds, most of which uniform draws miss."""
    if not isinstance(space, ChainSpace):
        return space.sample(n, rng)
    flops = space.fragments(task).additive(lambda network: sum(layer.flops for layer in network))
    return AdditiveSampler(space.allowed, [Interval(flops)]).sample(n, rng, spread=True)


def described(device: Device) -> str:
    """For people, and the fingerprint, which tells the measuring protocol too."""
    return f"{device}, fingerprint {device.fingerprint}"


def reference_ms(task: Task) -> float:
    """What is stored of this device."""
    return stored_reference_ms(task, Device.here(), np.random.default_rng(0))


def measure_rows(
    space: SearchSpace, task: Task, rows: Population, known_ms: float, seed: int, *, alone: bool
) -> list[Timing]:
    """Each network with random weights, in processes of its own.

    Args:
        known_ms: what the reference takes.
        alone: one after another, as a file is measured that is handed over; by turns as the candidates of a search.
    """
    rng = np.random.default_rng([1, seed])
    reference = reference_model(task)
    models = [build_onnx(space.layers(space.arch(row), task), rng, normalise=True) for row in rows]
    together = [[model] for model in models] if alone else [models]
    return [timing for some in together for timing in measure(some, reference, known_ms, rng=rng)]


def write_some(path: Path, rows: Sequence[Mapping[str, object]], *, by: Sequence[str]) -> None:
    """Write rows in the place of those that are equal in the columns `by`; all others stay as they are."""
    kept: list[Mapping[str, object]] = []
    if path.exists():
        ours = {tuple(str(row[name]) for name in by) for row in rows}
        with path.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if tuple(row.get(name, "") for name in by) not in ours]
    path.parent.mkdir(exist_ok=True)
    write_csv(path, [dict(row) for row in (*kept, *rows)])


# Each is told the process that starts it, and ends with it, in whatever way that ends (but on Windows).
COMPUTE = """
import os, sys
while str(os.getppid()) == sys.argv[1]:
    for _ in range(10_000_000):
        pass
"""
OCCUPY_MEMORY = """
import os, sys
import numpy as np
a, b = np.zeros((2, 40_000_000))
while str(os.getppid()) == sys.argv[1]:
    np.add(a, 1.0, out=b)
"""


@contextlib.contextmanager
def busy(processes: int, work: str = COMPUTE) -> Iterator[None]:
    """Other processes that never rest, while the block runs."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", work, str(os.getpid())]
    running = [subprocess.Popen(command, env=one_thread) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
