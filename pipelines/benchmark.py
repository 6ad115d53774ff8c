"""Comparing strategies on a table: many seeds, curves of the best so far, their mean and 95 % interval."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from hwnas import FeasibleSet, InfeasibleError, Limit, Trial, hypervolume
from hwnas.evaluation import TabularBenchmark, TabularEvaluator, read_described, read_nasbench101, read_nasbench_macro
from hwnas.evaluation.table_files import CELLS_FILE, MACRO_FILE
from hwnas.objectives import minimised
from hwnas.predictors import GCNPredictor
from hwnas.predictors.sequence import SequenceSurrogate
from hwnas.predictors.surrogate import ProcessAndTrees
from hwnas.predictors.surrogate_adapter import GraphSurrogate
from hwnas.search_loop import evaluation_seed
from hwnas.strategies import (
    EPNAS,
    PNAS,
    IteratedPredictor,
    LocalSearch,
    NeuralPredictor,
    OptunaSampler,
    RegularizedEvolution,
    Strategy,
)
from hwnas.study import write_csv
from latency.files import read_json
from spaces import InputError, SearchSpace
from spaces.nasbench101 import RELEASED_RATES, NASBench101Space

from .plan import plan_trials
from .progress import Listener
from .seeds import check_asked, differing, done, origin, settings_of, what_to_do
from .strategies import STRATEGIES as SEARCHED
from .strategies import Setting, only_cost

Floats = NDArray[np.float64]
AIMS = ("accuracy", "hypervolume", "front")
RELEASED_FILES = ("nasbench_only108.tfrecord", "nasbench_full.tfrecord")
COST_QUANTILE = 0.99  # of the networks that meet the limits: the cost of the reference point
ONE_SHOT_RANDOM, ONE_SHOT_RANKED = 172, 100_000
N_COLORS = 10  # in matplotlib's cycle
CELLS_OF_FIVE = 195  # cells of at most 5 vertices in the sample of NAS-Bench-101


@dataclass(frozen=True)
class Comparison:
    """What is compared on what.

    Attributes:
        table: nasbench101, nasbench_macro, or a TOML file that describes a table.
        data: the folder with the files of the named tables, or the file itself.
        noisy: of nasbench_macro: one run is searched and the other two judge.
        trials: trained networks of each run.
        aim: what the curves show: the best accuracy, the share of the table's hypervolume, or the share of the
            points of its true front that were found.
        costs: that are objectives beside the accuracy, where the aim is not accuracy alone.
        limits: as texts; of what the table has a column of, that column is what they limit.
    """

    table: str
    data: str = "data"
    noisy: bool = False
    trials: int = 100
    aim: str = "accuracy"
    costs: tuple[str, ...] = ("flops",)
    limits: tuple[str, ...] = ()

    def check(self) -> TabularBenchmark:
        """The table, once all that was asked for is known to go together.

        Raises:
            InputError: if it does not.
            InfeasibleError: if no network of the table meets the limits.
        """
        if self.aim not in AIMS:
            raise InputError(f"the objective must be one of {', '.join(AIMS)}, got {self.aim!r}")
        benchmark = open_table(self.table, self.data, self.noisy)
        allowed = len(self.allowed(benchmark))
        meeting = f" that meet {' and '.join(self.limits)}" if self.limits else ""
        if not allowed:
            rows = benchmark.table.rows
            nearest = rows[np.argmin(self.feasible(benchmark, benchmark.space).violation(rows))]
            raise InfeasibleError(
                f"the table has no networks{meeting}; the nearest is {benchmark.space.format(nearest)}",
                hint="relax the limit",
            )
        if self.trials < 1 or self.trials > allowed:
            raise InputError(
                f"the number of trials must be in 1..{allowed}, as many as the table has networks{meeting}, "
                f"got {self.trials}"
            )
        unknown = [name for name in self.costs if name not in benchmark.costs]
        if self.aim != "accuracy" and (unknown or not self.costs):
            raise InputError(
                f"the table has no cost {', '.join(unknown) or 'named'}",
                hint=f"it has {', '.join(benchmark.costs) or 'none: name columns of it as costs in its description'}",
            )
        if self.aim == "hypervolume" and benchmark.accuracy_floor is None:
            raise InputError(
                "a hypervolume needs an accuracy that it starts at", hint="describe the table with accuracy_floor"
            )
        if self.aim == "hypervolume":
            for seed in range(len(benchmark.questions)):
                Yardstick(self, benchmark, benchmark.evaluator(seed)).check_hypervolume()
        return benchmark

    def check_strategies(self, names: Sequence[str], benchmark: TabularBenchmark) -> None:
        """Make sure that each strategy can be had with these costs, and begins on this table under these limits.

        Raises:
            InputError: if one cannot: it takes fewer, must know a cost of networks that were never trained, or needs
                a larger table.
        """
        known = benchmark.known_costs.names
        for name in names:
            unknown = [cost for cost in _costs_of_untrained(STRATEGIES[name](self)) if cost not in known]
            others = [cost for cost in benchmark.costs if cost in known]
            if unknown:
                raise InputError(
                    f"{name} must know {', '.join(unknown)} of networks that it never trained, which no one does",
                    hint=f"leave the strategy out, or name a --cost of {', '.join(others) or 'another table'}",
                )
            strategy = STRATEGIES[name](self)
            strategy.start(self.feasible(benchmark, benchmark.evaluator(0).restricted), 0)
            strategy.ask(1)

    def feasible(self, benchmark: TabularBenchmark, space: SearchSpace) -> FeasibleSet:
        """The part of a space that meets the limits, by the columns of the table where it has them.

        Raises:
            InputError: if a limit has another form, or is on something that nothing tells.
        """
        costs = benchmark.known_costs
        return FeasibleSet(space, costs, [Limit.parse(text, names=costs.names) for text in self.limits])

    def allowed(self, benchmark: TabularBenchmark) -> NDArray[np.int64]:
        """The places of the table's networks that meet the limits."""
        return np.flatnonzero(self.feasible(benchmark, benchmark.space).holds(benchmark.table.rows))

    @property
    def objectives(self) -> tuple[str, ...]:
        return ("accuracy_val",) if self.aim == "accuracy" else ("accuracy_val", *self.costs)


