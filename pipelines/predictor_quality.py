"""Judging predictors on a table: fitted on a few random networks, asked about all others, many seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from hwnas import FeasibleSet
from hwnas.belief import NormalBelief
from hwnas.evaluation import TabularBenchmark
from hwnas.predictors import (
    CascadePredictor,
    GCNPredictor,
    LinePredictor,
    MLPPredictor,
    Predictor,
    RidgePredictor,
    TreesPredictor,
    TunedPredictor,
    grid,
    quality,
)
from hwnas.predictors.quality import Z95
from hwnas.predictors.sequence import SequenceSurrogate
from hwnas.predictors.surrogate import GaussianProcess, ProcessAndTrees, Surrogate
from hwnas.predictors.surrogate_adapter import FLOPS_COLUMN, GraphSurrogate
from hwnas.study import write_csv
from spaces import InputError

from .benchmark import open_table
from .progress import Listener
from .seeds import check_asked, done, origin, record, recorded, settings_of

Floats = NDArray[np.float64]

# The paper says that these were chosen by cross-validation, and what was chosen; the values tried are ours.
TUNED_OVER = {"learning_rate": (1e-4, 1e-3), "weight_decay": (1e-5, 1e-3), "dropout": (0.0, 0.1)}

# How each predictor is set up to learn from n networks.
PREDICTORS: dict[str, Callable[[int], Predictor | Surrogate]] = {
    "gcn": lambda n: GCNPredictor(),
    "gcn-paper": GCNPredictor.paper_nasbench101,
    "gcn-paper-tuned": lambda n: TunedPredictor(tuple(grid(GCNPredictor.paper_nasbench101(n), **TUNED_OVER))),
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
LEAST = {  # networks that each learns from
    "gcn": 5,
    "gcn-paper": 2,
    "gcn-paper-tuned": 5,
    "gcn18-paper": 2,
    "cascade-paper": 4,
    "mlp-paper": 2,
    "ridge": 4,
    "trees": 4,
    "flops": 4,
    "mlp": 5,
    "lstm": 5,
    "gp": 3,
    "gp-trees": 3,
}
THRESHOLDS = {"nasbench101": 0.91}  # of the paper's classifier
TRAINED = 0.2  # accuracy: what is below did not train, and a few of those would decide a mean of squares
BOUNDS = {"kendall_tau": (-1.0, 1.0), "spearman": (-1.0, 1.0), "coverage": (0.0, 1.0)}  # others are above 0
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
        coverage: the share of observed accuracies (with noise, those of the run that was learned) inside the 95 %
            intervals for an observed one, noise included.
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


@dataclass(frozen=True)
class Failed:
    """A fit of which nothing came, such as of two stages when all that was learned is on one side of the threshold."""

    predictor: str
    n: int
    seed: int
    reason: str


def judge_or_say(asked: Asked) -> Judged | Failed:
    """`judge`, or why it could not."""
    try:
        return judge(asked)
    except (InputError, ArithmeticError, np.linalg.LinAlgError) as error:
        return Failed(asked.predictor, asked.n, asked.seed, str(error))


def judge(asked: Asked) -> Judged:
    """Fit once, and ask about all other networks of the table; nothing but the n values was seen before."""
    benchmark = open_table(asked.table, asked.data, asked.noisy)
    order = np.random.default_rng([asked.seed, asked.n]).permutation(len(benchmark.table.rows))
    seen, rest = order[: asked.n], order[asked.n :]
    signal = benchmark.table.read(benchmark.question(asked.seed).accuracy, order)
    rows = benchmark.table.rows
    feasible = FeasibleSet(benchmark.space, benchmark.known_costs)
    surrogate = surrogate_named(asked.predictor, asked.n)
    fitted = surrogate.fit(rows[seen], signal[: asked.n], feasible=feasible, seed=asked.seed)
    mean, std = fitted.predict(rows[rest])
    low, high = fitted.foretell(rows[rest]).at(np.array([[-Z95], [Z95]]))
    observed = signal[asked.n :]
    truth = _truth(benchmark, rest)
    found = quality(NormalBelief(mean, std), truth)
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
        float(np.mean((low <= observed) & (observed <= high))),
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
        {"table", "networks", "qualities", "failures"}: the mean of each of MEASURES over the seeds, and its 95 %
        interval; which fits failed, and why: they are tried again the next time. The mean is over those that did not.
        With a folder, of all that it holds, also what was not asked for now.
    Raises:
        InputError: if something does not go together.
    """
    check_asked("predictor", names, PREDICTORS, seeds)
    names, sizes = list(dict.fromkeys(names)), list(dict.fromkeys(sizes))
    benchmark = open_table(table, data, noisy)
    networks = len(benchmark.table.rows)
    if networks < 4:
        raise InputError(f"predictors are fitted on 2 networks at least and judged on 2 others, got {networks}")
    if not sizes or min(sizes) < 2 or max(sizes) > networks - 2:
        raise InputError(
            f"predictors are fitted on 2 to {networks - 2} of the {networks} networks, got "
            f"{', '.join(map(str, sizes)) or 'no number'}"
        )
    for name in names:
        if min(sizes) < LEAST[name]:
            raise InputError(f"{name} needs at least {LEAST[name]} networks to learn from, got {min(sizes)}")
    wanted = [Asked(table, data, noisy, name, n, seed) for name in names for n in sizes for seed in seeds]
    source = {"table": benchmark.name, "noisy": noisy, "origin": origin(benchmark)}
    held = [] if out is None else [Asked(table, data, noisy, *key) for key in _held(out)]
    of = {
        (name, n): source | {"predictor": json.loads(json.dumps(settings_of(PREDICTORS[name](n))))}
        for name, n in dict.fromkeys((asked.predictor, asked.n) for asked in [*wanted, *held])
    }
    before = {asked: _recorded(out, asked, of[asked.predictor, asked.n]) for asked in dict.fromkeys([*wanted, *held])}
    judged = {
        asked: found
        for asked, found in before.items()
        if isinstance(found, Judged) or (found is not None and asked not in wanted)  # those that failed are tried again
    }
    with listener.steps("fits", len(wanted)) as steps:
        for _ in judged.keys() & set(wanted):
            steps.advance()
        for asked, found in done(judge_or_say, [asked for asked in wanted if asked not in judged], workers):
            judged[asked] = found
            _record(out, asked, of[asked.predictor, asked.n], found)
            tau = "failed" if isinstance(found, Failed) else f"Kendall tau {found.kendall_tau:.3f}"
            steps.advance(f"{asked.predictor} from {asked.n}: {tau}")
    qualities = _summary([judged[asked] for asked in dict.fromkeys([*wanted, *held]) if asked in judged])
    if out is not None:
        write_csv(out / "qualities.csv", qualities)
    failures = [asdict(found) for found in judged.values() if isinstance(found, Failed)]
    return {"table": table, "networks": networks, "qualities": qualities, "failures": failures}


