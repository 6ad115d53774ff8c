"""Does a latency repeat? The same networks are measured several times, by the protocol of latency/runtime.py.

    uv run python benchmarks/latency_repeat.py --resolution 96
    uv run python benchmarks/latency_repeat.py --resolution 96 --busy 1
    uv run python benchmarks/latency_repeat.py --resolution 96 --alone
    uv run python benchmarks/latency_repeat.py --coverage          # of other spaces, at 32 px

Each measurement is made in processes of its own, in which the networks take turns, as the candidates of a search do;
with `--alone` each is measured by itself, within half a minute, as a file that is handed over. Prints, for every
network, the latency that each of them finds and the 95 % interval that they state, and over all of them: the relative
difference between measurements, the rank correlation, and how often one's interval holds the mean of the others.

How often it holds is judged so: an interval is for what many processes would find, at this time or another, of which
the mean of the other measurements is an estimate with an error of its own; that is allowed for. Each measurement
measures every network before the next one begins, so that minutes lie between those of one network. With `--coverage`
only that is asked, with networks of three spaces, each by itself, and by what factor intervals would have to be wider
to hold 95 % is printed; with `--memory` of measurements beside work that occupies the memory, against the mean of the
others alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from latency_common import OCCUPY_MEMORY, busy, described, measure_rows, reference_ms, wide_sample, write_some
from numpy.typing import NDArray
from scipy.stats import spearmanr

from latency import Device, Timing
from spaces import Population, SearchSpace, Task, get_space

RESULTS = Path(__file__).with_name("results")


def repeats(ms: NDArray[np.float64]) -> str:
    """How (measurements, networks) agree."""
    differences = np.abs([np.log(a / b) for a, b in combinations(ms, 2)])
    rank = np.min([spearmanr(a, b).statistic for a, b in combinations(ms, 2)])
    return f"median {np.median(differences):.2%}, worst {differences.max():.1%}, Spearman {rank:.3f} or more"


COVERAGE_SPACES = ("darts@8x16", "nasnet@2x192", "proxyless@w0.5")
COVERAGE_TASK, COVERAGE_SEED = Task(32, 10), 100


def measured(
    space: SearchSpace, task: Task, rows: Population, times: int, beside: int, memory: int = 0, *, alone: bool
) -> list[list[Timing]]:
    """(measurements, networks): all networks by one measurement, then all by the next.

    Args:
        alone: whether one network is done before the next one begins, or they take turns.
        beside: busy processes.
        memory: processes that occupy the memory, beside every second measurement.
    """
    known_ms, found = reference_ms(task), []
    for number in range(times):
        with busy(beside), busy(memory if number % 2 else 0, OCCUPY_MEMORY):
            found.append(measure_rows(space, task, rows, known_ms, number, alone=alone))
    return found


def logs_and_halves(timings: Sequence[Sequence[Timing]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(measurements, networks) logarithms of latencies, and halves of their stated intervals."""
    logs = np.log([[timing.latency_ms for timing in each] for each in timings])
    return logs, np.log([[timing.latency_ms_interval[1] for timing in each] for each in timings]) - logs


def coverage(
    logs: NDArray[np.float64], halves: NDArray[np.float64], calm: NDArray[np.bool_] | None = None
) -> list[tuple[float, float]]:
    """How often an interval holds the mean of the other measurements, its width enlarged by that mean's own error.

    Args:
        logs, halves: (measurements, networks).
        calm: (measurements,) those of whose mean intervals are to hold; all where left out.
    Returns:
        For calm measurements, then for the others where there are any: the share, and by what factor intervals would
        have to be wider (or narrower, below 1) to hold 95 %.
    """
    calm = np.ones(len(logs), dtype=np.bool_) if calm is None else calm
    counted = (calm.sum() - calm)[:, None]  # of which the mean is: never of the measurement itself
    others = (logs[calm].sum(axis=0) - np.where(calm[:, None], logs, 0.0)) / counted
    away = np.abs(logs - others) / np.sqrt(1 + 1 / counted)
    return [
        (float(np.mean((away <= halves)[those])), float(np.quantile((away / halves)[those], 0.95)))
        for those in (calm, ~calm)
        if those.any()
    ]


