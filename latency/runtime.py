"""The ONNX Runtime measuring protocol.

Each network runs beside a reference network, in the rounds and visits of `latency/rounds.py`. The time of a run is the
calling thread's CPU time, so being preempted does not count (wall clock where several threads or another processor
do the work); a network's time is the lower quartile over the undisturbed rounds of a visit, divided by the same of the
reference, so that drift of the clock cancels; the ratio is then multiplied by the reference's own milliseconds, which
are stored with the device. The scatter of visits gives the interval, and visits are added until it is narrow enough.

Like `latency/rounds.py` this file is part of every kit, and needs nothing but numpy and ONNX Runtime.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rounds import DEFAULT_SETTING, LEAST_VISITS, QUANTILE, Rounds, Setting, in_new_process, run_rounds

WARM_RUNS = 4
# Half of a 95 % interval, for what visits of one process share; see benchmarks/latency_repeat.py.
BETWEEN_PROCESSES = 0.015
PRECISION = 0.0125
FIRST_VISITS, MOST_VISITS = 6, 24
UNSTEADY = 0.1  # half of an interval from which on a number is none
NOTABLE_DRIFT = 0.1  # of the reference network between the time it was stored and now
VAGUE_REFERENCE = 0.1  # half of the interval of a stored reference latency
REFERENCE_PROCESSES, REFERENCE_VISITS, REFERENCE_ROUNDS = 6, 3, 12
# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom.
STUDENT_T = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788),
    *(2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687),
)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one network takes on a device, for one image or one batch of them.

    Attributes:
        latency_ms: caches flushed before every run, by the protocol of this module.
        latency_ms_interval: 95 %, over visits and between processes.
        warm_ms: the same quartile of runs that follow each other at once.
        wall_p50_ms, wall_p90_ms: wall clock of all flushed runs, disturbances of the machine included.
        rounds: how often it ran, flushed.
        dropped: share of these runs that do not count, because the reference was slow in the same round or another
            process had the core.
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
    dropped: float
    reference_ms: float
    reference_now_ms: float

    def record(self) -> dict[str, Any]:
        """As stored with a network, by the names of the quantities."""
        return {
            "latency_ms": self.latency_ms,
            "latency_ms_interval": list(self.latency_ms_interval),
            "latency_steady": self.steady,
            "latency_warm_ms": self.warm_ms,
            "latency_wall_p50_ms": self.wall_p50_ms,
            "latency_wall_p90_ms": self.wall_p90_ms,
            "rounds": self.rounds,
            "dropped": self.dropped,
            "reference_ms": self.reference_ms,
            "reference_now_ms": self.reference_now_ms,
        }

    @property
    def steady(self) -> bool:
        """Whether `latency_ms` is a measurement: on a machine too disturbed the interval is wide, and it is none."""
        return self.latency_ms_interval[1] <= self.latency_ms * math.exp(UNSTEADY)


def drift_remark(reference_ms: float, reference_now_ms: float) -> str:
    """What a person should know of a machine that is not as it was when its reference latency was stored, or ""."""
    drift = reference_now_ms / reference_ms - 1
    if abs(drift) <= NOTABLE_DRIFT:
        return ""
    return (
        f"this machine now runs {abs(drift):.0%} {'slower' if drift > 0 else 'faster'} than when its reference "
        "latency was stored; latencies are given as of then"
    )


def vague_remark(reference_ms: float, interval: Sequence[float] | None) -> str:
    """What a person should know of a reference latency that was stored on a disturbed machine, or "".

    Ratios to the reference, and which of two networks is faster, do not depend on it; milliseconds do.
    """
    if interval is None:
        return ""
    half = max(interval[1] / reference_ms, reference_ms / interval[0]) - 1
    if half <= VAGUE_REFERENCE:
        return ""
    return (
        f"the reference latency of this machine was stored while it was disturbed, and is known within {half:.0%} "
        "only: so are the milliseconds of all latencies here"
    )


@dataclass(frozen=True, slots=True)
class ReferenceTime:
    """The reference network's own latency on a device.

    Attributes:
        ms: the median over processes.
        interval: 95 % at least, of what the median over many processes would be: the least and the greatest of six hold
            a median with 1 - 2/2^6 = 97 %, however they are distributed.
    """

    ms: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, processes_ms: Sequence[float]) -> ReferenceTime:
        """From what each process found."""
        return cls(float(np.median(processes_ms)), (float(min(processes_ms)), float(max(processes_ms))))


def measure(
    models: Sequence[bytes | Path],
    reference: bytes,
    reference_ms: float,
    *,
    rng: np.random.Generator,
    visits: int = MOST_VISITS,
    precision: float = PRECISION,
    budget_s: float | None = None,
    setting: Setting = DEFAULT_SETTING,
) -> list[Timing]:
    """Measure networks, each beside the reference network alone, whose latency on this device is `reference_ms`.

    Together in one round, small networks would be faster: they depend on what else is loaded.

    Args:
        visits: how often each network is loaded at most, at least 3.
        precision: of the interval over visits; from the sixth visit on, none is added once half of it is narrower.
        budget_s: for all of them, shared equally; each is loaded at least 3 times.
    Raises:
        DisturbedError: if the machine's speed changes too much to measure anything.
        ProviderError: if ONNX Runtime would run them elsewhere than asked.
    """
    if visits < LEAST_VISITS:
        raise ValueError(f"an interval needs at least {LEAST_VISITS} visits, got {visits}")

    def enough(raw: Rounds) -> bool:
        return raw.cpu.shape[1] >= FIRST_VISITS and _error(raw.log_ratios()[0]) <= precision

    share = None if budget_s is None else budget_s / len(models)
    return [
        _timing(
            run_rounds(
                [reference, model],
                visits=visits,
                rng=rng,
                warm_runs=WARM_RUNS,
                budget_s=share,
                setting=setting,
                enough=enough,
            ),
            reference_ms,
        )
        for model in models
    ]


def measure_reference(
    reference: bytes, rng: np.random.Generator, *, setting: Setting = DEFAULT_SETTING
) -> ReferenceTime:
    """The reference network's own latency, caches flushed, with nothing to take a ratio to.

    Found in several processes: one alone may be 3 to 9 % off, whatever it does.
    """
    drawn = rng.spawn(REFERENCE_PROCESSES)
    return ReferenceTime.of([in_new_process(reference_once, reference, each, setting) for each in drawn])


def reference_once(reference: bytes, rng: np.random.Generator, setting: Setting) -> float:
    """In ms, by this process: the lower quartile of its visits, since other work can only make a visit slower."""
    raw = run_rounds([reference], visits=REFERENCE_VISITS, rounds=REFERENCE_ROUNDS, rng=rng, setting=setting)
    return float(np.quantile(raw.quartiles_ms()[0], QUANTILE))


def _error(log_ratios: NDArray[np.float64]) -> float:
    """Half of the 95 % interval of the mean over visits: Student's t."""
    n = len(log_ratios)
    quantile = STUDENT_T[min(n - 1, len(STUDENT_T)) - 1]
    return float(quantile * log_ratios.std(ddof=1) / np.sqrt(n))


def _timing(raw: Rounds, reference_ms: float) -> Timing:
    """Of the second network of the rounds; the first is the reference."""
    ratios = raw.log_ratios()[0]
    latency_ms = reference_ms * np.exp(ratios.mean())
    half = np.hypot(_error(ratios), BETWEEN_PROCESSES)
    now_ms = raw.quartiles_ms()[0]
    wall_p50_ms, wall_p90_ms = np.quantile(raw.wall[1], (0.5, 0.9))
    return Timing(
        latency_ms=float(latency_ms),
        latency_ms_interval=(float(latency_ms * np.exp(-half)), float(latency_ms * np.exp(half))),
        warm_ms=float(reference_ms * np.median(np.quantile(raw.warm[1], QUANTILE, axis=1) / now_ms)),
        wall_p50_ms=float(wall_p50_ms),
        wall_p90_ms=float(wall_p90_ms),
        rounds=raw.cpu[0].size,
        dropped=float(1 - raw.kept()[1].mean()),
        reference_ms=reference_ms,
        reference_now_ms=float(np.quantile(now_ms, QUANTILE)),  # as the stored one is found
    )
