"""The ONNX Runtime measuring protocol.

Networks run in rounds, each once a round in random order, with the caches flushed before every run. The time of a
run is the calling thread's CPU time, so being preempted does not count; a network's time is the lower quartile
over rounds, divided by the same of a reference network of the same rounds, so that drift of the clock cancels; the
ratio is then multiplied by the reference's own milliseconds, which are stored with the device.
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
BOOTSTRAPS = 400
WARM_RUNS = 2
# Two processes that measure the same network differ by more than rounds of one process show (memory layout, the
# state of the machine); see benchmarks/latency_repeat.py.
BETWEEN_PROCESSES = 0.02


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one network takes for one image on a device.

    Attributes:
        latency_ms: caches flushed before every run, by the protocol of this module.
        latency_ms_interval: 95 %, over rounds and between processes.
        warm_ms: the same quartile of runs that follow a run at once.
        wall_p50_ms, wall_p90_ms: wall clock of the flushed runs, disturbances of the machine included.
        rounds: how often it ran.
    """

    latency_ms: float
    latency_ms_interval: tuple[float, float]
    warm_ms: float
    wall_p50_ms: float
    wall_p90_ms: float
    rounds: int


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
    """Raw times of several networks in the same rounds, in ms: each (networks, rounds)."""

    cpu: NDArray[np.float64]
    wall: NDArray[np.float64]
    warm: NDArray[np.float64]


def run_rounds(
    models: Sequence[bytes | Path],
    *,
    rounds: int,
    rng: np.random.Generator,
    warm: bool = True,
    budget_s: float | None = None,
) -> Rounds:
    """Run every network once a round, in random order, caches flushed.

    With `budget_s`, fewer rounds are run where `rounds` would take longer, but at least 5.
    """
    sessions = [open_session(model) for model in models]
    feeds = [_feed(session, rng) for session in sessions]
    for session, feed in zip(sessions, feeds, strict=True):
        _warm_up(session, feed)
    flush = np.zeros(FLUSH_BYTES // 8)
    times = np.full((3, len(models), rounds), np.nan)
    started = time.monotonic()
    done = 0
    for r in range(rounds):
        for i in rng.permutation(len(models)):
            np.add(flush, 1.0, out=flush)
            times[0, i, r], times[1, i, r] = _time(sessions[i], feeds[i])
            if warm:
                times[2, i, r] = min(_time(sessions[i], feeds[i])[0] for _ in range(WARM_RUNS))
        done = r + 1
        if budget_s is not None and done >= 5 and time.monotonic() - started > budget_s * done / (done + 1):
            break
    return Rounds(*times[:, :, :done])


def lower_quartiles(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """(networks, rounds) -> (networks,)."""
    return np.asarray(np.quantile(times, QUANTILE, axis=1))


def measure(
    models: Sequence[bytes | Path],
    reference: bytes,
    reference_ms: float,
    *,
    rounds: int,
    rng: np.random.Generator,
    budget_s: float | None = None,
) -> list[Timing]:
    """Measure networks beside the reference network, whose latency on this device is `reference_ms`."""
    raw = run_rounds([reference, *models], rounds=rounds, rng=rng, budget_s=budget_s)
    scale = reference_ms / lower_quartiles(raw.cpu)[0]
    done = raw.cpu.shape[1]
    draws = rng.integers(0, done, size=(BOOTSTRAPS, done))
    resampled = np.quantile(raw.cpu[:, draws], QUANTILE, axis=2)  # (networks, bootstraps)
    spread = np.std(np.log(resampled[1:] / resampled[0]), axis=1)
    half = 1.96 * np.hypot(spread, BETWEEN_PROCESSES / 1.96)
    timings = []
    for i in range(1, len(models) + 1):
        latency_ms = float(scale * np.quantile(raw.cpu[i], QUANTILE))
        timings.append(
            Timing(
                latency_ms=latency_ms,
                latency_ms_interval=(
                    float(latency_ms * np.exp(-half[i - 1])),
                    float(latency_ms * np.exp(half[i - 1])),
                ),
                warm_ms=float(scale * np.quantile(raw.warm[i], QUANTILE)),
                wall_p50_ms=float(np.quantile(raw.wall[i], 0.5)),
                wall_p90_ms=float(np.quantile(raw.wall[i], 0.9)),
                rounds=done,
            )
        )
    return timings


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
