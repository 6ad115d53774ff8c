"""Does a latency repeat? The same networks are measured in several processes, by the protocol of latency/runtime.py.

    uv run python benchmarks/latency_repeat.py --resolution 96
    uv run python benchmarks/latency_repeat.py --resolution 96 --busy 1

Prints, for every network, its latency in each process and the 95 % interval that one process states, and over all of
them: the relative difference between processes, the rank correlation, and how often one process's interval holds
the mean of the others.
"""

from __future__ import annotations

import argparse
import time
from itertools import combinations
from pathlib import Path

import numpy as np
from latency_common import busy, in_new_process, measure_rows, wide_sample
from numpy.typing import NDArray
from scipy.stats import spearmanr

from hwnas.study import write_csv
from latency import Device
from spaces import Task, get_space

RESULTS = Path(__file__).with_name("results")


def repeats(ms: NDArray[np.float64]) -> str:
    """How (processes, networks) agree."""
    differences = np.abs([np.log(a / b) for a, b in combinations(ms, 2)])
    rank = np.min([spearmanr(a, b).statistic for a, b in combinations(ms, 2)])
    return f"median {np.median(differences):.2%}, worst {differences.max():.1%}, Spearman {rank:.3f} or more"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="proxyless")
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--busy", type=int, default=0, help="processes beside it that never rest")
    asked = parser.parse_args()
    space, task = get_space(asked.space), Task(asked.resolution, asked.classes, asked.channels)
    rows = wide_sample(space, task, asked.networks, np.random.default_rng(0))
    started = time.monotonic()
    with busy(asked.busy):
        timings = [in_new_process(measure_rows, space, task, rows, seed) for seed in range(asked.processes)]
    seconds = (time.monotonic() - started) / asked.processes / asked.networks
    ms = np.array([[timing.latency_ms for timing in each] for each in timings])  # (processes, networks)
    ends = np.array([[timing.latency_ms_interval for timing in each] for each in timings])
    print(f"{asked.space} at {asked.resolution} px on {Device.here()}, {asked.busy} busy processes beside it")
    lines: list[dict[str, object]] = []
    for i in range(asked.networks):
        half = np.mean(ends[:, i, 1] / ms[:, i] - 1)
        spread = ms[:, i].std(ddof=1) / ms[:, i].mean()
        print(f"{i:3d}  {' '.join(f'{x:7.3f}' for x in ms[:, i])} ms  std {spread:5.1%}  stated +-{half:.1%}")
        lines += [
            {
                "space": asked.space,
                "resolution": asked.resolution,
                "network": space.format(rows[i]),
                "busy": asked.busy,
                "process": p,
                "latency_ms": timing.latency_ms,
                "low": timing.latency_ms_interval[0],
                "high": timing.latency_ms_interval[1],
                "wall_p50_ms": timing.wall_p50_ms,
                "rounds": timing.rounds,
                "dropped": timing.dropped,
                "device": str(Device.here()),
            }
            for p, timing in enumerate(each[i] for each in timings)
        ]
    wall = np.array([[timing.wall_p50_ms for timing in each] for each in timings])
    others = (ms.sum(axis=0) - ms) / (asked.processes - 1)
    held = np.mean((ends[..., 0] <= others) & (others <= ends[..., 1]))
    print(f"range x{ms.mean(axis=0).max() / ms.mean(axis=0).min():.2f}, {seconds:.1f} s a network")
    print(f"one interval holds the mean of the other processes in {held:.0%}")
    print(f"latency_ms between processes: {repeats(ms)}")
    print(f"wall-clock medians of the same runs: {repeats(wall)}")
    RESULTS.mkdir(exist_ok=True)
    write_csv(RESULTS / f"latency_repeat_{asked.resolution}px_busy{asked.busy}.csv", lines)


if __name__ == "__main__":
    main()
