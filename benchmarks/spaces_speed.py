"""How many architectures a second every space samples, checks, keys, counts and grows, on one thread.

    python benchmarks/spaces_speed.py [--spaces NAME ...] [--rows N] [--parents N]

Rates are of one run on one machine, so that their ratios mean something; the baseline is fvcore's counter on networks
that are built one after another. Needs the project's development environment, run from the root of the repository.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy reads it

import argparse
import csv
import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import fvcore
import numpy as np
import torch
from fvcore.nn import FlopCountAnalysis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from latency import Device
from spaces import SPACES, InputError, Population, SearchSpace, Task, get_space
from spaces.chain import ChainSpace
from spaces.pnas import PnasSpace

TASK = Task(resolution=32, classes=10)
RESULTS = Path(__file__).with_name("results") / "spaces_speed.csv"
ENOUGH_S = 0.5  # a job shorter than this is measured on ten times as many rows
REPEATS = 3
BASELINE_NETWORKS = 5
GROWTH = "grow, canonical, unique"
CHILDREN_OF_FOUR_BLOCKS = 6**2 * 8**2  # of one pnas cell: inputs and operations of the fifth block
PARENTS = 256  # DESIGN section 5: PNAS trains so many cells of each size
TARGETS = {  # rows a second: of chains and of cells
    "counts": (1_000_000, 20_000),
    "sample": (200_000, 20_000),
    "is_valid": (200_000, 20_000),
    "canonical": (200_000, 20_000),
}


@dataclass(frozen=True)
class Line:
    space: str
    job: str
    rows: int
    seconds: float
    rows_per_s: float
    ratio_to_fvcore: float | None  # of counts, which is what fvcore does too
    target_rows_per_s: int | None
    distinct: int | None = None  # of children that were grown
    peak_memory_gib: float | None = None  # of the process, which does the growing first


@dataclass(frozen=True)
class Context:
    """What the figures were measured on and with."""

    device: str
    python: str
    numpy: str
    torch: str
    fvcore: str


def least_seconds(job: Callable[[], object], repeats: int = REPEATS) -> float:
    """The least of several runs: other work on the machine can only make one slower."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times)


def rate(job: Callable[[Population], object], rows: Population) -> tuple[int, float]:
    """How many rows were enough, and the seconds that the job takes for them."""
    n = min(1000, len(rows))
    job(rows[:n])  # tables that are made once
    while True:
        seconds = least_seconds(partial(job, rows[:n]))
        if seconds >= ENOUGH_S or n == len(rows):
            return n, seconds
        n = min(10 * n, len(rows))


def fvcore_flops(space: SearchSpace, row: np.ndarray) -> int:
    model = space.build(space.arch(row), TASK).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit, by which fvcore traces, warns of its own end
        analysis = FlopCountAnalysis(model, torch.zeros(1, *TASK.input_shape))
        entries = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
    return int(entries["conv"] + entries["linear"])


def baseline(space: SearchSpace, rows: Population) -> float:
    """Networks a second that are built and counted by fvcore; the counts must be ours."""
    few = rows[: BASELINE_NETWORKS + 1]
    counted = [fvcore_flops(space, few[0])]  # warm
    start = time.perf_counter()
    counted += [fvcore_flops(space, row) for row in few[1:]]
    seconds = time.perf_counter() - start
    flops, _ = space.counts(few, TASK)
    if flops.tolist() != counted:
        raise SystemExit(f"{space.name}: fvcore counts {counted}, the space counts {flops.tolist()}")
    return BASELINE_NETWORKS / seconds


def parents_to_grow(space: SearchSpace, rng: np.random.Generator, parents: int = PARENTS) -> Population:
    """The simplest rows; of pnas, cells of four blocks drawn evenly, whose children are the largest generation."""
    if not isinstance(space, PnasSpace):
        return space.simplest(parents, rng)
    rows = np.full((parents, len(space.choices)), -1, dtype=np.int64)
    for _ in range(4):  # each block is any of those that may stand there, so that every cell is as likely
        ways = len(space.grow(rows[:1]))
        rows = space.grow(rows)[np.arange(parents) * ways + rng.integers(0, ways, size=parents)]
    return rows


