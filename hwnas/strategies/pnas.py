"""PNAS: from simple networks to complex ones, a surrogate choosing which children of a level are trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.feasible import FeasibleSet, InfeasibleError
from hwnas.growth import GrowthLimits, children_in_parts, first_of_each
from hwnas.pareto import soft_front, spread_along
from hwnas.predictors.surrogate import FittedSurrogate, GaussianProcess, Surrogate
from hwnas.trial import Trial
from spaces import InputError, Population

from .strategy import PhasedStrategy

Floats = NDArray[np.float64]
LEAST_TO_FIT = 5  # networks below which children are drawn, not ranked


class PNAS(PhasedStrategy):
    """Progressive search: simple networks are trained, then the best children of what was trained, level by level.

    The first level are the `n_simplest` simplest networks of the space, of which `first` are trained. A surrogate of
    all that was trained ranks all different children of a level, and the `K` of the highest mean are trained; they are
    the next level. Where a level has fewer children than K, all are trained. When nothing is left to grow, or after
    `levels` steps, the parents are all networks trained so far, and again the K best of their children that were not
    trained follow.

    Children that miss a limit are left out before they are ranked. They are not trained, but `n_bridges` of them, the
    nearest to the limits, grow with the level, since their children may meet what they miss, such as a lower limit.
    Those that miss an upper limit that growth can only violate further (`hwnas.growth.never_falls`) do not grow.

    Where `cost` is named, the K are taken along the cost axis from the soft Pareto front of mean over cost of all
    children, and, where that has fewer, from the highest means of the others.

    Args:
        K: the beam: as many children are trained of each level.
        first: trained networks of the first level, drawn from `n_simplest`; K by default.
        n_simplest: networks of the first level, `first` by default.
        levels: the most steps of growth; None for as many as the space has.
        surrogate: a `GaussianProcess` by default; the paper's are those of `SequenceSurrogate`.
        cost: the second objective, as costs are named; None where accuracy is the only one.
        J: softness of the front.

    Source: Liu et al., Progressive Neural Architecture Search, 1712.00559, algorithm 1. Its settings are K = 256 and
    first = n_simplest = 136, all cells of one block. Limits, costs, and what follows the last level are ours.
    """

    def __init__(
        self,
        *,
        K: int = 256,
        first: int | None = None,
        n_simplest: int | None = None,
        levels: int | None = None,
        surrogate: Surrogate | None = None,
        cost: str | None = None,
        J: int = 6,
        n_bridges: int = 1000,
    ) -> None:
        self.K = K
        self.first = K if first is None else first
        self.n_simplest = self.first if n_simplest is None else n_simplest
        self.levels = levels
        self.surrogate = GaussianProcess() if surrogate is None else surrogate
        self.cost = cost
        self.J = J
        self.n_bridges = n_bridges
        if not (K >= 1 and 1 <= self.first <= self.n_simplest and (levels is None or levels >= 0)) or n_bridges < 0:
            raise InputError(
                "PNAS needs K and first of at least 1, n_simplest of at least first, levels and n_bridges of at least "
                f"0; got {K}, {self.first}, {self.n_simplest}, {levels} and {n_bridges}"
            )

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        super().start(feasible, seed)
        self._cost(self._stacked([]))  # an unknown cost is refused now, not when the first level is trained
        self._limits = GrowthLimits(feasible)
        self._steps = 0
        self._grows = True
        self._phase = 0  # the first proposal of the last level

    def plan(self, first: int, rng: np.random.Generator) -> Population:
        if first == 0:
            return self._begin(rng)
        known, fitted = self.rows_before(first), self._fit(first)
        if self._grows:
            rows = self._next_level(known, fitted, rng)
            self._phase = first
            if len(rows):
                return rows
            self._grows = False
        rows = self._best(np.concatenate([self._simplest, known]), known, fitted, rng, self.K).rows
        return rows if len(rows) else self.draw_after(first, self.K, rng)

    def chosen(self) -> Trial | None:
        """The trial of the highest mean of the surrogate, once there are enough to fit it."""
        fitted = self._fit(len(self.told))
        if fitted is None:
            return super().chosen()
        complete = [i for i, trial in enumerate(self.told) if trial.state == "complete"]
        mean, _ = fitted.predict(self.told_rows()[complete])
        return self.told[complete[int(np.argmax(mean))]]

    def _begin(self, rng: np.random.Generator) -> Population:
        """The first level; where limits leave nothing of it, the first level above that they leave something of."""
        simplest = self._checked_simplest(rng)
        hopeless, met = self._limits.hopeless(simplest), self.feasible.holds(simplest)
        self._simplest = simplest[~hopeless]
        self._refuse_if_all_miss(simplest, hopeless)
        is_trained = np.zeros(len(simplest), dtype=np.bool_)
        allowed = np.flatnonzero(met)
        is_trained[rng.choice(allowed, size=min(self.first, len(allowed)), replace=False)] = True
        rows, self._others = simplest[is_trained], simplest[~is_trained & ~hopeless]
        while not len(rows) and len(self._others):
            found = self._best(self._others, rows, None, rng, self.first)
            rows, self._others = found.rows, found.bridges
        if not len(rows):
            self._refuse(f"nothing that grew from its {len(simplest)} simplest networks met them")
        return rows

    def _next_level(self, known: Population, fitted: FittedSurrogate | None, rng: np.random.Generator) -> Population:
        parents = np.concatenate([known[self._phase :], self._others])
        found = Children(known[:0], known[:0])
        while len(parents) and not len(found.rows) and (self.levels is None or self._steps < self.levels):
            self._steps += 1
            found = self._best(parents, known, fitted, rng, self.K)
            parents = self._others = found.bridges
        return found.rows

    def _fit(self, first: int) -> FittedSurrogate | None:
        accuracies = self.told_accuracies()[:first]
        good = np.isfinite(accuracies)
        if good.sum() < LEAST_TO_FIT:
            return None
        rows = self.rows_before(first)[good]
        return self.surrogate.fit(rows, accuracies[good], feasible=self.feasible, seed=self.seed + first)

    def _best(
        self, parents: Population, known: Population, fitted: FittedSurrogate | None, rng: np.random.Generator, k: int
    ) -> Children:
        """The k best children that are not known; without a surrogate any k."""
        space = self.feasible.space
        known_keys = space.canonical(known)
        best, bridges = Ranked.none(known, known_keys), Ranked.none(known, known_keys)
        for children in children_in_parts(space, parents):
            growing = children[~self._limits.hopeless(children)]
            all_keys = space.canonical(growing)
            new = _not_among(np.concatenate([known_keys, best.keys]), all_keys)
            rows, keys = growing[new], all_keys[new]
            met = self.feasible.holds(rows)
            good, missed = rows[met], rows[~met]
            mean = rng.random(len(good)) if fitted is None else fitted.predict(good)[0]
            best = self._kept(best.joined(Ranked(good, keys[met], -mean, self._cost(good))), k)
            if len(missed):
                near = Ranked(missed, keys[~met], self.feasible.violation(missed), np.zeros(len(missed)))
                bridges = bridges.joined(near).first_ones(self.n_bridges)
        return Children(self._chosen_of(best, k), bridges.rows)

    def _cost(self, rows: Population) -> Floats:
        return np.zeros(len(rows)) if self.cost is None else self.feasible.cost(self.cost, rows)

    def _kept(self, ranked: Ranked, k: int) -> Ranked:
        """What may still be chosen, whatever else comes: the k best, and the soft front.

        Fewer than J rows of all dominate a member of the soft front, so fewer than J of a part do. And if at least J
        of a part dominate a row, at least J that are kept do: dominance is transitive.
        """
        if self.cost is None:
            return ranked.first_ones(k)
        ranked = ranked.first_ones(len(ranked.rows))
        return ranked.at(soft_front(ranked.cost, -ranked.score, J=self.J) | (np.arange(len(ranked.rows)) < k))

    def _chosen_of(self, ranked: Ranked, k: int) -> Population:
        if self.cost is None:
            return ranked.rows
        mean = -ranked.score
        picks = spread_along(ranked.cost, mean, k, mask=soft_front(ranked.cost, mean, J=self.J))
        others = np.setdiff1d(np.arange(len(mean)), picks)[: k - len(picks)]  # the best first
        return np.asarray(ranked.rows[np.concatenate([picks, others])])

    def _checked_simplest(self, rng: np.random.Generator) -> Population:
        space = self.feasible.space
        simplest = space.simplest(self.n_simplest, rng)
        if len(simplest) < self.n_simplest:
            raise InputError(
                f"PNAS begins with {self.n_simplest} networks, but {space.name} has {len(simplest)}",
                hint="take a smaller first and K",
            )
        keys = found = space.canonical(simplest)
        for children in children_in_parts(space, simplest, at_once=4 * self.K):
            found = np.concatenate([found, space.canonical(children)])
            found = found[first_of_each(found)]
            if len(found) >= len(keys) + self.K:
                return simplest
        raise InputError(
            f"PNAS trains the best K = {self.K} of each level, but only {len(found) - len(keys)} networks grow from "
            f"the {len(keys)} simplest ones of {space.name}",
            hint="take a smaller K, or a larger first level",
        )

    def _refuse_if_all_miss(self, simplest: Population, hopeless: NDArray[np.bool_]) -> None:
        if not hopeless.all():
            return
        assert self.feasible.costs is not None
        least = [
            f"the least {limit.name} of them is {self.feasible.costs.interval(limit.name, simplest)[1].min():.4g}"
            for limit in self._limits.final
        ]
        self._refuse(f"its {len(simplest)} simplest networks miss them, and growth only adds: {', '.join(least)}")

    def _refuse(self, why: str) -> None:
        raise InfeasibleError(
            f"no network of {self.feasible.space.name} meets {' and '.join(map(str, self.feasible.limits))}: {why}",
            hint="relax the limit, or choose another skeleton with --space",
        )


@dataclass(frozen=True)
class Children:
    """Rows to train, the best first, and rows that miss a limit, the nearest first."""

    rows: Population
    bridges: Population


@dataclass(frozen=True)
class Ranked:
    """Rows with their canonical keys, what they are ranked by (less is better), and their cost."""

    rows: Population
    keys: Population
    score: Floats
    cost: Floats

    @classmethod
    def none(cls, rows: Population, keys: Population) -> Ranked:
        return cls(rows[:0], keys[:0], np.empty(0), np.empty(0))

    def joined(self, other: Ranked) -> Ranked:
        return Ranked(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.score, other.score]),
            np.concatenate([self.cost, other.cost]),
        )

    def at(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Ranked:
        return Ranked(self.rows[places], self.keys[places], self.score[places], self.cost[places])

    def first_ones(self, k: int) -> Ranked:
        """The k best of different networks; keys break ties, so that the order of parts does not matter."""
        order = np.lexsort((*self.keys.T[::-1], self.score))
        return self.at(order[first_of_each(self.keys[order])[:k]])


def _not_among(known: Population, keys: Population) -> NDArray[np.int64]:
    """The places of the first of each kind of key that is not known."""
    first = first_of_each(np.concatenate([known, keys]))
    return first[first >= len(known)] - len(known)
