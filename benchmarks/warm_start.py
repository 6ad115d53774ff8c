"""What a child gains from starting with its parent's weights: after short trainings, and for ranking.

Of each seed one parent is trained, then children that are some edits away, three times each: short from random
weights, short from the parent's, and long from random weights. Printed and written: the mean accuracies, and Kendall's
tau of the short ones with the long one over the children of a seed.

Run: python benchmarks/warm_start.py --data digits --seeds 5 --out benchmarks/results/warm_start_digits.csv
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from hwnas.evaluation import TrainingEvaluator
from hwnas.execution import use_one_thread
from hwnas.strategies.edits import Edits
from hwnas.training import Recipe, load_images
from spaces import Population, SearchSpace, get_space
from spaces.errors import InputError


def edited(space: SearchSpace, row: Population, steps: int, rng: np.random.Generator) -> Population:
    """A row some edits away, each drawn uniformly."""
    for _ in range(steps):
        children, legal = Edits(space).of(row[None], rng)
        row = children[0, rng.choice(np.flatnonzero(legal[0]))]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--space", default="proxyless@8,8x1,16x3s2,24x3s2,64")
    parser.add_argument("--short", type=float, default=3, help="epochs of parents and of children")
    parser.add_argument("--long", type=float, default=20, help="epochs of the trainings that short ones stand for")
    parser.add_argument("--children", type=int, default=6)
    parser.add_argument("--edits", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    use_one_thread()
    rows = []
    for seed in range(asked.seeds):
        rows += measure(asked, seed)
        if asked.out is not None:
            write(asked.out, rows)
    columns = {name: np.array([float(row[name]) for row in rows]) for name in ("cold", "warm", "long")}
    seeds = np.array([row["seed"] for row in rows])
    gain = np.array([(columns["warm"] - columns["cold"])[seeds == seed].mean() for seed in range(asked.seeds)])
    print(f"{asked.data}, {asked.space}: {asked.short:g} epochs, long {asked.long:g}, {asked.seeds} seeds")
    print("mean accuracy " + ", ".join(f"{name} {values.mean():.4f}" for name, values in columns.items()))
    print(f"warm - cold, a seed: {', '.join(f'{each:+.4f}' for each in gain)}")
    for name in ("cold", "warm"):
        taus = [
            kendalltau(columns[name][seeds == s], columns["long"][seeds == s]).statistic for s in range(asked.seeds)
        ]
        print(f"tau with long trainings, {name}: {np.nanmean(taus):.3f} ({', '.join(f'{tau:.2f}' for tau in taus)})")


def write(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def measure(asked: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng([seed, 1])
    data = load_images(asked.data, root=asked.data_root, resolution=asked.resolution, seed=seed)
    space = get_space(asked.space)
    (parent,) = space.sample(1, rng)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        data.save(Path(place) / "data")
        evaluator = TrainingEvaluator(space, Path(place) / "data", Recipe(), heritage=Path(place) / "weights")
        origin = (0, space.arch(parent))
        evaluator.evaluate_trial(origin[1], epochs=asked.short, seed=seed, number=0, parent=None)
        for number in range(1, asked.children + 1):
            arch = space.arch(edited(space, parent, asked.edits, rng))
            cold = evaluator.evaluate(arch, epochs=asked.short, seed=number)
            warm = evaluator.evaluate_trial(arch, epochs=asked.short, seed=number, number=number, parent=origin)
            long = evaluator.evaluate(arch, epochs=asked.long, seed=number)
            values = {name: each["accuracy_val"] for name, each in (("cold", cold), ("warm", warm), ("long", long))}
            found.append({"data": asked.data, "short_epochs": asked.short, "long_epochs": asked.long, "seed": seed})
            found[-1] |= {"parent": str(origin[1]), "arch": str(arch), **values}
            print(f"seed {seed}, {arch}: " + ", ".join(f"{k} {v:.4f}" for k, v in values.items()), flush=True)
    return found


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from error
