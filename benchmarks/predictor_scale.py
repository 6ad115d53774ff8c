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
from typing import cast

import numpy as np
import torch
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hwnas import FeasibleSet, Limit, Trial, soft_front
from hwnas.execution import WorkerPool, use_one_thread
from hwnas.predictors import GCNPredictor
from hwnas.predictors.surrogate import FittedSurrogate, GaussianProcess, ProcessAndTrees, Surrogate
from hwnas.predictors.surrogate_adapter import GraphSurrogate
from hwnas.strategies import IteratedPredictor
from latency import Device, DeviceCosts
from spaces import Network, Population, Task, get_space
from spaces.additive import AdditiveCost, AdditiveSampler, Interval
from spaces.chain import ChainSpace

SPACE, TASK = cast(ChainSpace, get_space("proxyless")), Task(resolution=224, classes=1000)
TRAINED = 119  # as the paper
RANKED_BESIDE = 20_000
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


@dataclass(frozen=True)
class Used:
    """What a process used so far: CPU time, and memory at most."""

    cpu_seconds: float
    peak_gib: float

    @classmethod
    def here(cls) -> Used:
        return cls(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


class Measured:
    """Prints each step as it ends, and keeps it."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.lines: list[Line] = []

    @contextmanager
    def step(self, job: str, step: str, networks: int, workers: int = 1) -> Iterator[list[Used]]:
        started, here = time.perf_counter(), Used.here()
        elsewhere: list[Used] = []  # by workers, which the step adds
        yield elsewhere
        seconds = time.perf_counter() - started
        cpu = Used.here().cpu_seconds - here.cpu_seconds + sum(used.cpu_seconds for used in elsewhere)
        peak = Used.here().peak_gib + sum(sorted(used.peak_gib for used in elsewhere)[-workers:])
        rate = networks / seconds
        line = Line(job, step, networks, seconds, cpu, rate, workers, peak, str(Device.here()), torch.__version__)
        self.lines.append(line)
        print(
            f"{job:32} {step:44} {networks:>9,} {seconds:>8.1f} s (CPU {cpu:6.1f} s) "
            f"{rate:>10,.0f}/s {line.peak_gib:>5.1f} GiB"
        )

    def total(self, job: str) -> float:
        return sum(line.seconds for line in self.lines if line.job == job)


def made_up(rows: Population) -> np.ndarray:
    flops = SPACE.counts(rows, TASK)[0]
    accuracies: np.ndarray = (
        0.7 + 0.03 * np.log(flops / flops.mean()) + np.random.default_rng(0).normal(0, 0.002, len(rows))
    )
    return accuracies


def fitted(surrogate: Surrogate, feasible: FeasibleSet) -> FittedSurrogate:
    rows = feasible.sample(TRAINED, np.random.default_rng(0))
    return surrogate.fit(rows, made_up(rows), feasible=feasible, seed=0)


def predicted(model: FittedSurrogate, rows: Population) -> tuple[np.ndarray, Used]:
    """The means, and what they took."""
    before = Used.here()
    mean = model.predict(rows)[0]
    after = Used.here()
    return mean, Used(after.cpu_seconds - before.cpu_seconds, after.peak_gib)


def in_parallel(pool: WorkerPool, model: FittedSurrogate, rows: Population, elsewhere: list[Used]) -> np.ndarray:
    futures = [pool.submit(predicted, model, part) for part in np.array_split(rows, pool.workers)]
    means, used = zip(*(each.result() for each in futures), strict=True)
    elsewhere.extend(used)
    return np.concatenate(means)


def million(measured: Measured, pool: WorkerPool, n: int, device: str) -> None:
    job = f"{n:,} candidates"
    costs = DeviceCosts(SPACE, TASK)
    feasible = FeasibleSet(SPACE, costs, [Limit.parse("flops<=450M"), Limit.parse("params<=5M")])
    model = fitted(GaussianProcess(), feasible)
    with measured.step(job, "sampled under two limits", n):
        rows = feasible.sample(n, np.random.default_rng(1))
    with measured.step(job, "predicted, process", n, pool.workers) as elsewhere:
        mean = in_parallel(pool, model, rows, elsewhere)
    with measured.step(job, f"soft front, J = {J}", n):
        kept = soft_front(costs.one("flops", rows), mean, J=J)
    print(f"{job}: {measured.total(job):.1f} s in all (target: 60 s on two cores), {kept.sum()} on the soft front")
    model = fitted(ProcessAndTrees(), feasible)
    with measured.step("beside", "predicted, process and trees", n, pool.workers) as elsewhere:
        in_parallel(pool, model, rows, elsewhere)
    beside = {
        "our ensemble of GCNs": GCNPredictor(),
        "18 layers of the paper": replace(GCNPredictor.paper_proxyless(), epochs=5),
    }
    where = "one core" if device == "cpu" else torch.cuda.get_device_name(device)
    for name, predictor in beside.items():
        model = fitted(GraphSurrogate(replace(predictor, device=device)), feasible)
        with measured.step("beside", f"predicted, {name}, {where}", RANKED_BESIDE):
            predicted(model, rows[:RANKED_BESIDE])


def a_round(measured: Measured, n: int) -> None:
    """What `hwnas search` does before each batch, of more candidates than it takes by itself."""
    feasible = FeasibleSet(SPACE, DeviceCosts(SPACE, TASK), [Limit.parse("flops<=450M"), Limit.parse("params<=5M")])
    strategy = IteratedPredictor(n_random=TRAINED, n_candidates=n)
    strategy.start(feasible, 0)
    rows = strategy.ask(TRAINED)
    for number, (row, accuracy) in enumerate(zip(rows, made_up(rows), strict=True)):
        strategy.tell([Trial(number, SPACE.arch(row), 1, 0, "complete", {"accuracy_val": float(accuracy)})])
    with measured.step("a round of iterated search", "drawn, mutated, filtered, predicted, chosen", n):
        strategy.ask(1)


def papers_setting(measured: Measured, pool: WorkerPool, lut: Path) -> None:
    job = "75 to 85 ms on the Pixel 1 table"
    cost = pixel1(lut)
    model = fitted(GaussianProcess(), FeasibleSet(SPACE, DeviceCosts(SPACE, TASK)))
    with measured.step(job, "drawn", PAPERS_CANDIDATES):
        sampler = AdditiveSampler(SPACE.allowed, [Interval(cost, 75.0, 85.0)])
        rows = sampler.sample(PAPERS_CANDIDATES, np.random.default_rng(2))
    ms = cost.of(rows)
    assert len(rows) == PAPERS_CANDIDATES, len(rows)
    assert ms.min() >= 75, ms.min()
    assert ms.max() <= 85, ms.max()
    with measured.step(job, "predicted, process", len(rows), pool.workers) as elsewhere:
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
    ms: dict[str, float] = {row["key"]: row["mean_ms"] for row in rows}

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
    parser.add_argument("--device", default="cpu", help="where the GCNs predict: cpu, or cuda")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    use_one_thread()
    measured = Measured(given.workers)
    with WorkerPool(given.workers) as pool:
        for each in [pool.submit(use_one_thread) for _ in range(given.workers)]:
            each.result()  # torch is imported before anything is timed
        if given.lut is not None:
            papers_setting(measured, pool, given.lut)
        a_round(measured, given.candidates)
        million(measured, pool, given.candidates, given.device)
    with given.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(measured.lines[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {**asdict(line), "seconds": f"{line.seconds:.2f}", "cpu_seconds": f"{line.cpu_seconds:.2f}"}
            for line in measured.lines
        )


if __name__ == "__main__":
    main()