def report_coverage(names: Sequence[str], task: Task, n: int, times: int, beside: int, memory: int, seed: int) -> None:
    for name in names:
        space = get_space(name)
        rows = wide_sample(space, task, n, np.random.default_rng(seed))
        timings = measured(space, task, rows, times, beside, memory, alone=True)
        logs, halves = logs_and_halves(timings)
        calm = np.arange(times) % 2 == 0 if memory else None
        between = float(np.sqrt(logs.var(axis=0, ddof=1).mean()))
        print(
            f"{name} at {task.resolution} px, {n} networks, {times} times, {beside} busy, {memory} in memory: "
            f"deviation between measurements {between:.2%}"
        )
        for which, (share, factor) in zip(("", "beside the memory's, "), coverage(logs, halves, calm), strict=False):
            print(f"    {which}stated 95 % hold {share:.1%}; {factor:.2f} times as wide would hold 95 %")
        of_all = {"busy": beside, "memory": memory, "seed": seed}
        lines = [of_all | line for line in described_lines(space, task, rows, timings)]
        by = ("space", "resolution", "busy", "memory", "seed", "device")
        write_some(RESULTS / "latency_coverage.csv", lines, by=by)


def described_lines(
    space: SearchSpace, task: Task, rows: Population, timings: Sequence[Sequence[Timing]]
) -> list[dict[str, object]]:
    """A row of a file for each measurement of each network."""
    return [
        {
            "space": space.name,
            "resolution": task.resolution,
            "network": space.format(row),
            "measurement": number,
            "latency_ms": timing.latency_ms,
            "low": timing.latency_ms_interval[0],
            "high": timing.latency_ms_interval[1],
            "wall_p50_ms": timing.wall_p50_ms,
            "processes": timing.processes,
            "rounds": timing.rounds,
            "dropped": timing.dropped,
            "reference_now": timing.reference_now_ms / timing.reference_ms,
            "device": described(Device.here()),
        }
        for row, of_network in zip(rows, zip(*timings, strict=True), strict=True)
        for number, timing in enumerate(of_network)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="proxyless")
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--times", type=int, default=3, help="that each network is measured")
    parser.add_argument("--busy", type=int, default=0, help="processes beside it that never rest")
    parser.add_argument(
        "--memory",
        type=int,
        default=0,
        help="for --coverage: processes beside every second measurement that occupy memory",
    )
    parser.add_argument("--alone", action="store_true", help="one network after another, not by turns")
    parser.add_argument("--coverage", action="store_true", help="only how often intervals hold, in other spaces")
    parser.add_argument("--spaces", nargs="+", default=COVERAGE_SPACES, help="for --coverage")
    parser.add_argument("--seed", type=int, default=COVERAGE_SEED, help="for --coverage")
    asked = parser.parse_args()
    if asked.times < 3:
        parser.error("--times must be at least 3: what one measurement finds is held against the mean of others")
    if asked.coverage:
        beside = asked.busy, asked.memory
        report_coverage(asked.spaces, COVERAGE_TASK, asked.networks, asked.times, *beside, asked.seed)
        return
    space, task = get_space(asked.space), Task(asked.resolution, asked.classes, asked.channels)
    rows = wide_sample(space, task, asked.networks, np.random.default_rng(0))
    reference_ms(task)  # what is measured once a device is no part of the time that follows
    started = time.monotonic()
    timings = measured(space, task, rows, asked.times, asked.busy, alone=asked.alone)
    seconds = (time.monotonic() - started) / asked.times / asked.networks
    logs, halves = logs_and_halves(timings)
    ms = np.exp(logs)
    print(f"{asked.space} at {asked.resolution} px on {Device.here()}, {asked.busy} busy processes beside it")
    for i in range(asked.networks):
        half = np.expm1(halves[:, i]).mean()
        spread = ms[:, i].std(ddof=1) / ms[:, i].mean()
        print(f"{i:3d}  {' '.join(f'{x:7.3f}' for x in ms[:, i])} ms  std {spread:5.1%}  stated +-{half:.1%}")
    wall = np.array([[timing.wall_p50_ms for timing in each] for each in timings])
    ((held, _),) = coverage(logs, halves)
    print(f"range x{ms.mean(axis=0).max() / ms.mean(axis=0).min():.2f}, {seconds:.1f} s a network")
    print(f"stated 95 % hold {held:.0%}")
    print(f"latency_ms between measurements: {repeats(ms)}")
    print(f"wall-clock medians of the same runs: {repeats(wall)}")
    how = {"busy": asked.busy, "alone": asked.alone}
    path = RESULTS / f"latency_repeat_{asked.resolution}px_busy{asked.busy}.csv"
    lines = [how | line for line in described_lines(space, task, rows, timings)]
    write_some(path, lines, by=("space", "resolution", "busy", "alone", "device"))


if __name__ == "__main__":
    main()
