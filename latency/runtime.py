"""The ONNX Runtime measuring protocol.

Networks run in the rounds and visits of `latency/rounds.py`. The time of a run is the calling thread's CPU time, so
being preempted does not count; a network's time is the lower quartile over rounds, divided by the same of a reference
network of the same rounds, so that drift of the clock cancels; the ratio is then multiplied by the reference's own
milliseconds, which are stored with the device. The scatter of visits gives the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from .rounds import LEAST_VISITS, QUANTILE, run_rounds

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