def searched(name: str) -> Callable[[Comparison], Strategy]:
    """What `hwnas search`, or `frontier` where there are costs, runs by that name with one worker."""
    return lambda comparison: SEARCHED[name](_setting(comparison))


def _setting(comparison: Comparison) -> Setting:
    plan = plan_trials(comparison.trials, epochs=1, final_epochs=1, finalists=1)
    job: Literal["search", "frontier"] = "search" if comparison.aim == "accuracy" else "frontier"
    return Setting(plan.n_random, plan.n_chosen, 1, job, costs=comparison.costs)


def _one_shot_of_the_paper(comparison: Comparison) -> Strategy:
    """Random networks, the paper's GCN of one stage fitted once, and what it ranks highest of the table's networks.

    Source: Wen et al., 1912.00848, sections 3 and 4.1: 172 cells of NAS-Bench-101 are learned. That half of the trials
    are where they are fewer is ours.
    """
    networks = len(open_table(comparison.table, comparison.data, comparison.noisy).table.rows)
    n = min(ONE_SHOT_RANDOM, math.ceil(comparison.trials / 2))
    return NeuralPredictor(
        n_random=n,
        n_chosen=comparison.trials - n,
        n_candidates=min(ONE_SHOT_RANKED, networks),
        J=None,
        predictor=GCNPredictor.paper_nasbench101(n),
        fallback=False,
    )


