"""How long ranking a million candidates takes, and the Neural Predictor's own setting on the Pixel 1 table.

    python benchmarks/predictor_scale.py [--lut latency_lut.parquet] [--workers 2] [--candidates 1000000]

Predictors are fitted on 119 random ProxylessNAS networks with made-up accuracies: only time and memory are measured.
Needs the project's development environment, run from the root of the repository.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy reads it

import argparse
import csv
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hwnas import FeasibleSet, Limit, soft_front
from hwnas.execution import WorkerPool, use_one_thread
from hwnas.predictors import GCNPredictor
from hwnas.predictors.surrogate import FittedSurrogate
from hwnas.predictors.surrogate_adapter import GraphSurrogate
from latency import Device, DeviceCosts
from spaces import Network, Population, Task, get_space
from spaces.additive import AdditiveCost, AdditiveSampler, Interval

SPACE, TASK = get_space("proxyless"), Task(resolution=224, classes=1000)
TRAINED = 119  # as the paper
RANKED_BY_18_LAYERS = 20_000
PAPERS_CANDIDATES, PAPERS_KEPT, J = 112_000, 137, 6
RESULTS = Path(__file__).with_name("results") / "predictor_scale.csv"


@dataclass(frozen=True)
class Line:
    job: str
    step: str
    networks: int
    seconds: float
    cpu_seconds: float
    per_second: float
    workers: int
    peak_gib: float
    device: str
    torch: str


class Measured:
    """Prints each step as it ends, and keeps it."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.lines: list[Line] = []

    @contextmanager
    def step(self, job: str, step: str, networks: int, workers: int = 1) -> Iterator[list[float]]:
        started, spent = time.perf_counter(), time.process_time()
        elsewhere: list[float] = []  # CPU seconds of workers, which the step adds
        yield elsewhere
        seconds, cpu = time.perf_counter() - started, time.process_time() - spent + sum(elsewhere)
        here, rate = str(Device.here()), networks / seconds
        line = Line(job, step, networks, seconds, cpu, rate, workers, peak_gib(), here, torch.__version__)
        self.lines.append(line)
        print(
            f"{job:32} {step:44} {networks:>9,} {seconds:>8.1f} s (CPU {cpu:6.1f} s) "
            f"{rate:>10,.0f}/s {line.peak_gib:>5.1f} GiB"
        )

    def total(self, job: str) -> float:
        return sum(line.seconds for line in self.lines if line.job == job)


def peak_gib() -> float:
    """Of this process and the largest worker that has ended: an upper bound counts the worker as often as there are."""
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + 2 * children) / 2**20


def fitted(predictor: GCNPredictor, feasible: FeasibleSet) -> FittedSurrogate:
    rng = np.random.default_rng(0)
    rows = feasible.sample(TRAINED, rng)
    flops = SPACE.counts(rows, TASK)[0]
    accuracies = 0.7 + 0.03 * np.log(flops / flops.mean()) + rng.normal(0, 0.002, TRAINED)
    return GraphSurrogate(predictor).fit(rows, accuracies, feasible=feasible, seed=0)


def predicted(model: FittedSurrogate, rows: Population) -> tuple[np.ndarray, float]:
    """The means, and the CPU seconds that they took."""
    spent = time.process_time()
    return model.predict(rows)[0], time.process_time() - spent


def in_parallel(pool: WorkerPool, model: FittedSurrogate, rows: Population, elsewhere: list[float]) -> np.ndarray:
    futures = [pool.submit(predicted, model, part) for part in np.array_split(rows, pool.workers)]
    means, spent = zip(*(each.result() for each in futures), strict=True)
    elsewhere.extend(spent)
    return np.concatenate(means)


