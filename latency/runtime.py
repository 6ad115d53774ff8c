"""The ONNX Runtime measuring protocol.

Each network runs beside a reference network, in the rounds and visits of `latency/rounds.py`. The time of a run is the
calling thread's CPU time, so being preempted does not count (wall clock where several threads or another processor
do the work). It is divided by the reference's in the same round, so that the machine's speed of that moment cancels,
and the middle of these ratios is taken over the undisturbed rounds of a visit; what else the speed makes of the ratio
is taken off by `latency/drift.py`. The ratio is then multiplied by the reference's own milliseconds, which are stored
with the device.

A process is about a percent faster or slower than the next one, whatever it runs. So each network is measured in
several, and their scatter gives the interval, of whatever size it is. From that of the first ones, and from how far the
machine is from its stored speed, it is decided, once, how many more there are to be; adding them one by one until the
interval looks narrow would make it hold less often than it says. Processes that follow each other at once are a little
too much alike: what another time makes of a network, and a machine in another state, is added (`between_measurements`),
as squares add.

Source: Stein, A two-sample test for a linear hypothesis whose power is independent of the variance, Annals of
Mathematical Statistics 16, 1945.

Like `latency/rounds.py` this file is part of every kit, and needs nothing but numpy and ONNX Runtime.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .drift import NORMAL, WARM_RUNS, AtStoredSpeed, at_stored_speed, between_measurements, readings_of
from .rounds import DEFAULT_SETTING, QUANTILE, DisturbedError, Rounds, Setting, new_processes, run_rounds

PRECISION = 0.015
FIRST_PROCESSES, MOST_PROCESSES, LEAST_PROCESSES = 10, 24, 3
VISITS = 2  # of each process
OPEN_SPEED = 0.04  # half of what the machine's speed leaves open from which on as many processes are made as may be
UNSTEADY = 0.1  # half of an interval from which on a number is none
VAGUE_REFERENCE = 0.1  # half of the interval of a stored reference latency
REFERENCE_PROCESSES, REFERENCE_VISITS, REFERENCE_ROUNDS = 6, 3, 12
REFERENCE_PAUSES_S = (0.0, 4.0, 16.0)  # before each try, until one is no longer vague
# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom
STUDENT_T = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788),
    *(2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687),
)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one network takes on a device, for one image or one batch of them.

    Attributes:
        latency_ms: caches flushed before every run, by the protocol of this module.
        latency_ms_interval: 95 %, of what the mean of many processes would be, at this time or another.
        half_between_measurements: half of it, of the logarithm, if all processes had found the same: what another time
            and another state of the machine leave open.
        warm_ms: of runs that follow each other at once.
        wall_p50_ms, wall_p90_ms: wall clock of all flushed runs, disturbances of the machine included.
        processes: in how many it was measured.
        rounds: how often it ran, flushed.
        dropped: share of these runs that do not count, because the machine was slow in that round or another process
            had the core.
        reference_ms, reference_now_ms: of the reference network, as stored and as found in the same rounds. The
            interval is that of the ratio to it: where the two differ, the machine as a whole is slower or faster than
            when the reference was stored, by so much.
    """

    latency_ms: float
    latency_ms_interval: tuple[float, float]
    half_between_measurements: float
    warm_ms: float
    wall_p50_ms: float
    wall_p90_ms: float
    processes: int
    rounds: int
    dropped: float
    reference_ms: float
    reference_now_ms: float

    def record(self) -> dict[str, Any]:
        """As stored with a network, by the names of the quantities."""
        return {
            "latency_ms": self.latency_ms,
            "latency_ms_interval": list(self.latency_ms_interval),
            "half_between_measurements": self.half_between_measurements,
            "latency_steady": self.steady,
            "latency_warm_ms": self.warm_ms,
            "latency_wall_p50_ms": self.wall_p50_ms,
            "latency_wall_p90_ms": self.wall_p90_ms,
            "processes": self.processes,
            "rounds": self.rounds,
            "dropped": self.dropped,
            "reference_ms": self.reference_ms,
            "reference_now_ms": self.reference_now_ms,
        }

    @property
    def steady(self) -> bool:
        """Whether `latency_ms` is a measurement: on a machine too disturbed the interval is wide, and it is none."""
        return self.latency_ms_interval[1] <= self.latency_ms * math.exp(UNSTEADY)