# Those of `hwnas search` as it runs them; then others, as their authors say or the description of their settings does.
STRATEGIES: dict[str, Callable[[Comparison], Strategy]] = {
    **{name: searched(name) for name in SEARCHED},
    "evolution-paper": lambda c: RegularizedEvolution(population=100, sample=10, rate=_released_rates(c)),
    "evolution20": lambda c: RegularizedEvolution(population=20, sample=5, rate=_released_rates(c)),
    "local": lambda c: LocalSearch(),
    "optuna-tpe": lambda c: OptunaSampler("tpe", c.objectives),
    "optuna-tpe-multivariate": lambda c: OptunaSampler("tpe-multivariate", c.objectives),
    "optuna-nsga2": lambda c: OptunaSampler("nsga2", c.objectives, population=10),
    "optuna-gp": lambda c: OptunaSampler("gp", c.objectives),
    "neural-predictor-paper": _one_shot_of_the_paper,
    "epnas-gcn": lambda c: EPNAS(surrogate=GraphSurrogate(GCNPredictor()), focus=1.0 if c.aim == "accuracy" else 0.0),
    "iterated-thompson": lambda c: IteratedPredictor(acquisition="thompson"),
    "pnas-trees": lambda c: PNAS(surrogate=ProcessAndTrees(), **_growth(c)),
    "pnas-mlp": lambda c: PNAS(surrogate=SequenceSurrogate("mlp"), **_growth(c, chains=3)),
    "pnas-lstm": lambda c: PNAS(surrogate=SequenceSurrogate("lstm"), **_growth(c, chains=3)),
    "pnas-gcn": lambda c: PNAS(surrogate=GraphSurrogate(GCNPredictor()), **_growth(c)),
}


def _growth(comparison: Comparison, chains: int = 4) -> dict[str, Any]:
    """Beams for a hundred trained networks, not for the 1,280 of the paper; the best of 3 to 25 within that.

    Args:
        chains: of a level where accuracy alone counts.
    """
    cost = only_cost(_setting(comparison))
    if isinstance(open_table(comparison.table, comparison.data, comparison.noisy).space, NASBench101Space):
        return {"K": 20, "first": 20, "n_simplest": CELLS_OF_FIVE, "cost": cost, "J": 1}
    return {"K": chains if cost is None else 8, "first": 7, "cost": cost, "J": 1}


def _costs_of_untrained(strategy: Strategy) -> tuple[str, ...]:
    """What a strategy must know of networks before they are trained, beside limits."""
    if isinstance(strategy, IteratedPredictor):
        return strategy.costs
    return (strategy.cost,) if isinstance(strategy, PNAS) and strategy.cost is not None else ()


def _released_rates(comparison: Comparison) -> Floats | None:
    is_cells = isinstance(open_table(comparison.table, comparison.data, comparison.noisy).space, NASBench101Space)
    return RELEASED_RATES if is_cells else None


@lru_cache(maxsize=2)
def open_table(table: str, data: str, noisy: bool) -> TabularBenchmark:
    """The table of a name, or of a description.

    Raises:
        InputError: if there is none, or its file is not there.
    """
    if noisy and table != "nasbench_macro":
        raise InputError(
            f"--noisy searches one of several runs, which only nasbench_macro has, got {table}",
            hint="leave it out; a table of your own rotates between several columns of accuracy by itself",
        )
    if table.endswith(".toml"):
        return read_described(Path(table))
    if table == "nasbench101":
        return read_nasbench101(_file(Path(data), (CELLS_FILE, *RELEASED_FILES)))
    if table == "nasbench_macro":
        return read_nasbench_macro(_file(Path(data), (MACRO_FILE,)), noisy=noisy)
    raise InputError(
        f"there is no table {table!r}", hint="nasbench101, nasbench_macro, or a TOML file that describes your own"
    )


def _file(data: Path, names: Sequence[str]) -> Path:
    if data.is_file():
        return data
    found = [data / name for name in names if (data / name).exists()]
    if not found:
        raise InputError(f"{data} must hold {' or '.join(names)}, or be that file", hint="give it with --data-root")
    return found[0]


@dataclass(frozen=True)
class SeedRun:
    """What one search of one seed found.

    Attributes:
        accuracies: (trials,) as the strategy saw them.
        curve: (trials,) of the aim.
        judged: (trials,) of the network that was the most accurate one so far, by what judges.
        chosen: the text of the network that the strategy chose at the end, and what it saw and what judges of it.
        inside: the share of what operators drew that was in the table; None where they drew nothing.
        to_best: how many were trained when the network that the whole table says is the best was; None if it was not.
    """

    strategy: str
    seed: int
    accuracies: list[float]
    curve: list[float]
    judged: list[float]
    chosen: str
    chosen_accuracy: float
    chosen_judged: float
    inside: float | None
    to_best: int | None


