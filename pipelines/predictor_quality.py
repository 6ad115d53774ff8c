"""Judging predictors on a table: fitted on a few random networks, asked about all others, many seeds."""

from __future__ import annotations

import concurrent.futures as cf
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from hwnas import FeasibleSet
from hwnas.evaluation import TabularBenchmark
from hwnas.execution import WorkerPool, use_one_thread
from hwnas.predictors import (
    CascadePredictor,
    GCNPredictor,
    LinePredictor,
    MLPPredictor,
    Predictor,
    RidgePredictor,
    TreesPredictor,
    quality,
)
from hwnas.predictors.sequence import SequenceSurrogate
from hwnas.predictors.surrogate import GaussianProcess, ProcessAndTrees, Surrogate
from hwnas.predictors.surrogate_adapter import GraphSurrogate
from hwnas.strategies.neural_predictor import FLOPS_COLUMN
from hwnas.study import write_csv
from latency import DeviceCosts
from spaces import InputError

from .benchmark import open_table
from .progress import Listener

Floats = NDArray[np.float64]

# How each predictor is set up to learn from n networks.
PREDICTORS: dict[str, Callable[[int], Predictor | Surrogate]] = {
    "gcn": lambda n: GCNPredictor(),
    "gcn-paper": GCNPredictor.paper_nasbench101,
    "gcn18-paper": lambda n: GCNPredictor.paper_proxyless(),
    "cascade-paper": CascadePredictor.paper_nasbench101,
    "mlp-paper": MLPPredictor.paper_nasbench101,
    "ridge": lambda n: RidgePredictor(),
    "trees": lambda n: TreesPredictor(),
    "flops": lambda n: LinePredictor(FLOPS_COLUMN),
    "mlp": lambda n: SequenceSurrogate("mlp"),
    "lstm": lambda n: SequenceSurrogate("lstm"),
    "gp": lambda n: GaussianProcess(),
    "gp-trees": lambda n: ProcessAndTrees(),
}
THRESHOLDS = {"nasbench101": 0.91}  # of the paper's classifier
TRAINED = 0.2  # accuracy: what is below did not train, and a few of those would decide a mean of squares
MEASURES = ("kendall_tau", "spearman", "mse", "mse_trained", "mse_passed", "mse_above", "coverage")


def surrogate_named(name: str, n: int) -> Surrogate:
    """The predictor of that name, set up to learn from n networks.

    Raises:
        InputError: if there is none.
    """
    if name not in PREDICTORS:
        raise InputError(f"there is no predictor {name}", hint=f"there are {', '.join(PREDICTORS)}")
    made = PREDICTORS[name](n)
    return GraphSurrogate(made) if isinstance(made, Predictor) else made


@dataclass(frozen=True)
class Asked:
    """What is fitted on what.

    Attributes:
        table, data, noisy: as of a comparison of strategies. With noise, one run is learned, which rotates with the
            seed, and the mean of all runs is the truth.
        predictor: of PREDICTORS.
        n: networks that it learns from, drawn anew for each seed; the same ones for all predictors.
    """

    table: str
    data: str
    noisy: bool
    predictor: str
    n: int
    seed: int


@dataclass(frozen=True)
class Judged:
    """How a predictor did on all networks of a table that it was not fitted on.

    Attributes:
        mse: mean squared error, in percent squared.
        mse_trained: the same over those that trained at all, to 20 % and more.
        mse_passed: the same over the networks that it puts at or above the threshold of the table.
        mse_above: the same over those that are above it. Both None where the table has no threshold, or nothing is.
        coverage: the share of true accuracies inside the 95 % intervals.
    """

    predictor: str
    n: int
    seed: int
    kendall_tau: float
    spearman: float
    mse: float
    mse_trained: float | None
    mse_passed: float | None
    mse_above: float | None
    coverage: float


def judge(asked: Asked) -> Judged:
    """Fit once, and ask about all other networks of the table; nothing but the n values was seen before."""
    benchmark = open_table(asked.table, asked.data, asked.noisy)
    order = np.random.default_rng([asked.seed, asked.n]).permutation(len(benchmark.table.rows))
    seen, rest = order[: asked.n], order[asked.n :]
    signal = benchmark.table.read(benchmark.question(asked.seed).accuracy, seen)
    rows = benchmark.table.rows
    feasible = FeasibleSet(benchmark.space, DeviceCosts(benchmark.space, benchmark.task))
    surrogate = surrogate_named(asked.predictor, asked.n)
    fitted = surrogate.fit(rows[seen], signal, feasible=feasible, seed=asked.seed)
    mean, std = fitted.predict(rows[rest])
    truth = _truth(benchmark, rest)
    found = quality(mean, std, truth)
    threshold = THRESHOLDS.get(benchmark.name)
    error = 1e4 * (mean - truth) ** 2
    return Judged(
        asked.predictor,
        asked.n,
        asked.seed,
        found.kendall_tau,
        found.spearman,
        float(error.mean()),
        _mean_of(error[truth >= TRAINED]),
        None if threshold is None else _mean_of(error[mean >= threshold]),
        None if threshold is None else _mean_of(error[truth > threshold]),
        found.coverage,
    )