def vague_remark(reference_ms: float, interval: Sequence[float] | None, *, helps: str = "") -> str:
    """What a person should know of a reference latency that was stored on a disturbed machine, or "".

    Ratios to the reference, and which of two networks is faster, do not depend on it; milliseconds do.

    Args:
        helps: what to do when less runs beside it.
    """
    if interval is None:
        return ""
    half = ReferenceTime(reference_ms, (interval[0], interval[1])).vagueness
    if half <= VAGUE_REFERENCE:
        return ""
    said = (
        f"the reference latency was stored while its machine was disturbed, and is known within {half:.0%} only: so "
        "are the milliseconds of all latencies here"
    )
    return f"{said}; when less runs beside it, {helps}" if helps else said


@dataclass(frozen=True, slots=True)
class ReferenceTime:
    """The reference network's own latency on a device.

    Attributes:
        ms: the median over processes.
        interval: 95 %, of what the median over many processes would be: the least and the greatest of six hold a median
            with 1 - 2/2^6 = 97 %, however they are distributed; where the least vague of three tries was taken, with
            93 to 96 %.
    """

    ms: float
    interval: tuple[float, float]

    def __post_init__(self) -> None:
        if not 0 < self.interval[0] <= self.ms <= self.interval[1] < math.inf:
            low, high = self.interval
            raise ValueError(
                f"a reference latency must be above 0 ms and in its interval, got {self.ms}, {low} to {high}"
            )

    @classmethod
    def of(cls, processes_ms: Sequence[float]) -> ReferenceTime:
        """From what each process found."""
        return cls(float(np.median(processes_ms)), (float(min(processes_ms)), float(max(processes_ms))))

    @property
    def vagueness(self) -> float:
        """The longer part of the interval, as a share of the latency."""
        return max(self.interval[1] / self.ms, self.ms / self.interval[0]) - 1


def measure(
    models: Sequence[bytes | Path],
    reference: bytes,
    reference_ms: float,
    *,
    rng: np.random.Generator,
    processes: int = FIRST_PROCESSES,
    most_processes: int = MOST_PROCESSES,
    visits: int = VISITS,
    precision: float = PRECISION,
    setting: Setting = DEFAULT_SETTING,
) -> list[Timing]:
    """Measure networks, each beside the reference network alone, whose latency on this device is `reference_ms`.

    Together in one round, small networks would be faster: they depend on what else is loaded, and on what a process
    has run before. Several networks take turns, each time in another order, so that a machine that drifts is the same
    for all. Since processes are started, a script that calls this needs `if __name__ == "__main__":`.

    Args:
        processes, most_processes: how many measure each network at first, at least 3, and at most, where their scatter
            asks for more or the machine's speed leaves much open: another speed soon after shows what it makes of a
            network.
        visits: of each network in each process.
        precision: half of the interval that the scatter of the processes is to leave, as a share of the latency.
            `between_measurements` comes on top, which no number of processes makes smaller.
    Raises:
        DisturbedError: if the machine's speed changes too much to measure anything.
        ProviderError: if ONNX Runtime would run them elsewhere than asked.
    """
    if not LEAST_PROCESSES <= processes <= most_processes <= MOST_PROCESSES:
        raise ValueError(
            f"an interval needs {LEAST_PROCESSES} to {MOST_PROCESSES} processes, got {processes} to {most_processes}"
        )
    found: list[list[Rounds]] = [[] for _ in models]

    with new_processes() as run:

        def measure_once(which: Sequence[int]) -> None:
            for i in rng.permutation(which):
                found[i].append(run(measured_once, models[i], reference, visits, *rng.spawn(1), setting))

        for _ in range(processes):
            measure_once(range(len(models)))
        there = [_at_stored_speed(raw, reference_ms) for raw in found]
        wanted = [_processes_wanted(each, processes, precision, most_processes) for each in there]
        for number in range(processes, max(wanted, default=0)):
            measure_once([i for i, n in enumerate(wanted) if n > number])
    return [_timing(raw, processes, reference_ms) for raw in found]


def measured_once(
    model: bytes | Path, reference: bytes, visits: int, rng: np.random.Generator, setting: Setting
) -> Rounds:
    """A network beside the reference, by this process."""
    return run_rounds([reference, model], visits=visits, rng=rng, warm_runs=WARM_RUNS, setting=setting)