def run_seed(comparison: Comparison, name: str, seed: int) -> SeedRun:
    """One search. What judges is read when it is over."""
    benchmark = open_table(comparison.table, comparison.data, comparison.noisy)
    evaluator = benchmark.evaluator(seed)
    strategy = STRATEGIES[name](comparison)
    trials = look_up(strategy, evaluator, benchmark, comparison, seed)
    accuracies = np.array([trial.values["accuracy_val"] for trial in trials])
    chosen = strategy.chosen()
    assert chosen is not None  # no look-up fails
    rows = strategy.told_rows()
    best = _first_best(accuracies)
    (chosen_judged,) = evaluator.judge(evaluator.space.row(chosen.arch)[None])
    proposed = evaluator.restricted.proposed
    yardstick = Yardstick(comparison, benchmark, evaluator)
    return SeedRun(
        name,
        seed,
        accuracies.tolist(),
        yardstick.curve(trials).tolist(),
        evaluator.judge(rows[best]).tolist(),
        str(chosen.arch),
        float(chosen.values["accuracy_val"]),
        float(chosen_judged),
        proposed.share if proposed.drawn else None,
        _first_at(accuracies, yardstick.best_accuracy),
    )


def _run(comparison: Comparison, key: tuple[str, int]) -> SeedRun:
    return run_seed(comparison, *key)


def _first_at(accuracies: Floats, wanted: float) -> int | None:
    found = np.flatnonzero(accuracies >= wanted)
    return int(found[0]) + 1 if len(found) else None


def look_up(
    strategy: Strategy, evaluator: TabularEvaluator, benchmark: TabularBenchmark, comparison: Comparison, seed: int
) -> list[Trial]:
    """The course of `hwnas.search`, one trial after another, without its executors and records."""
    space = evaluator.restricted
    strategy.start(comparison.feasible(benchmark, space), seed)
    trials: list[Trial] = []
    for number in range(comparison.trials):
        arch = space.arch(strategy.ask(1)[0])
        own_seed = evaluation_seed(seed, number)
        values = evaluator.evaluate(arch, epochs=1, seed=own_seed)
        trials.append(Trial(number, arch, 1, own_seed, "complete", values))
        strategy.tell(trials[-1:])
    return trials


def _first_best(accuracies: Floats) -> NDArray[np.int64]:
    """(n,) -> (n,): which of the first k + 1 is the best, the earliest of equals."""
    is_new = np.concatenate([[True], accuracies[1:] > np.maximum.accumulate(accuracies)[:-1]])
    return np.maximum.accumulate(np.where(is_new, np.arange(len(accuracies)), 0))


@dataclass(frozen=True)
class Yardstick:
    """Measures a course against all networks of the table that meet the limits, which no strategy sees."""

    comparison: Comparison
    benchmark: TabularBenchmark
    evaluator: TabularEvaluator

    def curve(self, trials: Sequence[Trial]) -> Floats:
        """The best so far after each trial, by the aim of the comparison."""
        if self.comparison.aim == "accuracy":
            return np.maximum.accumulate([trial.values["accuracy_val"] for trial in trials])
        F = minimised([trial.values for trial in trials], self.comparison.objectives)
        return self._hypervolumes(F) if self.comparison.aim == "hypervolume" else self._front_shares(F)

    @property
    def best_accuracy(self) -> float:
        return float(self.benchmark.table.read(self.evaluator.accuracy, self._allowed).max())

    def check_hypervolume(self) -> None:
        """Make sure that there is a hypervolume to have a share of.

        Raises:
            InputError: if no network is better than the reference point.
        """
        if not (self._whole < self._reference).all(axis=1).any():
            raise InputError(
                "there is no hypervolume: no network that meets the limits is more accurate than "
                f"{self.benchmark.accuracy_floor} and costs less than the {COST_QUANTILE:.0%} quantile",
                hint="relax the limits, or lower accuracy_floor",
            )

    @cached_property
    def _allowed(self) -> NDArray[np.int64]:
        return self.comparison.allowed(self.benchmark)

    def _hypervolumes(self, F: Floats) -> Floats:
        reference = self._reference
        whole = hypervolume(self._whole, reference)
        found, shares = np.empty((0, F.shape[1])), []
        share = 0.0
        for point in F:
            if (point < reference).all() and not (found <= point).all(axis=1).any():
                found = np.concatenate([found[~(point <= found).all(axis=1)], point[None]])
                share = hypervolume(found, reference) / whole
            shares.append(share)
        return np.array(shares)

    def _front_shares(self, F: Floats) -> Floats:
        front = np.unique(self._whole[_is_front(self._whole)], axis=0)
        hit = (F[:, None, :] == front).all(axis=2)
        return np.asarray(np.maximum.accumulate(hit, axis=0).sum(axis=1) / len(front))

    @cached_property
    def _whole(self) -> Floats:
        columns = {"accuracy_val": self.evaluator.accuracy, **self.benchmark.costs}
        values = [self.benchmark.table.read(columns[name], self._allowed) for name in self.comparison.objectives]
        return np.stack([-values[0], *values[1:]], axis=1)

    @property
    def _reference(self) -> Floats:
        assert self.benchmark.accuracy_floor is not None
        return np.array([-self.benchmark.accuracy_floor, *np.quantile(self._whole[:, 1:], COST_QUANTILE, axis=0)])


