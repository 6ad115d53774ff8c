"""What another speed of the machine makes of a network's ratio to the reference, and how it is taken off.

Work beside it, of this machine or of another that shares its processor, slows a machine down by tens of percent, for
seconds or for hours, and not all networks alike: the logarithm of a network's time over the reference's follows the
logarithm of what the reference takes, along a line whose slope is the network's own. All ratios are given for the speed
at which the reference's latency was stored. Where the visits of one measurement find the machine at several speeds,
they show the slope; beforehand it is expected from what flushed caches cost, since a network that loses more by them
than the reference is slowed down more. Both are weighed by how sure they are: least squares with a normal prior, and
errors in both variables (Fuller, Measurement Error Models, 1987, section 1.2).

Like `latency/rounds.py` this file is part of every kit, and needs nothing but numpy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .rounds import QUANTILE, Rounds

WARM_RUNS = 4  # of each network in a visit
# The slope is expected to be 0.4 times what flushing costs the network more than the reference (of its time, as a share
# of what it costs the reference of its), give or take 0.15. Found of 30 networks of six spaces, with ratios
# of lower quartiles (protocols 5 and 6): 0.43 to 0.50 on an Intel Xeon, 0.2 to 0.47 on an AMD EPYC, where DARTS cells
# and narrow chains cost as much as the reference; with ratios within rounds 0.3 on the latter, give or take 0.11.
# What one visit says of that cost lets the expected slope scatter by 0.22.
EXPECTED_SLOPE, SLOPE_DEVIATION, EXPECTED_SCATTER = 0.4, 0.15, 0.22
SLOPE_CHANGES = 0.05  # from one kind of work beside it to another: what no visit at some speeds tells of others
LEAST_COST_OF_FLUSHING = 0.02  # of the reference's time: below, another's is no multiple of it
MOST_EXPECTED = 1.5  # times as much more
SCATTER, SCATTER_COUNTS = 0.03, 4  # of log ratios at one speed; expected as if so many visits had shown it
MOST_TURNS, SAME = 1000, 1e-6  # where points hardly tell a slope from scatter, each turn brings it little nearer
# Deviation of a network's ratio to the reference from one measurement to the next, minutes later, beyond what the
# processes of each scatter: 0.5 % was found of chains, up to 1.4 % of cells, and changes from hour to hour.
BETWEEN_TIMES = 0.01
NORMAL = 1.96  # 97.5 % quantile
NOTABLE_DRIFT = 0.1  # of the reference network between the time it was stored and now


class Reading(NamedTuple):
    """What one visit tells of one network.

    Attributes:
        log_ratio: logarithm of its time over the reference's.
        reference_ms: what the reference took in the same rounds.
        expected_slope: how `log_ratio` is expected to follow the logarithm of `reference_ms`.
    """

    log_ratio: float
    reference_ms: float
    expected_slope: float


Visit = dict[str, Reading]  # of each network of a plan, by its name


def readings_of(raw: Rounds) -> list[list[Reading]]:
    """Of each network but the first, which is the reference, one for each visit.

    Args:
        raw: with warm runs.
    """
    flushed_ms = raw.typical_ms()
    cost = np.maximum(1 - np.quantile(raw.warm, QUANTILE, axis=2) / flushed_ms, 0.0)
    more = (cost[1:] - cost[0]) / np.maximum(cost[0], LEAST_COST_OF_FLUSHING)
    slopes = EXPECTED_SLOPE * np.clip(more, -1.0, MOST_EXPECTED)
    return [
        [Reading(*map(float, each)) for each in zip(ratios, flushed_ms[0], expected, strict=True)]
        for ratios, expected in zip(raw.log_ratios(), slopes, strict=True)
    ]


def reference_now_of(visits: Sequence[Visit]) -> float:
    """What the reference took while all networks were visited, in ms; what networks share counts once."""
    each = [np.quantile(list({reading.reference_ms for reading in visit.values()}), QUANTILE) for visit in visits]
    return float(np.median(each))


@dataclass(frozen=True)
class AtStoredSpeed:
    """Ratios of a network to the reference, as they would be at the speed at which the reference was stored.

    Attributes:
        log_ratios: (visits,) logarithms.
        slope_deviation: how far the slope that was taken off may be wrong.
        drift: mean logarithm of what the reference took over what is stored of it.
    """

    log_ratios: NDArray[np.float64]
    slope_deviation: float
    drift: float


def at_stored_speed(readings: Sequence[Reading], reference_ms: float, *, processes: int | None = None) -> AtStoredSpeed:
    """Take off what the machine's speed made of each visit of one network.

    Args:
        readings: those of each process side by side.
        reference_ms: of the reference network, as stored.
        processes: that made the visits, as many each; None for one each. Visits of one are too much alike to count
            one by one: their means tell the slope.
    """
    log_ratios, now_ms, expected = np.array(readings, dtype=np.float64).T
    drift = np.log(now_ms / reference_ms)
    x, y = (each.reshape(processes or len(readings), -1).mean(axis=1) for each in (drift, log_ratios))
    prior = float(np.median(expected)), math.hypot(SLOPE_DEVIATION, EXPECTED_SCATTER / math.sqrt(len(x)))
    slope, deviation = _slope(x - x.mean(), y - y.mean(), *prior)
    return AtStoredSpeed(log_ratios - slope * drift, math.hypot(deviation, SLOPE_CHANGES), float(drift.mean()))


def _slope(
    x: NDArray[np.float64], y: NDArray[np.float64], expected: float, prior_deviation: float
) -> tuple[float, float]:
    """Of the line through centred points, and its standard deviation, under a normal prior.

    The reference scatters as much as the network, which moves x and y by as much in opposite ways and would pass for a
    slope of -1: so much is taken off their moments (errors in variables). Where the machine had one speed early and
    another later, what time makes of a network passes for a slope, too: by halves, points move together by
    `BETWEEN_TIMES`. How much they scatter about the line is not known either: it and the slope are found from each
    other, in turn.
    """
    squares, product = float(x @ x), float(x @ y)
    of_time = BETWEEN_TIMES**2 * sum(float(half.sum()) ** 2 for half in np.array_split(x, 2))
    slope, precision = expected, prior_deviation**-2
    for _ in range(MOST_TURNS):
        left = y - slope * x
        variance = (SCATTER_COUNTS * SCATTER**2 + float(left @ left)) / (SCATTER_COUNTS + len(x) - 1)
        of_reference = min(squares, (len(x) - 1) * variance / (1 + (1 + slope) ** 2))
        seen = (squares - of_reference) / (variance * squares + of_time) if squares else 0.0
        precision = prior_deviation**-2 + seen * (squares - of_reference)
        before, slope = slope, (expected / prior_deviation**2 + seen * (product + of_reference)) / precision
        if abs(slope - before) < SAME:
            break
    return float(slope), float(precision**-0.5)


def slope_deviation_of(networks: Iterable[AtStoredSpeed]) -> float:
    """One for several networks, the root mean square."""
    return math.sqrt(np.mean([each.slope_deviation**2 for each in networks]))


def between_measurements(drift: float, slope_deviation: float) -> float:
    """Deviation of a network's ratio to the reference from one measurement to another, which no process of one shows.

    Args:
        drift: logarithm of what the reference took over what is stored of it.
        slope_deviation: how far the slope that was taken off may be wrong.
    """
    return math.hypot(BETWEEN_TIMES, slope_deviation * drift)


def half_between(reference_ms: float, reference_now_ms: float, slope_deviation: float) -> float:
    """Half of the 95 % interval that `between_measurements` makes, of the logarithm."""
    return NORMAL * between_measurements(math.log(reference_now_ms / reference_ms), slope_deviation)


def drift_remark(
    reference_ms: float, reference_now_ms: float, *, ran: str = "this machine now runs", helps: str = ""
) -> str:
    """What a person should know of a machine that is not as it was when its reference latency was stored, or "".

    Args:
        ran: which machine it is said of, and of when.
        helps: what to do where it stays so.
    """
    drift = reference_now_ms / reference_ms - 1
    if abs(drift) <= NOTABLE_DRIFT:
        return ""
    said = (
        f"{ran} {abs(drift):.0%} {'slower' if drift > 0 else 'faster'} than when its reference "
        "latency was stored; latencies are given as of then, and are the less certain"
    )
    return f"{said}; if it stays so, {helps}" if helps else said


def measured_anew(path: Path) -> str:
    """What helps where the file at `path` stores the reference latency."""
    return f"remove {path}, and the reference is measured anew"


def unsteady_reason(interval_ms: Sequence[float], half_between_measurements: float) -> str:
    """Why a latency is no measurement, where its interval is too wide for one: which part of it is the larger one."""
    half = math.log(interval_ms[1] / interval_ms[0]) / 2
    if 2 * half_between_measurements**2 > half**2:
        return "the machine was too unlike its state when its reference latency was stored"
    return "the machine was too disturbed"