def million(measured: Measured, pool: WorkerPool, n: int) -> None:
    job = f"{n:,} candidates"
    feasible = FeasibleSet(SPACE, DeviceCosts(SPACE, TASK), [Limit.parse("flops<=450M"), Limit.parse("params<=5M")])
    model = fitted(GCNPredictor(), feasible)
    with measured.step(job, "sampled under two limits", n):
        rows = feasible.sample(n, np.random.default_rng(1))
    with measured.step(job, "predicted, default ensemble", n, pool.workers) as elsewhere:
        mean = in_parallel(pool, model, rows, elsewhere)
    with measured.step(job, f"soft front, J = {J}", n):
        kept = soft_front(feasible.costs.one("flops", rows), mean, J=J)
    print(f"{job}: {measured.total(job):.1f} s in all (target: 60 s on two cores), {kept.sum()} on the soft front")
    deep = fitted(replace(GCNPredictor.paper_proxyless(), epochs=5), feasible)
    with measured.step("beside", "predicted, 18 layers of the paper, one core", RANKED_BY_18_LAYERS):
        predicted(deep, rows[:RANKED_BY_18_LAYERS])


def papers_setting(measured: Measured, pool: WorkerPool, lut: Path) -> None:
    job = "75 to 85 ms on the Pixel 1 table"
    cost = pixel1(lut)
    model = fitted(GCNPredictor(), FeasibleSet(SPACE, DeviceCosts(SPACE, TASK)))
    with measured.step(job, "drawn", PAPERS_CANDIDATES):
        sampler = AdditiveSampler(SPACE.allowed, [Interval(cost, 75.0, 85.0)])
        rows = sampler.sample(PAPERS_CANDIDATES, np.random.default_rng(2))
    ms = cost.of(rows)
    assert len(rows) == PAPERS_CANDIDATES, len(rows)
    assert ms.min() >= 75, ms.min()
    assert ms.max() <= 85, ms.max()
    with measured.step(job, "predicted, default ensemble", len(rows), pool.workers) as elsewhere:
        mean = in_parallel(pool, model, rows, elsewhere)
    with measured.step(job, f"soft front, J = {J}", len(rows)):
        kept = soft_front(ms, mean, J=J)
    print(
        f"{job}: {measured.total(job):.1f} s in all (target: 30 s); {kept.sum()} on the soft front "
        f"(the paper kept {PAPERS_KEPT}, of other accuracies)"
    )


def pixel1(lut: Path) -> AdditiveCost:
    """The published Pixel 1 table of the space, in ms."""
    rows = parquet.read_table(lut, filters=[("lut", "==", "proxylessnas_mobile_trim_pixel1")]).to_pylist()
    ms = {row["key"]: row["mean_ms"] for row in rows}

    def cost(piece: Network) -> float:
        if piece[-1].op == "linear":  # the head stands in the table as two
            return ms["Conv_1-input:7x7x320-output:7x7x1280"] + ms["Logits-input:7x7x1280-output:1000"]
        return ms[key(piece)]

    return SPACE.fragments(TASK).additive(cost)


def key(piece: Network) -> str:
    """What the table calls a piece of a network: maps as height x width x channels."""
    first, last = ("x".join(map(str, (*layer.shape[1:], layer.shape[0]))) for layer in (piece[0], piece[-1]))
    ends = f"input:{first}-output:{last}"
    depthwise = next((layer for layer in piece if layer.op == "conv" and layer.groups > 1), None)
    if depthwise is None:
        return f"Conv-{ends}"
    expand = depthwise.in_features // piece[0].shape[0]
    skip = int(piece[-1].op == "add")
    return (
        f"expanded_conv-{ends}-expand:{expand}-kernel:{depthwise.kernel[0]}-stride:{depthwise.stride[0]}-idskip:{skip}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lut", type=Path, help="the published table; without it the second part is left out")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    use_one_thread()
    measured = Measured(given.workers)
    with WorkerPool(given.workers) as pool:
        for each in [pool.submit(use_one_thread) for _ in range(given.workers)]:
            each.result()  # torch is imported before anything is timed
        if given.lut is not None:
            papers_setting(measured, pool, given.lut)
        million(measured, pool, given.candidates)
    with given.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(measured.lines[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {**asdict(line), "seconds": f"{line.seconds:.2f}", "cpu_seconds": f"{line.cpu_seconds:.2f}"}
            for line in measured.lines
        )


if __name__ == "__main__":
    main()
