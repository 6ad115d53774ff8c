"""The iterated predictor: a surrogate is fitted, a few networks are trained where it hopes most, and again."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwnas.evaluation.restricted import RestrictedSpace
from hwnas.feasible import FeasibleSet
from hwnas.predictors.surrogate import FittedSurrogate, GaussianProcess, Surrogate
from hwnas.trial import Trial
from spaces import InputError, Population

from .strategy import PhasedStrategy

MUTATED = 20  # of the best networks so far, mutants are candidates too
LEAST_TO_FIT = 3


class IteratedPredictor(PhasedStrategy):
    """`n_random` networks, then `batch` at a time, chosen among candidates by the surrogate of all trials so far.

    By upper confidence bound the candidates of the highest mean + beta * std are chosen; by Thompson sampling each
    of the batch is the best of one draw of a normal value for every candidate (draws are independent between
    candidates). Candidates are networks that meet the limits and are not known: random ones, and mutants of the best.

    Args:
        surrogate: a `GaussianProcess` by default.
        n_candidates: as many are drawn; a table that is no larger is looked at whole.
    """

    def __init__(
        self,
        *,
        n_random: int = 10,
        batch: int = 5,
        acquisition: Literal["ucb", "thompson"] = "ucb",
        beta: float = 1.0,
        n_candidates: int = 40_000,
        surrogate: Surrogate | None = None,
    ) -> None:
        if n_random < 1 or batch < 1 or n_candidates < batch or beta < 0 or acquisition not in ("ucb", "thompson"):
            raise InputError(
                "an iterated predictor needs n_random and batch of at least 1, n_candidates of at least batch, beta of "
                f"at least 0 and acquisition 'ucb' or 'thompson'; got {n_random}, {batch}, {n_candidates}, {beta} and "
                f"{acquisition!r}"
            )
        self.n_random = n_random
        self.batch = batch
        self.acquisition = acquisition
        self.beta = beta
        self.n_candidates = n_candidates
        self.surrogate = GaussianProcess() if surrogate is None else surrogate

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        super().start(feasible, seed)
        self._pool: Population | None = None

    def plan(self, first: int, rng: np.random.Generator) -> Population:
        if first == 0:
            return self.draw_after(0, self.n_random, rng)
        if len(self.told) >= first + self.batch:  # after a break: it was planned before, and need not be again
            return self.rows_before(first + self.batch)[first:]
        fitted = self._fit(first)
        rows = self._candidates(first, rng)
        if fitted is None or len(rows) < self.batch:
            return self.draw_after(first, self.batch, rng)
        mean, std = fitted.predict(rows)
        if self.acquisition == "ucb":
            return rows[np.argsort(-(mean + self.beta * std), kind="stable")[: self.batch]]
        return rows[_best_of_draws(mean, std, self.batch, rng)]

    def chosen(self) -> Trial | None:
        """The trial of the highest mean of the surrogate, once there are enough to fit it."""
        fitted = self._fit(len(self.told))
        if fitted is None:
            return super().chosen()
        complete = [i for i, trial in enumerate(self.told) if trial.state == "complete"]
        mean, _ = fitted.predict(self.told_rows()[complete])
        return self.told[complete[int(np.argmax(mean))]]

    def _fit(self, first: int) -> FittedSurrogate | None:
        accuracies = self.told_accuracies()[:first]
        good = np.isfinite(accuracies)
        if good.sum() < LEAST_TO_FIT:
            return None
        rows = self.rows_before(first)[good]
        return self.surrogate.fit(rows, accuracies[good], feasible=self.feasible, seed=self.seed + first)

    def _candidates(self, first: int, rng: np.random.Generator) -> Population:
        known, space = self.rows_before(first), self.feasible.space
        if isinstance(space, RestrictedSpace) and len(space.rows) <= self.n_candidates:
            rows = self._whole(space)
        else:
            best = known[np.argsort(-self.told_accuracies()[:first], kind="stable")[:MUTATED]]
            mutants = space.mutate(np.repeat(best, self.n_candidates // (4 * len(best)), axis=0), rng)
            mutants = mutants[self.feasible.holds(mutants)]
            rows = np.concatenate([mutants, self.feasible.sample(self.n_candidates - len(mutants), rng)])
        keys = space.canonical(np.concatenate([known, rows]))
        at = np.unique(keys, axis=0, return_index=True)[1]
        return rows[np.sort(at[at >= len(known)]) - len(known)]

    def _whole(self, space: RestrictedSpace) -> Population:
        if self._pool is None:
            self._pool = space.rows[self.feasible.holds(space.rows)]
        return self._pool


def _best_of_draws(
    mean: NDArray[np.float64], std: NDArray[np.float64], n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """n different places, each the best of one draw."""
    drawn = mean + std * rng.standard_normal((n, len(mean)))
    picks: list[int] = []
    for values in drawn:
        values[picks] = -np.inf
        picks.append(int(np.argmax(values)))
    return np.array(picks, dtype=np.int64)
