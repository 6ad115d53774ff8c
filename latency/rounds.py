"""Running networks in rounds: the raw times behind every latency.

This file stands alone (numpy, ONNX Runtime and the standard library), since a kit carries it to machines where nothing
else of this project is.

Networks run in rounds, each once a round in random order, with the caches flushed before every run. A few rounds make a
visit: for each visit every network is loaded anew. Where its weights and maps happen to lie in memory moves a small
network's time by some percent, as much as another process does, and no number of runs of one loaded network averages
that out; visits do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

FLUSH_BYTES = 64 * 2**20
QUANTILE = 0.25
ROUNDS_A_VISIT = 8
LEAST_VISITS = 3


def open_session(model: bytes | Path, *, threads: int = 1) -> Any:
    """An ONNX Runtime session as the protocol defines it: CPU provider, all optimisations, `threads` threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Rounds:
    """Raw times of several networks in the same rounds, in ms.

    Attributes:
        cpu, wall: (networks, visits, rounds a visit), caches flushed before each run.
        warm: (networks, visits, warm runs) as `times`, or an empty last axis where none were asked for.
        threads: of each run.
    """

    cpu: NDArray[np.float64]
    wall: NDArray[np.float64]
    warm: NDArray[np.float64]
    threads: int = 1

    @property
    def times(self) -> NDArray[np.float64]:
        """What latencies are made of: CPU time of the calling thread, or wall clock where that is not the only one."""
        return self.cpu if self.threads == 1 else self.wall

    def log_ratios(self) -> NDArray[np.float64]:
        """(networks - 1, visits): logarithm of each network's time over that of the first, one for each visit."""
        quartiles = np.log(np.quantile(self.times, QUANTILE, axis=2))
        return np.asarray(quartiles[1:] - quartiles[0])


def run_rounds(
    models: Sequence[bytes | Path],
    *,
    visits: int,
    rng: np.random.Generator,
    rounds: int = ROUNDS_A_VISIT,
    warm_runs: int = 0,
    budget_s: float | None = None,
    threads: int = 1,
) -> Rounds:
    """Load every network `visits` times, and run it once in each of the visit's rounds, caches flushed.

    With `budget_s`, fewer visits are made where `visits` would take longer, but at least 3.
    """
    started = time.monotonic()
    made: list[tuple[NDArray[np.float64], ...]] = []
    while len(made) < visits:
        made.append(_visit(models, rounds, warm_runs, rng, threads))
        spent_s = time.monotonic() - started
        if budget_s is not None and len(made) >= LEAST_VISITS and spent_s * (len(made) + 1) / len(made) > budget_s:
            break
    cpu, wall, warm = (np.stack(times, axis=1) for times in zip(*made, strict=True))
    return Rounds(cpu, wall, warm, threads)


def _visit(
    models: Sequence[bytes | Path], rounds: int, warm_runs: int, rng: np.random.Generator, threads: int
) -> tuple[NDArray[np.float64], ...]:
    """cpu, wall and warm times of networks loaded for this visit, each (networks, runs)."""
    sessions = [open_session(model, threads=threads) for model in models]
    feeds = [_feed(session, rng) for session in sessions]
    for session, feed in zip(sessions, feeds, strict=True):
        _warm_up(session, feed)
    flush = np.zeros(FLUSH_BYTES // 8)
    cpu, wall = np.empty((2, len(models), rounds))
    for r in range(rounds):
        for i in rng.permutation(len(models)):
            np.add(flush, 1.0, out=flush)
            cpu[i, r], wall[i, r] = _time(sessions[i], feeds[i])
    # After the flushed rounds: in between, they would leave the caches of the next run in another state.
    warm = [
        [_time(session, feed)[threads > 1] for _ in range(warm_runs + 1)][1:]
        for session, feed in zip(sessions, feeds, strict=True)
        if warm_runs
    ]
    return cpu, wall, np.array(warm).reshape(len(models), -1)


def _feed(session: Any, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    feed = {}
    for spec in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in spec.shape]
        feed[spec.name] = rng.random(shape, dtype=np.float32)
    return feed


def _warm_up(session: Any, feed: dict[str, NDArray[np.float32]]) -> None:
    """The first runs allocate memory lazily."""
    for _ in range(3):
        session.run(None, feed)


def _time(session: Any, feed: dict[str, NDArray[np.float32]]) -> tuple[float, float]:
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    session.run(None, feed)
    return (time.thread_time_ns() - cpu) / 1e6, (time.perf_counter_ns() - wall) / 1e6