def _is_front(F: Floats) -> NDArray[np.bool_]:
    """Which points no other one dominates; many of the table are, so that the rest is soon small."""
    left = np.lexsort(F.T[::-1])
    front: list[int] = []
    while len(left):
        first, left = int(left[0]), left[1:]
        front.append(first)
        worse = (F[first] <= F[left]).all(axis=1) & (F[first] < F[left]).any(axis=1)
        left = left[~worse]
    return np.isin(np.arange(len(F)), front)


def compare(
    comparison: Comparison,
    names: Sequence[str],
    seeds: Sequence[int],
    *,
    out: Path | None,
    workers: int,
    listener: Listener,
) -> dict[str, Any]:
    """All strategies on all seeds; a folder that holds some of them already is gone on with.

    Returns:
        {"table", "networks", "curves", "chosen"}: of each strategy its curves of the aim and of what
        judges the most accurate network so far ("judged"); what was chosen at the end. With a folder, of all that it
        holds, also what was not asked for now.
    Raises:
        InputError: if something does not go together, or the folder is of another comparison.
    """
    check_asked("strategy", names, STRATEGIES, seeds)
    benchmark = comparison.check()
    comparison.check_strategies(names, benchmark)
    if out is not None:
        _claim(out, comparison, benchmark, names)
    wanted = [(name, seed) for name in dict.fromkeys(names) for seed in seeds]
    runs = {key: run for key in wanted if (run := _recorded(out, *key)) is not None}
    missing = [key for key in wanted if key not in runs]
    with listener.steps("searches", len(wanted)) as steps:
        for _ in runs:
            steps.advance()
        for key, run in done(partial(_run, comparison), missing, workers):
            runs[key] = run
            if out is not None:
                _record(out, run)
            steps.advance(f"{run.strategy}: {run.curve[-1]:.4f}")
    if out is not None:
        others = [key for key in _held(out) if key not in runs]
        runs |= {key: run for key in others if (run := _recorded(out, *key)) is not None}
    outcome = summary(comparison, benchmark, [runs[key] for key in dict.fromkeys([*wanted, *runs])])
    if out is not None:
        write_csv(out / "curves.csv", _curve_rows(outcome))
        write_csv(out / "chosen.csv", outcome["chosen"])
        draw(outcome, out)
    return outcome