def _file(out: Path, asked: Asked) -> Path:
    return out / "fits" / f"{asked.predictor}-{asked.n}-{asked.seed}.json"


def _held(out: Path) -> list[tuple[str, int, int]]:
    """The fits in a folder, by predictor, networks learned from and seed."""
    parts = [file.stem.rsplit("-", 2) for file in (out / "fits").glob("*-*-*.json")]
    numbered = [part for part in parts if part[0] in PREDICTORS and part[1].isdecimal() and part[2].isdecimal()]
    return sorted((name, int(n), int(seed)) for name, n, seed in numbered)


def _recorded(out: Path | None, asked: Asked, of: Mapping[str, Any]) -> Judged | Failed | None:
    """What was found before.

    Raises:
        InputError: if the folder is of another table, code or setting, or does not say of which.
    """
    stored = {} if out is None else recorded(_file(out, asked), of)
    if "failed" in stored:
        return Failed(**stored["failed"])
    return Judged(**stored["judged"]) if "judged" in stored else None


def _record(out: Path | None, asked: Asked, of: Mapping[str, Any], found: Judged | Failed) -> None:
    if out is None:
        return
    record(_file(out, asked), of, {"failed" if isinstance(found, Failed) else "judged": asdict(found)})


def _summary(judged: Sequence[Judged | Failed]) -> list[dict[str, Any]]:
    found = []
    for name, n in dict.fromkeys((each.predictor, each.n) for each in judged):
        own = [each for each in judged if (each.predictor, each.n) == (name, n)]
        good = [each for each in own if isinstance(each, Judged)]
        row: dict[str, Any] = {"predictor": name, "n": n, "seeds": len(good), "failed": len(own) - len(good)}
        for measure in MEASURES:
            row |= _interval(measure, [getattr(each, measure) for each in good])
        found.append(row)
    return found


def _interval(measure: str, values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and 95 % interval by Student's t over the seeds that have a value; None where too few have."""
    known = np.array([value for value in values if value is not None])
    mean = float(known.mean()) if len(known) else None
    low = high = None
    if mean is not None and len(known) > 1:
        reach = float(student.ppf(0.975, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
        least, most = BOUNDS.get(measure, (0.0, math.inf))
        low, high = max(mean - reach, least), min(mean + reach, most)
    return {measure: mean, f"{measure}_low": low, f"{measure}_high": high}


def print_qualities(outcome: Mapping[str, Any]) -> None:
    """The same for people."""
    print(
        f"{outcome['table']}: {outcome['networks']:,} networks; errors in percent squared, all on networks not learned"
    )
    titles = ("Kendall tau", "Spearman", "MSE", "MSE of trained", "MSE of passed", "MSE above", "observed in 95 %")
    print(f"{'predictor':<16}{'n':>5}{'seeds':>7}" + "".join(f"{title:>18}" for title in titles))
    for row in outcome["qualities"]:
        cells = "".join(f"{_cell(row, measure):>18}" for measure in MEASURES)
        print(f"{row['predictor']:<16}{row['n']:>5}{row['seeds']:>7}{cells}")
    print("MSE of trained: of networks that learned anything (20 % accuracy and more)", end="")
    print("; MSE of passed, above: of those predicted, and truly, above the table's threshold (91 % of NAS-Bench-101)")
    print("observed in 95 %: share of observed accuracies inside the intervals for an observed one, noise included")
    for each in outcome["failures"]:
        print(f"{each['predictor']} from {each['n']}, seed {each['seed']}, failed: {each['reason']}")


def _cell(row: Mapping[str, Any], measure: str) -> str:
    if row[measure] is None:
        return "-"
    mean, low, high = row[measure], row[f"{measure}_low"], row[f"{measure}_high"]
    return f"{mean:.3f}" + ("" if high is None else f" +- {max(high - mean, mean - low):.3f}")
