"""How well predictors rank networks one size larger than those they learned from."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas import FeasibleSet
from hwnas.belief import NormalBelief
from hwnas.evaluation import TabularBenchmark
from hwnas.predictors import quality
from hwnas.study import write_csv
from spaces import InputError

from .benchmark import open_table, with_interval
from .predictor_quality import PREDICTORS, surrogate_named
from .progress import Listener
from .seeds import check_asked, done, origin, record, recorded, settings_of

MEASURES = ("spearman_trained", "kendall_trained", "spearman_larger", "kendall_larger")
LEAST_OF_LEVEL = 100  # networks; levels of fewer are taken together with the next
MOST_PREDICTED = 10_000  # networks of the larger level, as in the paper


@dataclass(frozen=True)
class LevelTest:
    """Which table is asked, and with how much.

    Attributes:
        table, data, noisy: as of `Comparison`.
        trained: networks of a level that predictors learn from; all where it has fewer.
        with_costs: whether predictors that use params and flops are given them.
    """

    table: str
    data: str = "data"
    noisy: bool = False
    trained: int = 256
    with_costs: bool = True


@dataclass(frozen=True)
class Level:
    """Networks of one complexity, or of several that follow each other, as places in a table."""

    name: str
    places: NDArray[np.int64]


def levels_of(complexity: NDArray[np.int64]) -> list[Level]:
    """The levels of a table's networks, the simplest first, each of at least 100 networks."""
    groups: list[list[int]] = [[]]
    count = 0
    for value, n in zip(*np.unique(complexity, return_counts=True), strict=True):
        if count >= LEAST_OF_LEVEL:
            groups.append([])
            count = 0
        groups[-1].append(int(value))
        count += int(n)
    if count < LEAST_OF_LEVEL and len(groups) > 1:
        last = groups.pop()
        groups[-1] += last
    names = [str(group[0]) if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in groups]
    return [Level(name, np.flatnonzero(np.isin(complexity, group))) for name, group in zip(names, groups, strict=True)]


def ranks_of_seed(test: LevelTest, name: str, seed: int) -> list[list[float]]:
    """For each level but the largest, the four `MEASURES` of one predictor; of several runs, the others judge.

    Source: Liu et al., 1712.00559, algorithm 2.
    """
    benchmark = open_table(test.table, test.data, test.noisy)
    space, column = benchmark.evaluator(seed).restricted, benchmark.question(seed).accuracy
    feasible = FeasibleSet(space, benchmark.known_costs if test.with_costs else None)
    levels = levels_of(space.complexity(space.rows))
    found = []
    for number, (level, larger) in enumerate(itertools.pairwise(levels)):
        rng = np.random.default_rng([seed, number])
        learned = rng.permutation(level.places)[: test.trained]
        asked = rng.permutation(larger.places)[:MOST_PREDICTED]
        accuracies = benchmark.table.read(column, learned)
        fitted = surrogate_named(name, len(learned)).fit(space.rows[learned], accuracies, feasible=feasible, seed=seed)
        known = quality(NormalBelief(*fitted.predict(space.rows[learned])), _truth(benchmark, column, learned))
        beyond = quality(NormalBelief(*fitted.predict(space.rows[asked])), _truth(benchmark, column, asked))
        found.append([known.spearman, known.kendall_tau, beyond.spearman, beyond.kendall_tau])
    return found