def _claim(out: Path, comparison: Comparison, benchmark: TabularBenchmark, names: Sequence[str]) -> None:
    """Make the folder one of this comparison; strategies that it has no searches of yet are added.

    Raises:
        InputError: if it holds results of another comparison, table, code or other settings of a strategy.
    """
    file = out / "comparison.json"
    asked = {name: value for name, value in asdict(comparison).items() if name != "data"}
    own = json.loads(json.dumps({**asked, "table": benchmark.name, "origin": origin(benchmark)}))
    settings = json.loads(json.dumps({name: settings_of(STRATEGIES[name](comparison)) for name in names}))
    known: dict[str, Any] = {}
    if file.exists() or (out / "seeds").exists():
        stored = read_json(file) if file.exists() else {}
        known = stored.pop("strategies", {})
        differ = differing(stored, own)
        differ += [name for name, each in settings.items() if known.get(name, each) != each]
        if differ:
            raise InputError(
                f"{out} holds another comparison, see {file}: it differs in, or does not say, {', '.join(differ)}",
                hint=what_to_do(differ),
            )
    (out / "seeds").mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps({**own, "strategies": known | settings}, indent=1))
    part.replace(file)


def _recorded(out: Path | None, name: str, seed: int) -> SeedRun | None:
    file = out / "seeds" / f"{name}-{seed}.json" if out is not None else None
    if file is None or not file.exists():
        return None
    try:
        return SeedRun(**read_json(file))
    except TypeError as error:
        raise InputError(f"{file} must be a search of this comparison: {error}", hint="remove it") from None


def _held(out: Path) -> list[tuple[str, int]]:
    """The searches in a folder, by strategy and seed."""
    parts = [file.stem.rsplit("-", 1) for file in (out / "seeds").glob("*-*.json")]
    return sorted((name, int(seed)) for name, seed in parts if name in STRATEGIES and seed.isdecimal())


def _record(out: Path, run: SeedRun) -> None:
    file = out / "seeds" / f"{run.strategy}-{run.seed}.json"
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps(asdict(run)))
    part.replace(file)


def summary(comparison: Comparison, benchmark: TabularBenchmark, runs: Sequence[SeedRun]) -> dict[str, Any]:
    """What `--json` prints."""
    curves, chosen = [], []
    for name in dict.fromkeys(run.strategy for run in runs):
        own = [run for run in runs if run.strategy == name]
        for objective, values in (
            (comparison.aim, [run.curve for run in own]),
            ("judged", [run.judged for run in own]),
        ):
            curves.append(
                {"strategy": name, "objective": objective, "seeds": len(own), **with_interval(np.array(values))}
            )
        judged = with_interval(np.array([[run.chosen_judged] for run in own]))
        shares = [run.inside for run in own if run.inside is not None]
        chosen.append(
            {
                "strategy": name,
                "seeds": len(own),
                "trained": comparison.trials,
                "accuracy_val": float(np.mean([run.chosen_accuracy for run in own])),
                "judged": judged["mean"][0],
                "judged_low": judged["low"][0],
                "judged_high": judged["high"][0],
                "share_inside": float(np.mean(shares)) if shares else None,
                "found_best": sum(run.to_best is not None for run in own),
                "to_best_median": _quantile([run.to_best for run in own], 0.5),
                "to_best_worst": _quantile([run.to_best for run in own], 1.0),
            }
        )
    return {"table": benchmark.name, "networks": len(benchmark.table.rows), "curves": curves, "chosen": chosen}


def _quantile(numbers: Sequence[int | None], q: float) -> float | None:
    """Of how many were trained; None where that many searches did not get there."""
    found = float(np.quantile([math.inf if n is None else n for n in numbers], q, method="higher"))
    return found if math.isfinite(found) else None


def with_interval(values: Floats, *, least: float = 0.0) -> dict[str, list[Any]]:
    """(seeds, n) -> the mean after 1, 2, ... trials, and its 95 % interval by Student's t; None of one seed.

    Accuracies, shares and (from -1 on) correlations are at most 1, and so are the ends of the intervals.
    """
    seeds, n = values.shape
    mean = values.mean(axis=0)
    nothing: list[Any] = [None] * n
    low, high = nothing, nothing
    if seeds > 1:
        reach = student.ppf(0.975, seeds - 1) * values.std(axis=0, ddof=1) / math.sqrt(seeds)
        low, high = (np.clip(end, least, 1.0).tolist() for end in (mean - reach, mean + reach))
    return {"trained": list(range(1, n + 1)), "mean": mean.tolist(), "low": low, "high": high}