def _processes_wanted(there: AtStoredSpeed, first: int, precision: float, most: int) -> int:
    if NORMAL * there.slope_deviation * abs(there.drift) > OPEN_SPEED:
        return most
    return processes_for(_process_means(there, first), precision, most)


def processes_for(means: NDArray[np.float64], precision: float, most: int) -> int:
    """How many processes make half of the interval as narrow as `precision`, as far as the first ones tell."""
    needed = len(means) * (half_interval(means, len(means)) / precision) ** 2
    return int(min(max(math.ceil(needed), len(means)), most))


def half_interval(means: NDArray[np.float64], first: int) -> float:
    """Half of the 95 % interval of the mean over processes, of whose `first` ones the scatter decided how many follow.

    With the scatter of these alone, and Student's t for as many, it holds as often as it says, however many follow.
    Where the later ones scatter more, the machine has changed, and they count too.
    """
    ends = {first, len(means)}
    return max(float(STUDENT_T[n - 2] * means[:n].std(ddof=1) / np.sqrt(len(means))) for n in ends)


def measure_reference(
    reference: bytes, rng: np.random.Generator, *, setting: Setting = DEFAULT_SETTING
) -> ReferenceTime:
    """The reference network's own latency, caches flushed, with nothing to take a ratio to.

    Found in several processes: one alone may be 3 to 9 % off, whatever it does. Every latency is in its milliseconds,
    so on a machine that is disturbed just now it is waited, and of a few tries the least vague is taken.
    """
    tries: list[ReferenceTime] = []
    for pause_s in REFERENCE_PAUSES_S:
        time.sleep(pause_s)
        drawn = rng.spawn(REFERENCE_PROCESSES)
        try:
            with new_processes() as run:
                tries.append(ReferenceTime.of([run(reference_once, reference, each, setting) for each in drawn]))
        except DisturbedError:
            if not tries:
                raise
        if tries[-1].vagueness <= VAGUE_REFERENCE:
            break
    return min(tries, key=lambda found: found.vagueness)


def reference_once(reference: bytes, rng: np.random.Generator, setting: Setting) -> float:
    """In ms, by this process: the lower quartile of its visits, since other work can only make a visit slower."""
    raw = run_rounds([reference], visits=REFERENCE_VISITS, rounds=REFERENCE_ROUNDS, rng=rng, setting=setting)
    return float(np.quantile(raw.typical_ms()[0], QUANTILE))


def _at_stored_speed(found: Sequence[Rounds], reference_ms: float) -> AtStoredSpeed:
    """The visits of all processes."""
    readings = [each for raw in found for each in readings_of(raw)[0]]
    return at_stored_speed(readings, reference_ms, processes=len(found))


def _process_means(there: AtStoredSpeed, processes: int) -> NDArray[np.float64]:
    """(processes,) log ratios of a network, each the mean over the visits of one process."""
    return np.asarray(there.log_ratios.reshape(processes, -1).mean(axis=1))


def _timing(found: Sequence[Rounds], first: int, reference_ms: float) -> Timing:
    """Of the second network of the rounds of each process; the first is the reference."""
    there = _at_stored_speed(found, reference_ms)
    means = _process_means(there, len(found))
    between = NORMAL * between_measurements(there.drift, there.slope_deviation)
    latency_ms = reference_ms * np.exp(means.mean())
    now_ms = np.concatenate([raw.typical_ms()[0] for raw in found])
    reference_now_ms = float(np.quantile(now_ms, QUANTILE))  # as the stored one is found
    half = math.hypot(half_interval(means, first), between)
    warm = np.concatenate([np.quantile(raw.warm[1], QUANTILE, axis=1) / raw.typical_ms()[1] for raw in found])
    wall_p50_ms, wall_p90_ms = np.quantile(np.concatenate([raw.wall[1] for raw in found]), (0.5, 0.9))
    return Timing(
        latency_ms=float(latency_ms),
        latency_ms_interval=(float(latency_ms * np.exp(-half)), float(latency_ms * np.exp(half))),
        half_between_measurements=between,
        warm_ms=float(latency_ms * np.median(warm)),  # at the stored speed as well
        wall_p50_ms=float(wall_p50_ms),
        wall_p90_ms=float(wall_p90_ms),
        processes=len(found),
        rounds=sum(raw.cpu[0].size for raw in found),
        dropped=float(1 - np.mean([raw.kept().mean() for raw in found])),
        reference_ms=reference_ms,
        reference_now_ms=reference_now_ms,
    )
