"""PNAS: from simple networks to complex ones, a surrogate choosing which children of a level are trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwnas.feasible import FeasibleSet, InfeasibleError
from hwnas.growth import GrowthLimits, children_in_parts, first_of_each
from hwnas.pareto import soft_front, spread_along
from hwnas.predictors.surrogate import FittedSurrogate, GaussianProcess, Surrogate
from spaces import InputError, Population

from .surrogate_search import SurrogateSearch

Floats = NDArray[np.float64]
BRIDGES_A_PICK = 4  # on NAS-Bench-Macro under three limits 0.980 of the hypervolume after 100; with 1, 0.978
WALKED = 1000  # children of a level whose latency is estimated, where that takes 2 to 5 ms each
NOTHING_GROWN = (
    "nothing that grew from the {n} simplest networks meets the limits: the first level are networks drawn under them"
)
GROWN_OUT = "no network of the last level grows any further: all networks trained so far are grown instead"
COUNTED_SIMPLEST = 1000  # of a first level larger than that it is said to be larger


class PNAS(SurrogateSearch):
    """Progressive search: simple networks are trained, then the best children of what was trained, level by level.

    The first level are the `n_simplest` simplest networks of the space, of which `first` are trained. A surrogate of
    all that was trained ranks all different children of a level, and the `K` of the highest mean are trained; they are
    the next level, but for those that failed. Where a level has fewer children than K, all are trained. When nothing is
    left to grow, or after
    `levels` steps, the parents are all networks trained so far, and again the K best of their children that were not
    trained follow.

    Children that miss a limit are left out before they are ranked. They are not trained, but some of them, the
    nearest to the limits, grow with the level, since their children may meet what they miss, such as a lower limit:
    `n_bridges` where fewer than K meet the limits, and else 4 K, so that a level takes not much longer than without.
    Where no network that grows from the simplest ones meets the limits, the first level are some drawn under them.
    Those that miss an upper limit that growth can only violate further (`hwnas.growth.never_falls`) do not grow.

    Where latency is limited or a cost, and estimated by walking the records of one network after another, it is so of
    the `WALKED` most promising children of a level, by mean and counts; the others are left out.

    Where `cost` is named, the K are taken along the cost axis from the soft Pareto front of mean over cost of all
    children, and, where that has fewer, from the highest means of the others.

    Args:
        K: the beam: as many children are trained of each level.
        first: trained networks of the first level, drawn from `n_simplest`; K by default.
        n_simplest: networks of the first level, `first` by default.
        all_up_to: all networks of the least complexity are the first level, and are trained, where there are more than
            `first` of them and no more than this; 0 for never.
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
        all_up_to: int = 0,
        levels: int | None = None,
        surrogate: Surrogate | None = None,
        cost: str | None = None,
        J: int = 6,
        n_bridges: int = 1000,
    ) -> None:
        self.K = K
        self.first = K if first is None else first
        self.n_simplest = self.first if n_simplest is None else n_simplest
        self.all_up_to = all_up_to
        self.levels = levels
        self.surrogate = GaussianProcess() if surrogate is None else surrogate
        self.cost = cost
        self.J = J
        self.n_bridges = n_bridges
        if not (K >= 1 and 1 <= self.first <= self.n_simplest and min(levels or 0, n_bridges, all_up_to) >= 0):
            raise InputError(
                "PNAS needs K and first of at least 1, n_simplest of at least first, levels, n_bridges and all_up_to "
                f"of at least 0; got {K}, {self.first}, {self.n_simplest}, {levels}, {n_bridges} and {all_up_to}"
            )

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        super().start(feasible, seed)
        self._cost(self._stacked([]), self.cost)  # an unknown cost is refused now, not when the first level is trained
        self._limits = GrowthLimits(feasible)
        self._steps = 0
        self._grows = True
        self._phase = 0  # the first proposal of the last level
        self._families: dict[int, _Family] = {}  # by the first proposal of a phase
        self._walked = [limit for limit in feasible.limits if feasible.walks(limit.name)]
        self._walks = bool(self._walked) or (self.cost is not None and feasible.walks(self.cost))
        # What can be told of all children, before the latency of some is estimated, for which flops stand till then.
        quick = [limit for limit in feasible.limits if limit not in self._walked]
        self._quick, self._quick_cost = (
            FeasibleSet(feasible.space, feasible.costs, quick),
            "flops" if self._walks else self.cost,
        )

    def plan(self, first: int, rng: np.random.Generator) -> Population:
        if first == 0:
            return self._begin(rng)
        known, fitted = self.rows_before(first), self.fitted(first)
        if self._grows:
            rows = self._next_level(known, fitted, rng)
            parents, self._phase = range(self._phase, first), first
            if len(rows):
                self._families[first] = _Family(rows, self._by_mean(parents, fitted))
                return rows
            self._grows = False
            self._remarks.append(GROWN_OUT)
        grown = known[self._succeeded(first)]  # what failed would grow into more that fails
        rows = self._best(np.concatenate([self._simplest, grown]), known, fitted, rng, self.K).rows
        if not len(rows):
            return self.draw_after(first, self.K, rng)
        self._families[first] = _Family(rows, self._by_mean(range(first), fitted))
        return rows

    def parent(self, number: int) -> int | None:
        """The trained network that a proposal grew from in one step, of several the one of the highest mean.

        None on the first level, for what was drawn, and where only networks that missed a limit lie between.
        """
        first = max((each for each in self._families if each <= number), default=None)
        if first is None or number - first >= len(self._families[first].rows):
            return None
        family = self._families[first]
        if family.found is None:  # not before somebody asks: parents are grown once more, one by one
            family.found = self._parents_of(family)
        return family.found.get(number - first)

    @property
    def n_first(self) -> int | None:
        return min(self._families, default=None)  # where the second level begins

    def _by_mean(self, numbers: Iterable[int], fitted: FittedSurrogate | None) -> list[int]:
        """The trials of these numbers that succeeded, the most promising first."""
        accuracies = self.told_accuracies()
        good = [number for number in numbers if np.isfinite(accuracies[number])]
        if fitted is None or not good:
            return good
        mean, _ = fitted.predict(self.told_rows()[good])
        return [good[i] for i in np.argsort(-mean, kind="stable")]

    def _parents_of(self, family: _Family) -> dict[int, int]:
        """The parent of each row of a family that has one, by place."""
        space = self.feasible.space
        orphans = {tuple(key): place for place, key in enumerate(space.canonical(family.rows).tolist())}
        found: dict[int, int] = {}
        for number in family.parents:
            if not orphans:
                break
            children = space.canonical(space.grow(self._told_rows[number][None]))
            wanted = np.array(list(orphans))
            both = np.concatenate([children, wanted])
            first = np.unique(both, axis=0, return_index=True, return_inverse=True)
            is_child = first[1][first[2].ravel()[len(children) :]] < len(children)
            for key in map(tuple, wanted[is_child].tolist()):
                found[orphans.pop(key)] = number
        return found

    def _begin(self, rng: np.random.Generator) -> Population:
        """The first level; where limits leave nothing of it, the first level above that they leave something of."""
        first, n_simplest = self._first_level(rng)
        simplest = self._checked_simplest(n_simplest, rng)
        hopeless, met = self._limits.hopeless(simplest), self.feasible.holds(simplest)
        self._simplest = simplest[~hopeless]
        self._refuse_if_all_miss(simplest, hopeless)
        is_trained = np.zeros(len(simplest), dtype=np.bool_)
        allowed = np.flatnonzero(met)
        is_trained[rng.choice(allowed, size=min(first, len(allowed)), replace=False)] = True
        rows, self._others = simplest[is_trained], simplest[~is_trained & ~hopeless]
        while not len(rows) and len(self._others):
            found = self._best(self._others, rows, None, rng, first)
            rows, self._others = found.rows, found.bridges
        if not len(rows):
            rows = self.feasible.distinct(first, rng)  # or says that none is found, and which network is nearest
            self._remarks.append(NOTHING_GROWN.format(n=len(simplest)))
        return rows

    def _next_level(self, known: Population, fitted: FittedSurrogate | None, rng: np.random.Generator) -> Population:
        last = known[self._phase :][self._succeeded(len(known))[self._phase :]]
        parents = np.concatenate([last, self._others])
        found = Children(known[:0], known[:0])
        while len(parents) and not len(found.rows) and (self.levels is None or self._steps < self.levels):
            self._steps += 1
            found = self._best(parents, known, fitted, rng, self.K)
            parents = self._others = found.bridges
        return found.rows

    def _best(
        self, parents: Population, known: Population, fitted: FittedSurrogate | None, rng: np.random.Generator, k: int
    ) -> Children:
        """The k best children that are not known; without a surrogate any k."""
        if not self._walks:
            best, bridges = self._ranked(parents, known, fitted, rng, k)
        else:
            n = max(k, WALKED)
            best, bridges = self._ranked(parents, known, fitted, rng, n)
            best, missed = self._estimated(best.at(self._places(best, n, self._quick_cost)))
            bridges = bridges.joined(missed).first_ones(self.n_bridges)
        kept = bridges.rows[: self._bridges_kept(len(best.rows), k)]
        return Children(best.rows[self._places(best, k, self.cost)], kept)

    def _bridges_kept(self, met: int, k: int) -> int:
        """So many, where `met` children meet the limits and k are wanted."""
        return self.n_bridges if met < k else min(BRIDGES_A_PICK * k, self.n_bridges)

    def _ranked(
        self, parents: Population, known: Population, fitted: FittedSurrogate | None, rng: np.random.Generator, k: int
    ) -> tuple[Ranked, Ranked]:
        """What may be chosen when k are, and bridges, by what is known without walking records."""
        space = self.feasible.space
        known_keys = space.canonical(known)
        best, bridges = Ranked.none(known, known_keys), Ranked.none(known, known_keys)
        for children in children_in_parts(space, parents):
            growing = children[~self._limits.hopeless(children)]
            all_keys = space.canonical(growing)
            new = _not_among(np.concatenate([known_keys, best.keys]), all_keys)
            rows, keys = growing[new], all_keys[new]
            met = self._quick.holds(rows)
            good, missed = rows[met], rows[~met]
            mean = rng.random(len(good)) if fitted is None else fitted.predict(good)[0]
            best = self._kept(best.joined(Ranked(good, keys[met], -mean, self._cost(good, self._quick_cost))), k)
            if len(missed):
                near = Ranked(missed, keys[~met], self._quick.violation(missed), np.zeros(len(missed)))
                bridges = bridges.joined(near).first_ones(self.n_bridges)
        return best, bridges

    def _estimated(self, ranked: Ranked) -> tuple[Ranked, Ranked]:
        """Children with their cost as it is estimated, and those of them that miss a limit on an estimate."""
        missed = self.feasible.violation(ranked.rows) if self._walked else np.zeros(len(ranked.rows))
        good, bad = ranked.at(missed == 0), ranked.at(missed > 0)
        return replace(good, cost=self._cost(good.rows, self.cost)), replace(bad, score=missed[missed > 0])

    def _cost(self, rows: Population, name: str | None) -> Floats:
        return np.zeros(len(rows)) if name is None else self.feasible.cost(name, rows)

    def _kept(self, ranked: Ranked, k: int) -> Ranked:
        """What may still be chosen, whatever else comes: the k best, and the soft front.

        Fewer than J rows of all dominate a member of the soft front, so fewer than J of a part do. And if at least J
        of a part dominate a row, at least J that are kept do: dominance is transitive.
        """
        if self._quick_cost is None:
            return ranked.first_ones(k)
        ranked = ranked.first_ones(len(ranked.rows))
        return ranked.at(soft_front(ranked.cost, -ranked.score, J=self.J) | (np.arange(len(ranked.rows)) < k))

    def _places(self, ranked: Ranked, k: int, cost: str | None) -> NDArray[np.int64]:
        """Which k are taken, along a cost where there is one."""
        best = ranked.order()
        if cost is None:
            return best[:k]
        mean = -ranked.score
        picks = spread_along(ranked.cost, mean, k, mask=soft_front(ranked.cost, mean, J=self.J))
        others = best[~np.isin(best, picks)][: k - len(picks)]
        return np.concatenate([picks, others])

    def _first_level(self, rng: np.random.Generator) -> tuple[int, int]:
        """How many networks of the first level are trained, and of how many."""
        space, most = self.feasible.space, max(self.all_up_to, COUNTED_SIMPLEST)
        if not self.all_up_to:
            return self.first, self.n_simplest
        complexity = space.complexity(space.simplest(most + 1, rng.spawn(1)[0]))
        least = int((complexity == complexity.min()).sum())
        if self.first < least <= self.all_up_to:
            return least, least
        if self.first < least:
            many = f"more than {most}" if least > most else f"{least}"
            self._remarks.append(
                f"the first level is {self.first} of {many} simplest networks, drawn: the plan has no more"
            )
        return self.first, self.n_simplest

    def _checked_simplest(self, n: int, rng: np.random.Generator) -> Population:
        space = self.feasible.space
        simplest = space.simplest(n, rng)
        if len(simplest) < n:
            raise InputError(
                f"PNAS begins with {n} networks, but {space.name} has {len(simplest)}",
                hint=f"in a space so small another --strategy trains all; from Python, take first and K below {n}",
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
            hint="take a larger space with --space or another --strategy; from Python, a smaller K or a larger first",
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


@dataclass
class _Family:
    """The rows of a phase, the trials that they grew from, the most promising first, and who is whose parent."""

    rows: Population
    parents: list[int]
    found: dict[int, int] | None = None


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
        order = self.order()
        return self.at(order[first_of_each(self.keys[order])[:k]])

    def order(self) -> NDArray[np.int64]:
        return np.asarray(np.lexsort((*self.keys.T[::-1], self.score)))


def _not_among(known: Population, keys: Population) -> NDArray[np.int64]:
    """The places of the first of each kind of key that is not known."""
    first = first_of_each(np.concatenate([known, keys]))
    return first[first >= len(known)] - len(known)
