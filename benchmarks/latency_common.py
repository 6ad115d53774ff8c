"""What the benchmarks of latency share: networks that differ widely, processes of their own, a busy machine."""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

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


def in_new_process(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `fn` returns when nothing else has run in its process."""
    with cf.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(fn, *args, **kwargs).result()


def measure_rows(space: SearchSpace, task: Task, rows: Population, seed: int) -> list[Timing]:
    """Each network beside the reference alone, with random weights."""
    rng = np.random.default_rng([1, seed])
    models = [build_onnx(space.layers(space.arch(row), task), rng, normalise=True) for row in rows]
    return measure(models, reference_model(task), stored_reference_ms(task, Device.here(), rng), rng=rng)


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other processes that never rest, while the block runs."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
