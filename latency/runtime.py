"""The ONNX Runtime measuring protocol.

Networks run in rounds, each once a round in random order, with the caches flushed before every run. The time of a
run is the calling thread's CPU time, so being preempted does not count; a network's time is the lower quartile
over rounds, divided by the same of a reference network of the same rounds, so that drift of the clock cancels; the
ratio is then multiplied by the reference's own milliseconds, which are stored with the device.

A few rounds make a visit: for each visit every network is loaded anew. Where its weights and maps happen to lie in
memory moves a small network's time by some percent, as much as another process does, and no number of runs of one
loaded network averages that out; visits do, and their scatter gives the interval.
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
from scipy import stats

FLUSH_BYTES = 64 * 2**20
QUANTILE = 0.25
ROUNDS_A_VISIT = 8
LEAST_VISITS = 3
WARM_RUNS = 4
# Half of a 95 % interval, for what visits of one process share; see benchmarks/latency_repeat.py.
BETWEEN_PROCESSES = 0.01


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one network takes for one image on a device.

    Attributes:
        latency_ms: caches flushed before every run, by the protocol of this module.
        latency_ms_interval: 95 %, over visits and between processes.
        warm_ms: the same quartile of runs that follow each other at once.
        wall_p50_ms, wall_p90_ms: wall clock of the flushed runs, disturbances of the machine included.
        rounds: how often it ran, flushed.
        reference_ms, reference_now_ms: of the reference network, as stored and as found in the same rounds. The
            interval is that of the ratio to it: where the two differ, the machine as a whole is slower or faster than
            when the reference was stored, by so much.
    """

    latency_ms: float
    latency_ms_interval: tuple[float, float]
    warm_ms: float
    wall_p50_ms: float
    wall_p90_ms: float
    rounds: int
    reference_ms: float
    reference_now_ms: float


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
        warm: (networks, visits, warm runs) of CPU time, or an empty last axis where none were asked for.
    """

    cpu: NDArray[np.float64]
    wall: NDArray[np.float64]
    warm: NDArray[np.float64]

    def log_ratios(self) -> NDArray[np.float64]:
        """(networks - 1, visits): logarithm of each network's time over that of the first, one for each visit."""
        quartiles = np.log(np.quantile(self.cpu, QUANTILE, axis=2))
        return np.asarray(quartiles[1:] - quartiles[0])


def run_rounds(
    models: Sequence[bytes | Path],
    *,
    visits: int,
    rng: np.random.Generator,
    rounds: int = ROUNDS_A_VISIT,
    warm_runs: int = 0,
    budget_s: float | None = None,
) -> Rounds:
    """Load every network `visits` times, and run it once in each of the visit's rounds, caches flushed.

    With `budget_s`, fewer visits are made where `visits` would take longer, but at least 3.
    """
    started = time.monotonic()
    made: list[tuple[NDArray[np.float64], ...]] = []
    while len(made) < visits:
        made.append(_visit(models, rounds, warm_runs, rng))
        spent_s = time.monotonic() - started
        if budget_s is not None and len(made) >= LEAST_VISITS and spent_s * (len(made) + 1) / len(made) > budget_s:
            break
    return Rounds(*(np.stack(times, axis=1) for times in zip(*made, strict=True)))


def _visit(
    models: Sequence[bytes | Path], rounds: int, warm_runs: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], ...]:
    """cpu, wall and warm times of networks loaded for this visit, each (networks, runs)."""
    sessions = [open_session(model) for model in models]
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
        [_time(session, feed)[0] for _ in range(warm_runs + 1)][1:]
        for session, feed in zip(sessions, feeds, strict=True)
        if warm_runs
    ]
    return cpu, wall, np.array(warm).reshape(len(models), -1)


def measure(
    models: Sequence[bytes | Path],
    reference: bytes,
    reference_ms: float,
    *,
    visits: int,
    rng: np.random.Generator,
    budget_s: float | None = None,
) -> list[Timing]:
    """Measure networks beside the reference network, whose latency on this device is `reference_ms`.

    Args:
        visits: how often each network is loaded, at least 3.
    """
    if visits < LEAST_VISITS:
        raise ValueError(f"an interval needs at least {LEAST_VISITS} visits, got {visits}")
    raw = run_rounds([reference, *models], visits=visits, rng=rng, warm_runs=WARM_RUNS, budget_s=budget_s)
    ratios = raw.log_ratios()
    made = ratios.shape[1]
    error = stats.t.ppf(0.975, made - 1) * ratios.std(axis=1, ddof=1) / np.sqrt(made)
    half = np.hypot(error, BETWEEN_PROCESSES)
    latency_ms = reference_ms * np.exp(ratios.mean(axis=1))
    reference_quartiles = np.quantile(raw.cpu[0], QUANTILE, axis=1)
    warm_ms = reference_ms * np.median(np.quantile(raw.warm[1:], QUANTILE, axis=2) / reference_quartiles, axis=1)
    wall_p50_ms, wall_p90_ms = np.quantile(raw.wall[1:], (0.5, 0.9), axis=(1, 2))
    return [
        Timing(
            latency_ms=float(latency_ms[i]),
            latency_ms_interval=(float(latency_ms[i] * np.exp(-half[i])), float(latency_ms[i] * np.exp(half[i]))),
            warm_ms=float(warm_ms[i]),
            wall_p50_ms=float(wall_p50_ms[i]),
            wall_p90_ms=float(wall_p90_ms[i]),
            rounds=raw.cpu[0].size,
            reference_ms=reference_ms,
            reference_now_ms=float(np.exp(np.log(reference_quartiles).mean())),
        )
        for i in range(len(models))
    ]


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
