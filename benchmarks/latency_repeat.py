"""Does a latency repeat? The same networks are measured in several processes, by the protocol of latency/runtime.py.

    uv run python benchmarks/latency_repeat.py --space proxyless@w0.25 --resolution 8 --channels 1

Prints, for every network, its latency in each process and the 95 % interval that one process states, and over all of
them: the relative difference between processes, the rank correlation, and how often one process's interval holds
the mean of the others.
"""

from __future__ import annotations

import argparse
import concurrent.futures as cf
import multiprocessing
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from hwnas.feasible import FeasibleSet
from hwnas.study import write_csv
from latency import Device, DeviceCosts, Timing, build_onnx, measure
from latency.reference import reference_model, stored_reference_ms
from spaces import Task, get_space

RESULTS = Path(__file__).with_name("results")


def measure_once(space_name: str, task: Task, networks: int, visits: int, process: int) -> list[Timing]:
    """One process: the same networks as all others, rounds in an order of its own."""
    space = get_space(space_name)
    rows = FeasibleSet(space, DeviceCosts(space, task)).sample(networks, np.random.default_rng(0))
    models = [build_onnx(space.layers(space.arch(row), task), np.random.default_rng(0), normalise=True) for row in rows]
    rng = np.random.default_rng([1, process])
    reference_ms = stored_reference_ms(task, Device.here(), rng)
    return measure(models, reference_model(task), reference_ms, visits=visits, rng=rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="proxyless@w0.25")
    parser.add_argument("--resolution", type=int, default=8)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--visits", type=int, default=12)
    asked = parser.parse_args()
    task = Task(asked.resolution, 10, asked.channels)
    timings = []
    for process in range(asked.processes):
        with cf.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            timings.append(pool.submit(measure_once, asked.space, task, asked.networks, asked.visits, process).result())
    ms = np.array([[timing.latency_ms for timing in each] for each in timings])  # (processes, networks)
    ends = np.array([[timing.latency_ms_interval for timing in each] for each in timings])
    print(f"{asked.space} at {asked.resolution} px on {Device.here()}, {asked.visits} visits")
    rows: list[dict[str, object]] = []
    for i in range(asked.networks):
        half = np.mean(ends[:, i, 1] / ms[:, i] - 1)
        spread = ms[:, i].std(ddof=1) / ms[:, i].mean()
        print(f"{i:3d}  {' '.join(f'{x:7.3f}' for x in ms[:, i])} ms  std {spread:5.1%}  stated +-{half:.1%}")
        rows += [
            {"space": asked.space, "resolution": asked.resolution, "network": i, "process": p, "visits": asked.visits}
            | {"latency_ms": ms[p, i], "low": ends[p, i, 0], "high": ends[p, i, 1], "device": str(Device.here())}
            for p in range(asked.processes)
        ]
    differences = np.abs([np.log(a / b) for a, b in combinations(ms, 2)])
    ranks = [spearmanr(a, b).statistic for a, b in combinations(ms, 2)]
    others = (ms.sum(axis=0) - ms) / (asked.processes - 1)
    held = np.mean((ends[..., 0] <= others) & (others <= ends[..., 1]))
    print(
        f"between processes: median {np.median(differences):.1%}, worst {differences.max():.1%}, "
        f"Spearman {np.min(ranks):.3f} or more; one interval holds the mean of the other processes in {held:.0%}"
    )
    RESULTS.mkdir(exist_ok=True)
    write_csv(RESULTS / f"latency_repeat_{asked.resolution}px.csv", rows)


if __name__ == "__main__":
    main()