def _curve_rows(outcome: Mapping[str, Any]) -> list[dict[str, object]]:
    return [
        {
            "strategy": curve["strategy"],
            "objective": curve["objective"],
            "seeds": curve["seeds"],
            "trained": k,
            "mean": m,
            "low": low,
            "high": high,
        }
        for curve in outcome["curves"]
        for k, m, low, high in zip(curve["trained"], curve["mean"], curve["low"], curve["high"], strict=True)
    ]


def draw(outcome: Mapping[str, Any], out: Path) -> None:
    """`curves.svg` and `curves.png`: what was aimed at, and beside it what judges."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    objectives = list(dict.fromkeys(curve["objective"] for curve in outcome["curves"]))
    alike = len({curve["seeds"] for curve in outcome["curves"]}) == 1
    figure = Figure(figsize=(6 * len(objectives), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, objective in zip(np.atleast_1d(figure.subplots(1, len(objectives))), objectives, strict=True):
        lowest: list[float] = []
        for curve in outcome["curves"]:
            if curve["objective"] == objective:
                style = "-" if len(lowest) < N_COLORS else "--"  # colours come round again
                label = curve["strategy"] if alike else f"{curve['strategy']} ({curve['seeds']} seeds)"
                (line,) = ax.plot(curve["trained"], curve["mean"], style, label=label)
                if curve["low"][0] is not None:
                    ax.fill_between(curve["trained"], curve["low"], curve["high"], color=line.get_color(), alpha=0.2)
                lowest.append(curve["mean"][len(curve["mean"]) // 10])
        ax.set_xlabel("networks trained")
        ax.set_ylabel({"judged": "accuracy of the best, judged", "accuracy": "best accuracy"}.get(objective, objective))
        top = max(max(curve["mean"]) for curve in outcome["curves"] if curve["objective"] == objective)
        span = max(top - min(lowest), 1e-3)  # intervals of few seeds are wider than all that is to see
        ax.set_ylim(min(lowest) - 0.05 * span, top + 0.2 * span)
        ax.grid(alpha=0.3)
    ax.legend()
    figure.suptitle(f"{outcome['table']}, {outcome['networks']:,} networks: mean and 95 % interval")
    for kind in ("svg", "png"):
        figure.savefig(out / f"curves.{kind}")


def print_comparison(outcome: Mapping[str, Any]) -> None:
    """The same for people: the aim at a few numbers of trainings, and what the chosen network is worth."""
    aimed = [curve for curve in outcome["curves"] if curve["objective"] != "judged"]
    n = len(aimed[0]["trained"])
    shown = [k for k in (10, 20, 50, 60, 100, 160, 200, 500, 1000, 2000) if k < n] + [n]
    print(f"{outcome['table']}: {outcome['networks']:,} networks; {aimed[0]['objective']} after")
    print(f"{'trained':<26}" + "".join(f"{k:>18}" for k in shown))
    for curve in aimed:
        print(f"{curve['strategy']:<26}" + "".join(f"{_cell(curve, k - 1):>18}" for k in shown))
    print("the network chosen at the end, by what judges")
    for row in outcome["chosen"]:
        reach = "" if row["judged_low"] is None else f" (95 %: {row['judged_low']:.4f} to {row['judged_high']:.4f})"
        inside = "" if row["share_inside"] is None else f"; {row['share_inside']:.1%} of what was drawn is in the table"
        print(f"{row['strategy']:<26}{row['judged']:.4f}{reach}{inside}; {_to_best(row)}")


def _cell(curve: Mapping[str, Any], place: int) -> str:
    low, mean, high = (curve[name][place] for name in ("low", "mean", "high"))
    reach = "" if low is None else f" +- {max(high - mean, mean - low):.4f}"
    return f"{curve['mean'][place]:.4f}{reach}"


def _to_best(row: Mapping[str, Any]) -> str:
    if not row["found_best"]:
        return "none found the best network of the table"
    said = f"{row['found_best']} of {row['seeds']} found the best network"
    if row["to_best_median"] is not None:
        said += f", half of all after {row['to_best_median']:.0f} trained"
    return said + (f", the last after {row['to_best_worst']:.0f}" if row["to_best_worst"] is not None else "")
