"""The iterated predictor: a surrogate is fitted, a few networks are trained where it hopes most, and again."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwnas.belief import Belief
from hwnas.evaluation.restricted import RestrictedSpace
from hwnas.feasible import FeasibleSet
from hwnas.pareto import is_non_dominated
from hwnas.predictors.features import walked_nodes
from hwnas.predictors.surrogate import FAR, GaussianProcess, Surrogate
from hwnas.uncertain_front import best_gains
from spaces import InputError, Population

from .surrogate_search import REFERENCE, SurrogateSearch, in_any_order

MUTATED = 20  # of the best networks so far, mutants are candidates too
WALKED_CANDIDATES = 1000  # where the latency of each is estimated layer by layer, in 2 to 5 ms
WALKED_NODES = 300_000  # of all candidates' graphs: about 2 seconds
REFERENCE_DRAWS = 2000
REFERENCE_QUANTILE = 0.99


class IteratedPredictor(SurrogateSearch):
    """`n_random` networks, then `batch` at a time, chosen among candidates by the surrogate of all trials so far.

    For accuracy alone, by upper confidence bound: the highest bound of beta stds; or by Thompson sampling: each of
    the batch is the best of one draw of a value for every candidate (draws are independent between candidates).
    With costs as further objectives, by the expected gain of hypervolume (`hwnas.uncertain_front.expected_gain`), each
    of the batch taken as known with its median when the next is chosen: costs are exact before training, so only
    accuracy is uncertain. Candidates are networks that meet the limits and are not known: random ones, from the whole
    cost axis, and mutants of the best, or of the front so far.

    Args:
        objectives: accuracy_val, and costs that are known before training.
        surrogate: a `GaussianProcess` by default.
        n_candidates: as many are drawn, fewer where describing or costing each takes long (of cells of 30 nodes 10,000,
            1,000 where latencies are estimated layer by layer); a table that is no larger is looked at whole.

    Source: ours; upper confidence bound by Srinivas et al., Gaussian Process Optimization in the Bandit Setting, 2010.
    """

    def __init__(
        self,
        objectives: tuple[str, ...] = ("accuracy_val",),
        *,
        n_random: int = 10,
        batch: int = 3,
        acquisition: Literal["ucb", "thompson"] = "ucb",
        beta: float = 1.2,
        n_candidates: int = 40_000,
        surrogate: Surrogate | None = None,
    ) -> None:
        if n_random < 1 or batch < 1 or n_candidates < batch or beta < 0 or acquisition not in ("ucb", "thompson"):
            raise InputError(
                "an iterated predictor needs n_random and batch of at least 1, n_candidates of at least batch, beta of "
                f"at least 0 and acquisition 'ucb' or 'thompson'; got {n_random}, {batch}, {n_candidates}, {beta} and "
                f"{acquisition!r}"
            )
        if objectives.count("accuracy_val") != 1 or objectives[0] != "accuracy_val":
            raise InputError(f"the objectives must be accuracy_val and costs after it, got {', '.join(objectives)}")
        self.costs = objectives[1:]
        self.n_random = n_random
        self.batch = batch
        self.acquisition = acquisition
        self.beta = beta
        self.n_candidates = n_candidates
        self.surrogate = GaussianProcess() if surrogate is None else surrogate

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        super().start(feasible, seed)
        for name in self.costs:  # an unknown one is refused now, not after the first networks
            feasible.cost(name, self._stacked([]))
        self._pool: Population | None = None
        for of_another_search in ("_reference", "_drawn"):
            self.__dict__.pop(of_another_search, None)

    def plan(self, first: int, rng: np.random.Generator) -> Population:
        if first == 0:
            return self.draw_after(0, self.n_random, rng)
        if len(self.told) >= first + self.batch:  # after a break: it was planned before, and need not be again
            return self.rows_before(first + self.batch)[first:]
        fitted = self.fitted(first)
        if fitted is None:
            return self.draw_hopeful(first, self.batch, rng)
        rows = in_any_order(self._candidates(first, rng), rng)
        picks = rows[self._picks(first, rows, fitted.believe(rows), rng)] if len(rows) else rows
        lacking = self.batch - len(picks)  # a whole batch always, so that a search that goes on knows where each began
        return np.concatenate([picks, self.draw_after(first, lacking, rng)]) if lacking else picks

    def _picks(self, first: int, rows: Population, belief: Belief, rng: np.random.Generator) -> NDArray[np.int64]:
        if self.costs:
            return self._gains(first, rows, belief)
        if self.acquisition == "ucb":
            return np.argsort(-belief.at(self.beta), kind="stable")[: self.batch]
        return _best_of_draws(belief.at(rng.standard_normal((min(self.batch, len(rows)), len(rows)))))

    def _gains(self, first: int, rows: Population, belief: Belief) -> NDArray[np.int64]:
        accuracies = self.told_accuracies()[:first]
        good = np.isfinite(accuracies)
        low, middle, high = np.quantile(accuracies[good], (0.25, 0.5, 0.75))
        return best_gains(
            self.batch,
            belief,
            self._costs_of(rows),
            accuracies=accuracies[good],
            known_costs=self._costs_of(self.rows_before(first)[good]),
            floor=max(float(accuracies[good].min()), float(middle - FAR * (high - low))),
            reference=self._reference,
        )

    def _costs_of(self, rows: Population) -> NDArray[np.float64]:
        return np.stack([self.feasible.cost(name, rows) for name in self.costs], axis=1)

    @cached_property
    def _reference(self) -> NDArray[np.float64]:
        """Of each cost nearly the greatest of networks that meet the limits."""
        rows = self.feasible.sample(REFERENCE_DRAWS, np.random.default_rng(self.seeds(0, REFERENCE)))
        return np.asarray(np.quantile(self._costs_of(rows), REFERENCE_QUANTILE, axis=0))

    def _parents(self, first: int) -> Population:
        """Whose mutants are candidates: of the trials before `first` the most accurate, or those on the front."""
        known, accuracies = self.rows_before(first), self.told_accuracies()[:first]
        good = np.flatnonzero(np.isfinite(accuracies))
        order = good[np.argsort(-accuracies[good], kind="stable")]
        if self.costs:
            F = np.concatenate([-accuracies[good, None], self._costs_of(known[good])], axis=1)
            order = np.concatenate([good[is_non_dominated(F)], order])
        return known[order[:MUTATED]]

    def _candidates(self, first: int, rng: np.random.Generator) -> Population:
        known, space = self.rows_before(first), self.feasible.space
        if isinstance(space, RestrictedSpace) and len(space.rows) <= self.n_candidates:
            rows = self._whole(space)
        else:
            parents = self._parents(first)
            mutants = space.mutate(np.repeat(parents, -(-self._drawn // (4 * len(parents))), axis=0), rng)
            mutants = mutants[self.feasible.holds(mutants)]
            rows = np.concatenate([mutants, self.feasible.sample(max(0, self._drawn - len(mutants)), rng)])
        keys = space.canonical(np.concatenate([known, rows]))
        at = np.unique(keys, axis=0, return_index=True)[1]
        return rows[np.sort(at[at >= len(known)]) - len(known)]

    @cached_property
    def _drawn(self) -> int:
        """How many candidates are drawn: of large graphs, and where latencies are walked, what takes some seconds."""
        asked = (*self.costs, *(limit.name for limit in self.feasible.limits))
        most = WALKED_CANDIDATES if any(map(self.feasible.walks, asked)) else self.n_candidates
        nodes = walked_nodes(self.feasible.space)
        return max(self.batch, min(most, self.n_candidates, WALKED_NODES // nodes if nodes else most))

    def _whole(self, space: RestrictedSpace) -> Population:
        if self._pool is None:
            self._pool = space.rows[self.feasible.holds(space.rows)]
        return self._pool


def _best_of_draws(drawn: NDArray[np.float64]) -> NDArray[np.int64]:
    """(k, n) -> k different places, each the best of one row."""
    picks: list[int] = []
    for values in drawn:
        values[picks] = -np.inf
        picks.append(int(np.argmax(values)))
    return np.array(picks, dtype=np.int64)