def _truth(benchmark: TabularBenchmark, places: NDArray[np.int64]) -> Floats:
    """The mean of all that may be learned: of one accuracy, itself; of several runs, their mean."""
    columns = [question.accuracy for question in benchmark.questions]
    return np.asarray(np.mean([benchmark.table.read(column, places) for column in columns], axis=0))


def _mean_of(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def judge_all(
    table: str,
    names: Sequence[str],
    sizes: Sequence[int],
    seeds: Sequence[int],
    *,
    data: str = "data",
    noisy: bool = False,
    out: Path | None,
    workers: int,
    listener: Listener,
) -> dict[str, Any]:
    """All predictors from all numbers of networks, many seeds each; a folder that holds some is gone on with.

    Returns:
        {"table", "networks", "qualities"}: the mean of each of MEASURES over the seeds, and its 95 % interval.
    Raises:
        InputError: if something does not go together.
    """
    for name in names:
        surrogate_named(name, max(sizes, default=0))
    networks = len(open_table(table, data, noisy).table.rows)
    if not sizes or not seeds or min(sizes) < 2 or max(sizes) > networks - 2:
        raise InputError(
            f"predictors are fitted on 2 to {networks - 2} of the {networks} networks, with at least one seed; got "
            f"{', '.join(map(str, sizes))} networks and {len(seeds)} seeds"
        )
    wanted = [
        Asked(table, data, noisy, name, n, seed) for name in dict.fromkeys(names) for n in sizes for seed in seeds
    ]
    judged = {asked: found for asked in wanted if (found := _recorded(out, asked)) is not None}
    with listener.steps("fits", len(wanted)) as steps:
        for _ in judged:
            steps.advance()
        for asked, found in _judged([asked for asked in wanted if asked not in judged], workers):
            judged[asked] = found
            _record(out, asked, found)
            steps.advance(f"{asked.predictor} from {asked.n}: Kendall tau {found.kendall_tau:.3f}")
    qualities = _summary([judged[asked] for asked in wanted])
    if out is not None:
        write_csv(out / "qualities.csv", qualities)
    return {"table": table, "networks": networks, "qualities": qualities}


def _judged(wanted: Sequence[Asked], workers: int) -> Iterator[tuple[Asked, Judged]]:
    if workers == 1 or len(wanted) < 2:
        use_one_thread()
        yield from ((asked, judge(asked)) for asked in wanted)
        return
    with WorkerPool(min(workers, len(wanted))) as pool:
        try:
            futures = {pool.submit(judge, asked): asked for asked in wanted}
            yield from ((futures[done], done.result()) for done in cf.as_completed(futures))
        except BaseException:
            pool.stop()
            raise


def _file(out: Path, asked: Asked) -> Path:
    return out / "fits" / f"{asked.predictor}-{asked.n}-{asked.seed}.json"


def _recorded(out: Path | None, asked: Asked) -> Judged | None:
    """What was found before.

    Raises:
        InputError: if the folder is of another table.
    """
    if out is None or not (file := _file(out, asked)).exists():
        return None
    stored = json.loads(file.read_text())
    if stored["asked"] != asdict(asked):
        raise InputError(f"{out} holds fits of another table, see {file}", hint="give another --out")
    return Judged(**stored["judged"])


def _record(out: Path | None, asked: Asked, judged: Judged) -> None:
    if out is None:
        return
    file = _file(out, asked)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps({"asked": asdict(asked), "judged": asdict(judged)}))
    part.replace(file)


def _summary(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    found = []
    for name, n in dict.fromkeys((each.predictor, each.n) for each in judged):
        own = [each for each in judged if (each.predictor, each.n) == (name, n)]
        row: dict[str, Any] = {"predictor": name, "n": n, "seeds": len(own)}
        for measure in MEASURES:
            row |= _interval(measure, [getattr(each, measure) for each in own])
        found.append(row)
    return found


def _interval(measure: str, values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and 95 % interval by Student's t over the seeds that have a value; None where too few have."""
    known = np.array([value for value in values if value is not None])
    mean = float(known.mean()) if len(known) else None
    low = high = None
    if mean is not None and len(known) > 1:
        reach = float(student.ppf(0.975, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
        low, high = mean - reach, mean + reach
    return {measure: mean, f"{measure}_low": low, f"{measure}_high": high}


def print_qualities(outcome: Mapping[str, Any]) -> None:
    """The same for people."""
    print(
        f"{outcome['table']}: {outcome['networks']:,} networks; errors in percent squared, all on networks not learned"
    )
    titles = ("Kendall tau", "Spearman", "MSE", "MSE of trained", "MSE of passed", "MSE above", "in 95 %")
    print(f"{'predictor':<16}{'n':>5}{'seeds':>7}" + "".join(f"{title:>18}" for title in titles))
    for row in outcome["qualities"]:
        cells = "".join(f"{_cell(row, measure):>18}" for measure in MEASURES)
        print(f"{row['predictor']:<16}{row['n']:>5}{row['seeds']:>7}{cells}")


def _cell(row: Mapping[str, Any], measure: str) -> str:
    if row[measure] is None:
        return "-"
    high = row[f"{measure}_high"]
    return f"{row[measure]:.3f}" + ("" if high is None else f" +- {high - row[measure]:.3f}")
