"""NSGA-II, as pymoo has it."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2  # noqa: N811
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.core.termination import NoTermination
from pymoo.core.variable import Integer
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.mutation.rm import ChoiceRandomMutation

from hwnas.feasible import FeasibleSet
from hwnas.objectives import minimised
from spaces import InputError, Population

from .strategy import PhasedStrategy


class NSGA2(PhasedStrategy):
    """Fast non-dominated sorting, crowding distance and binary tournaments of pymoo, through its `ask` and `tell`.

    Genes are choices without an order, so crossover is uniform, and mutation draws another value. A phase is a
    generation; offspring that are no network, or miss a limit, become one that is near. Failed trials are worse than
    all others.

    Args:
        objectives: names of values; accuracies are to rise, all else is to fall.

    Source: Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, 2002; pymoo (Blank and Deb, 2020).
    """

    def __init__(self, objectives: tuple[str, ...] = ("accuracy_val", "flops"), *, population: int = 10) -> None:
        if population < 2 or not objectives:
            raise InputError(f"NSGA-II needs objectives and a population of at least 2, got {population}")
        self.objectives = objectives
        self.population = population

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        super().start(feasible, seed)
        self._asked_of: Any = None
        self._first = 0
        self._rows: dict[bytes, Population] = {}

    def plan(self, first: int, rng: np.random.Generator) -> Population:
        if first == 0:
            self._algorithm = self._new_algorithm(rng)
        else:
            self._asked_of.set("F", self._values(self._first, first))
            self._algorithm.random_state = rng
            self._algorithm.tell(infills=self._asked_of)
        self._algorithm.random_state = rng
        self._first = first
        asked = self._algorithm.ask()
        if asked is None or not len(asked):  # everything near was tried
            rows = self.draw_after(first, self.population, rng)
            self._algorithm = self._new_algorithm(rng, rows)
            asked = self._algorithm.ask()
        self._asked_of = asked
        vectors = np.asarray(asked.get("X").tolist(), dtype=np.int64)
        return np.stack([self._rows[vector.tobytes()] for vector in vectors])

    def vectors_inside(self, X: Population, rng: np.random.Generator) -> Population:
        """What pymoo goes on with instead of its offspring: a value for every gene of rows that meet the limits."""
        rows = self.inside(X, rng)
        vectors = np.maximum(rows, 0)
        self._rows |= {vector.tobytes(): row for vector, row in zip(vectors, rows, strict=True)}
        return vectors

    def _values(self, start: int, end: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        trials = self.told[start:end]
        complete = [i for i, trial in enumerate(trials) if trial.state == "complete"]
        known = minimised([trials[i].values for i in complete], self.objectives)
        worst = known.max(axis=0) + 1 if len(known) else np.ones(len(self.objectives))
        F = np.tile(worst, (len(trials), 1))
        F[complete] = known
        return F

    def _new_algorithm(self, rng: np.random.Generator, rows: Population | None = None) -> Any:
        drawn = self.draw_after(0, self.population, rng) if rows is None else rows
        vectors = np.maximum(drawn, 0)
        self._rows |= {vector.tobytes(): row for vector, row in zip(vectors, drawn, strict=True)}
        genes = {f"gene_{i:02d}": Integer(bounds=(0, size - 1)) for i, size in enumerate(self.feasible.space.choices)}
        problem = Problem(n_obj=len(self.objectives), vars=genes)
        algorithm = PymooNSGA2(
            pop_size=self.population,
            sampling=vectors,
            crossover=UniformCrossover(),
            mutation=ChoiceRandomMutation(),
            repair=_Inside(self),
            eliminate_duplicates=True,
        )
        algorithm.setup(problem, termination=NoTermination())
        return algorithm


class _Inside(Repair):  # type: ignore[misc]
    def __init__(self, strategy: NSGA2) -> None:
        super().__init__()
        self.strategy = strategy

    def _do(self, problem: Any, X: Any, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Any:
        return self.strategy.vectors_inside(X.astype(np.int64), random_state)