def measure(name: str, most_rows: int, rng: np.random.Generator) -> list[Line]:
    space = get_space(name)
    rows = space.sample(most_rows, rng)
    networks_per_s = baseline(space, rows)
    lines = [Line(name, "fvcore", BASELINE_NETWORKS, BASELINE_NETWORKS / networks_per_s, networks_per_s, 1.0, None)]
    jobs: dict[str, Callable[[Population], object]] = {
        "counts": lambda part: space.counts(part, TASK),
        "sample": lambda part: space.sample(len(part), rng),
        "is_valid": space.is_valid,
        "canonical": space.canonical,
        "graphs": space.graphs,
        "mutate": lambda part: space.mutate(part, rng),
    }
    for job, function in jobs.items():
        n, seconds = rate(function, rows)
        target = TARGETS[job][0 if isinstance(space, ChainSpace) else 1] if job in TARGETS else None
        ratio = n / seconds / networks_per_s if job == "counts" else None
        lines.append(Line(name, job, n, seconds, n / seconds, ratio, target))
    return lines


def growth(space: SearchSpace, rng: np.random.Generator, parents: int = PARENTS) -> Line | None:
    """All children of 256 rows: grown, made canonical and deduplicated. None where the space cannot grow."""
    try:
        rows = parents_to_grow(space, rng, parents)
    except InputError:
        return None
    start = time.perf_counter()
    children = space.grow(rows)
    distinct = np.unique(space.canonical(children), axis=0)
    seconds = time.perf_counter() - start
    n = len(children)
    if isinstance(space, PnasSpace) and n != parents * CHILDREN_OF_FOUR_BLOCKS:
        raise SystemExit(
            f"{space.name}: {parents} cells of four blocks must have {CHILDREN_OF_FOUR_BLOCKS} children "
            f"each, got {n} of all"
        )
    return Line(space.name, GROWTH, n, seconds, n / seconds, None, None, len(distinct), peak_memory_gib())


def peak_memory_gib() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured(names: Sequence[str], most_rows: int, parents: int) -> Iterator[Line]:
    """Growth of all spaces first, the largest last, so that no other job makes the peak of memory."""
    for name in sorted(names, key=lambda name: name.partition("@")[0] == "pnas"):
        line = growth(get_space(name), np.random.default_rng(0), parents)
        if line is not None:
            yield line
    for name in names:
        yield from measure(name, most_rows, np.random.default_rng(0))


def context() -> Context:
    return Context(
        device=str(Device.here()),
        python=platform.python_version(),
        numpy=np.__version__,
        torch=torch.__version__,
        fvcore=fvcore.__version__,
    )


def write(lines: list[Line], where: Context, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for kind in (Line, Context) for field in fields(kind)])
        writer.writeheader()
        for line in lines:
            values = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in asdict(line).items()}
            writer.writerow({**values, **asdict(where)})


def main() -> None:
    parser = argparse.ArgumentParser(description="Architectures a second, one thread, every space.")
    parser.add_argument("--spaces", nargs="+", default=sorted(SPACES), metavar="NAME")
    parser.add_argument("--rows", type=int, default=1_000_000, help="most rows of one job (1000000)")
    parser.add_argument("--parents", type=int, default=PARENTS, help=f"rows whose children are grown ({PARENTS})")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"the CSV ({RESULTS.name} beside this script)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    where, lines = context(), []
    print(", ".join(f"{name} {value}" for name, value in asdict(where).items()))
    print(f"{'space':16s} {'job':24s} {'rows':>9s} {'seconds':>9s} {'rows/s':>12s} {'x fvcore':>12s} {'target':>10s}")
    for line in measured(options.spaces, options.rows, options.parents):
        lines.append(line)
        ratio = f"{line.ratio_to_fvcore:,.0f}" if line.ratio_to_fvcore else ""
        target = f"{line.target_rows_per_s:,}" if line.target_rows_per_s else ""
        grown = f" {line.distinct:,} distinct, {line.peak_memory_gib:.2f} GiB" if line.distinct else ""
        print(
            f"{line.space:16s} {line.job:24s} {line.rows:9,d} {line.seconds:9.3f} {line.rows_per_s:12,.0f} "
            f"{ratio:>12s} {target:>10s}" + grown,
            flush=True,
        )
    print(f"largest memory of this process: {peak_memory_gib():.2f} GiB")
    write(lines, where, options.out)


if __name__ == "__main__":
    main()
