"""How well is latency learned from 10, 30 and 100 networks of a space that were measured on this device?

    python benchmarks/latency_learned.py --space darts@8x16 --keep darts.jsonl     # measures, about 5 minutes
    python benchmarks/latency_learned.py --from darts.jsonl nasnet.jsonl           # learns again from what was kept

Networks to learn from are those that `spread_rows` names, networks to judge by are random ones (of chains, from the
whole range of multiply-adds); each is timed beside the reference alone, in processes of its own, as a search measures
what it learns from. The two take turns: in each of four the first are visited once, the others three times, in random
order, so that what one minute makes of a network is not taken for its latency, and the machine is the same for both:
the errors are those of what was learned. The truth's own error is that of the mean of a network's turns, as they
scatter. Intervals are those of estimates at another time, as a latency model states them, which nothing here tests.

Prices of layers are learned from n networks that `most_telling` chooses, and from n random ones of them. Beside them,
from the same random ones: flops, scaled, and a table with an entry for each value of each gene (ridge). Prints means
over draws, with the 95 % interval of the mean where draws differ. The rows of a space, resolution, load and device in
results/latency_learned.csv are replaced by those of the same; all others stay. `--all` measures every space that the
file tells of.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from latency_common import busy, described, reference_ms, wide_sample, write_some
from latency_help import averaged, half_interval
from numpy.typing import NDArray
from scipy import stats

from latency import Device, build_onnx
from latency.drift import (
    NORMAL,
    WARM_RUNS,
    Reading,
    at_stored_speed,
    between_measurements,
    readings_of,
    slope_deviation_of,
)
from latency.measuring import PLAN_VISITS
from latency.model import spread_rows
from latency.prices import fit_prices, most_telling
from latency.reference import reference_model
from latency.rounds import new_processes, rounds_of, run_rounds
from spaces import Population, SearchSpace, Task, get_space
from spaces.tally import LayerForm

RESULTS = Path(__file__).with_name("results")
KEPT = {"space", "res", "classes", "tag", "device", "busy", "stored", "row", "readings"}
BY = ("space", "resolution", "busy", "device", "noise", "judged", "model", "networks")
SIZES = (10, 30, 100)
EVERY = (  # that results/latency_learned.csv tells of: space, resolution, classes
    ("darts@8x16", 32, 10),
    ("nasnet@2x192", 32, 10),
    ("nasbench101", 32, 10),
    ("proxyless", 96, 1000),
    ("proxyless", 224, 1000),
)
DRAWS = 10
PROCESSES_A_TURN = {"train": 1, "test": 3}
RIDGE = 1e-2

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def turn(
    space: SearchSpace, task: Task, rows: Population, processes: Integers, rng: np.random.Generator
) -> list[list[Reading]]:
    """Of each row as many visits as it gets processes, in random order."""
    reference = reference_model(task)
    found: list[list[Reading]] = [[] for _ in rows]
    with new_processes() as run:
        for i in rng.permutation(np.repeat(np.arange(len(rows)), processes)).tolist():
            model = build_onnx(space.layers(space.arch(rows[i]), task), rng, normalise=True)
            found[i].append(run(visit_once, model, reference, *rng.spawn(1)))
    return found


def visit_once(model: bytes, reference: bytes, rng: np.random.Generator) -> Reading:
    raw = run_rounds([reference, model], visits=1, rounds=rounds_of([model]), warm_runs=WARM_RUNS, rng=rng)
    ((reading,),) = readings_of(raw)
    return reading


@dataclass(frozen=True)
class Measured:
    """Networks of one space and task, times as shares of the reference's, with so many busy processes beside.

    Attributes:
        tags: "train" for those to learn from, "test" for those to judge by.
        log_ratios: of each network, one a visit in the order in which they were made, at the stored speed.
        between: half of the interval that another time makes, by what the reference took while networks to learn from
            were measured.
    """

    space: str
    task: Task
    rows: Population
    device: str
    busy: int
    tags: NDArray[np.str_]
    log_ratios: tuple[Floats, ...]
    between: float

    @classmethod
    def of(cls, kept: Sequence[Mapping[str, object]]) -> Measured:
        stored = float(kept[0]["stored"])  # type: ignore[arg-type]
        tags = np.array([each["tag"] for each in kept])
        there = [at_stored_speed([Reading(*one) for one in each["readings"]], stored) for each in kept]  # type: ignore[attr-defined]
        learned_from = [each for each, tag in zip(there, tags, strict=True) if tag == "train"]
        drift = float(np.median([each.drift for each in learned_from]))
        return cls(
            space=str(kept[0]["space"]),
            task=Task(int(kept[0]["res"]), int(kept[0]["classes"])),  # type: ignore[call-overload]
            rows=np.array([each["row"] for each in kept], dtype=np.int64),
            device=str(kept[0]["device"]),
            busy=int(kept[0]["busy"]),  # type: ignore[call-overload]
            tags=tags,
            log_ratios=tuple(each.log_ratios for each in there),
            between=NORMAL * between_measurements(drift, slope_deviation_of(learned_from)),
        )

    @cached_property
    def ratio(self) -> Floats:
        return np.exp([values.mean() for values in self.log_ratios])

    @property
    def noise(self) -> float:
        """Relative standard error of the mean of a network to judge by, as its turns scatter, root mean square."""
        of_judges = [values for values, tag in zip(self.log_ratios, self.tags, strict=True) if tag == "test"]
        turns = [values.reshape(PLAN_VISITS, -1).mean(axis=1) for values in of_judges]
        return float(np.sqrt(np.mean([values.var(ddof=1) / len(values) for values in turns])))

    @cached_property
    def counted(self) -> tuple[Floats, tuple[LayerForm, ...]]:
        tally = get_space(self.space).tally(self.task)
        return tally(self.rows), tally.forms

    def splits(self, n: int) -> Iterator[tuple[int, Integers, Integers]]:
        """(draw, networks to learn from, networks to judge by)."""
        pool, judges = (np.flatnonzero(self.tags == tag) for tag in ("train", "test"))
        for draw in range(DRAWS if n <= len(pool) else 0):
            yield draw, np.random.default_rng([n, draw]).permutation(pool), judges


Guess = tuple[Floats, Floats, Floats]  # estimates, and both ends of their intervals


def learned(data: Measured, rows: Integers) -> Guess:
    counts, forms = data.counted
    prices = fit_prices(counts[rows], forms, data.ratio[rows])
    return prices.estimate(counts, forms), *prices.interval(counts, forms, data.between)


def scaled_flops(data: Measured, rows: Integers) -> Guess:
    counts, forms = data.counted
    flops = counts @ [form.flops for form in forms]
    guess = flops * np.exp(np.log(data.ratio[rows] / flops[rows]).mean())
    return guess, guess, guess


def gene_table(data: Measured, rows: Integers) -> Guess:
    values = np.arange(-1, data.rows.max() + 1)
    flat = (data.rows[:, :, None] == values).reshape(len(data.rows), -1).astype(float)
    centre, logs = flat[rows].mean(axis=0), np.log(data.ratio)
    x = flat[rows] - centre
    dual = np.linalg.solve(x @ x.T + RIDGE * len(x) * np.eye(len(x)), logs[rows] - logs[rows].mean())
    guess = np.exp(logs[rows].mean() + (flat - centre) @ (x.T @ dual))
    return guess, guess, guess


MODELS: dict[str, Callable[[Measured, Integers], Guess]] = {
    "learned": learned,
    "gene table": gene_table,
    "flops, scaled": scaled_flops,
}


def judge(data: Measured) -> list[dict[str, object]]:
    found = []
    about: dict[str, object] = {"space": data.space, "resolution": data.task.resolution, "busy": data.busy}
    about |= {"device": data.device, "noise": round(data.noise, 5)}
    counts, forms = data.counted
    for n in SIZES:
        for draw, pool, judges in data.splits(n):
            chosen = pool[most_telling(counts[pool], forms, n)]
            ways = [(name, model, pool[:n]) for name, model in MODELS.items()] + [("learned, chosen", learned, chosen)]
            for name, model, rows in ways:
                estimate, low, high = (values[judges] for values in model(data, rows))
                truth = data.ratio[judges]
                error = np.abs(estimate / truth - 1)
                found.append(
                    about
                    | {"model": name, "networks": n, "draw": draw, "judged": len(judges)}
                    | {"spearman": float(stats.spearmanr(estimate, truth).statistic)}
                    | {"within_10": float(np.mean(error < 0.1)), "within_5": float(np.mean(error < 0.05))}
                    | {"mean_error": float(error.mean()), "worst_error": float(error.max())}
                    | ({"held": float(np.mean((low <= truth) & (truth <= high)))} if (low < high).all() else {})
                )
    return found


def show(found: Sequence[Mapping[str, object]]) -> None:
    first = found[0]
    print(
        f"{first['space']} at {first['resolution']} px, {first['busy']} busy processes beside; "
        f"the truth's own error {first['noise']:.1%}"
    )
    for n in SIZES:
        for model in ("learned, chosen", *MODELS):
            mine = [row for row in found if (row["model"], row["networks"]) == (model, n)]
            text = []
            for what in ("spearman", "within_10", "within_5", "mean_error", "worst_error", "held"):
                values = np.array([row[what] for row in mine if what in row])
                if len(values):
                    reach = half_interval(values)
                    text.append(f"{what} {values.mean():.3f}" + (f" +-{reach:.3f}" if reach > 5e-4 else ""))
            if mine:
                print(f"{n:4d} {model:16s} {', '.join(text)}")


def measured(name: str, task: Task, train: int, test: int, seed: int, beside: int) -> list[dict[str, object]]:
    """What is kept of networks to learn from and of others to judge by."""
    space, rng, known_ms = get_space(name), np.random.default_rng(seed), reference_ms(task)
    learned_from = spread_rows(space, task, train, rng)
    drawn = wide_sample(space, task, test + train, rng)
    known = (space.canonical(drawn)[:, None] == space.canonical(learned_from)).all(axis=2).any(axis=1)
    judges = drawn[~known][:test]
    rows, tags = np.concatenate([learned_from, judges]), ["train"] * len(learned_from) + ["test"] * len(judges)
    processes = np.array([PROCESSES_A_TURN[tag] for tag in tags])
    with busy(beside):
        turns = [turn(space, task, rows, processes, rng) for _ in range(PLAN_VISITS)]
    what = {"space": space.name, "res": task.resolution, "classes": task.classes}
    what |= {"device": described(Device.here()), "busy": beside, "stored": known_ms}
    return [
        {**what, "tag": tag, "row": row.tolist(), "readings": [one for each in of_network for one in each]}
        for tag, row, of_network in zip(tags, rows, zip(*turns, strict=True), strict=True)
    ]


def conclude(kept: Sequence[Mapping[str, object]]) -> None:
    """Judge, show and store what was kept, each space, resolution, device and load for itself."""

    def place_of(each: Mapping[str, object]) -> tuple[object, ...]:
        return each["space"], each["res"], each["device"], each["busy"]

    for place in dict.fromkeys(map(place_of, kept)):
        found = judge(Measured.of([each for each in kept if place_of(each) == place]))
        show(found)
        write_some(RESULTS / "latency_learned.csv", averaged(found, BY), by=("space", "resolution", "busy", "device"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="darts@8x16")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--train", type=int, default=100)
    parser.add_argument("--test", type=int, default=50, help="at least 2: those that judge")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--busy", type=int, default=0, help="processes beside it that never rest")
    parser.add_argument("--all", action="store_true", help="every space of EVERY, instead of --space")
    parser.add_argument("--keep", type=Path, help="a file to append what is measured to, one JSON object a network")
    parser.add_argument("--from", dest="kept", type=Path, nargs="+", help="what was kept before; nothing is measured")
    asked = parser.parse_args()
    if asked.test < 2:
        parser.error(f"--test must be at least 2, got {asked.test}")
    if asked.kept:
        for path in asked.kept:
            kept = [json.loads(line) for line in path.read_text().splitlines()]
            if not all(each.keys() >= KEPT for each in kept):
                parser.error(f"{path} must say {', '.join(sorted(KEPT))} of each network, but does not: measure anew")
            if any(len(each["readings"]) != PLAN_VISITS * PROCESSES_A_TURN[each["tag"]] for each in kept):
                parser.error(f"{path} must hold {PLAN_VISITS} turns of each network, but does not: measure anew")
            conclude(kept)
        return
    for name, resolution, classes in EVERY if asked.all else [(asked.space, asked.resolution, asked.classes)]:
        kept = measured(name, Task(resolution, classes), asked.train, asked.test, asked.seed, asked.busy)
        if asked.keep:
            with asked.keep.open("a") as file:
                file.writelines(json.dumps(each) + "\n" for each in kept)
        conclude(kept)


if __name__ == "__main__":
    main()