def _truth(benchmark: TabularBenchmark, learned: str, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """What judges: of several runs, the mean of those that were not learned; of one, itself."""
    runs = [question.accuracy for question in benchmark.questions]
    others = [run for run in runs if run != learned] or runs
    return np.asarray(np.mean([benchmark.table.read(run, places) for run in others], axis=0))


def rank_levels(
    test: LevelTest,
    names: Sequence[str],
    seeds: Sequence[int],
    *,
    out: Path | None,
    workers: int,
    listener: Listener,
) -> dict[str, Any]:
    """All predictors on all levels and seeds; a folder that holds some fits is gone on with.

    `levels.csv` there is of what was asked for last; the fits of all are kept beside it.

    Returns:
        {"table", "networks", "levels"}: of each predictor and level the number of networks learned from and the
        rank correlations on them and one level further, each with the 95 % interval over seeds (None of one seed).
    Raises:
        InputError: if something is not there, the table has one level only, or the folder is of another table, code
            or setting.
    """
    check_asked("predictor", names, PREDICTORS, seeds)
    if test.trained < 10:
        raise InputError(f"levels need at least 10 trained networks, got {test.trained}")
    if "flops" in names and not test.with_costs:
        raise InputError("the predictor flops needs the flops that --no-costs hides", hint="leave out one of the two")
    benchmark = open_table(test.table, test.data, test.noisy)
    levels = levels_of(benchmark.space.complexity(benchmark.table.rows))
    if len(levels) < 2:
        raise InputError(f"{benchmark.name} has networks of one size only: nothing is larger")
    wanted = [(name, seed) for name in dict.fromkeys(names) for seed in seeds]
    of = _sources(test, benchmark, names)
    found = {} if out is None else _found_before(out, wanted, of)
    with listener.steps("fits", len(wanted)) as steps:
        for _ in found:
            steps.advance()
        for key, ranks in done(partial(_ranks, test), [key for key in wanted if key not in found], workers):
            found[key] = ranks
            if out is not None:
                record(_file(out, key), of[key[0]], {"ranks": ranks})
            steps.advance(key[0])
    rows = [
        _summary(name, levels[i], levels[i + 1], test, np.array([found[name, seed][i] for seed in seeds]))
        for name in dict.fromkeys(names)
        for i in range(len(levels) - 1)
    ]
    if out is not None:
        write_csv(out / "levels.csv", rows)
    return {"table": benchmark.name, "networks": len(benchmark.table.rows), "levels": rows}


def _sources(test: LevelTest, benchmark: TabularBenchmark, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the fits of each predictor are of: table, code and settings, wherever the files of the table lie."""
    asked = {name: value for name, value in asdict(test).items() if name != "data"}
    source = asked | {"table": benchmark.name, "origin": origin(benchmark)}
    made = {name: settings_of(PREDICTORS[name](test.trained)) for name in names}
    return {name: source | {"predictor": json.loads(json.dumps(each))} for name, each in made.items()}


def _file(out: Path, key: tuple[str, int]) -> Path:
    return out / "levels" / f"{key[0]}-{key[1]}.json"


def _found_before(
    out: Path, wanted: Sequence[tuple[str, int]], of: Mapping[str, Mapping[str, Any]]
) -> dict[tuple[str, int], list[list[float]]]:
    """The fits that the folder holds; none of another table, code or setting may lie there, of any predictor."""
    files = sorted((out / "levels").glob("*.json"))
    if not files and (out / "levels.csv").exists():
        raise InputError(f"{out} holds a levels.csv that does not say what it is of", hint="give another --out")
    source = {name: value for name, value in next(iter(of.values())).items() if name != "predictor"}
    for file in files:
        recorded(file, source)
    stored = {key: recorded(_file(out, key), of[key[0]]) for key in wanted}
    return {key: each["ranks"] for key, each in stored.items() if each}


def _ranks(test: LevelTest, key: tuple[str, int]) -> list[list[float]]:
    return ranks_of_seed(test, *key)


def _summary(name: str, level: Level, larger: Level, test: LevelTest, ranks: NDArray[np.float64]) -> dict[str, Any]:
    interval = with_interval(ranks, least=-1.0)
    row = {
        "predictor": name,
        "level": level.name,
        "larger": larger.name,
        "trained": min(test.trained, len(level.places)),
        "predicted": min(MOST_PREDICTED, len(larger.places)),
        "seeds": len(ranks),
    }
    for i, measure in enumerate(MEASURES):
        row |= {measure: interval["mean"][i], f"{measure}_low": interval["low"][i]}
        row |= {f"{measure}_high": interval["high"][i]}
    return row


def print_levels(outcome: Mapping[str, Any]) -> None:
    """The same for people."""
    print(f"{outcome['table']}: {outcome['networks']:,} networks; Spearman (Kendall) of predicted and true accuracy")
    print(f"{'predictor':<12}{'learned from':>20}{'on those':>16}{'one larger':>16}{'':>4}")
    for row in outcome["levels"]:
        low = row["spearman_larger_low"]
        reach = "" if low is None else f" +- {row['spearman_larger'] - low:.3f}"
        print(
            f"{row['predictor']:<12}{row['trained']:>6} of size {row['level']:<8}"
            f"{row['spearman_trained']:>7.3f} ({row['kendall_trained']:.3f})"
            f"{row['larger']:>10}: {row['spearman_larger']:.3f} ({row['kendall_larger']:.3f}){reach}"
        )
