"""Growing networks under limits: children in bounded memory, and limits that growth can only violate further."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from spaces import Population, SearchSpace
from spaces.chain import ChainSpace

from .evaluation.restricted import RestrictedSpace
from .feasible import FeasibleSet
from .objectives import Limit

CHILDREN_AT_ONCE = 1 << 16
PARENTS_AT_ONCE = 256  # of parents that had few children; the next may have thousands each


def children_in_parts(
    space: SearchSpace, parents: Population, *, at_once: int = CHILDREN_AT_ONCE
) -> Iterator[Population]:
    """The children of many rows, parents in order, about `at_once` children a part; copies of a network stay.

    A part has at most `PARENTS_AT_ONCE` parents, and at most twice as many as the part before.
    """
    start, step = 0, 1
    while start < len(parents):
        children = space.grow(parents[start : start + step])
        yield children
        start += step
        step = max(1, min(2 * step, PARENTS_AT_ONCE, at_once * step // max(len(children), 1)))


def first_of_each(keys: Population) -> NDArray[np.int64]:
    """(n, k) -> the places, in order, of the first of all equal rows.

    By a hash, which is checked: to sort wide rows takes several times as long.
    """
    factors = np.random.default_rng(0).integers(1 << 62, size=keys.shape[1]) | 1
    _, first, group = np.unique((keys * factors).sum(axis=1), return_index=True, return_inverse=True)  # wraps around
    if not np.array_equal(keys[first[group]], keys):  # different rows of one hash
        first = np.unique(keys, axis=0, return_index=True)[1]
    return np.sort(first)


def never_falls(feasible: FeasibleSet, name: str) -> bool:
    """Whether it is proved that no step of growth lowers what is known of a quantity.

    Of a chain a sum over genes is known, cost(row) = constant + sum over g of table[g, row[g]]. A child differs from
    its parent in the value of one gene, by one of the chain's steps (before, after). So if table[g, after] is at least
    table[g, before] for every gene g and every step that it allows, no child costs less than its parent, and by
    induction no descendant does. An estimate's interval is a share of the estimate, and rises with it. In a space that
    is restricted to a table, children are children of the inner space.

    Elsewhere nothing is proved, and for cells it is not true: a new block reads states that were joined to the cell's
    output, which narrows the output and all that reads it; a new vertex of NAS-Bench-101 takes channels of others.
    """
    space = feasible.space.inner if isinstance(feasible.space, RestrictedSpace) else feasible.space
    known = feasible.costs.additive(name) if feasible.costs is not None else None
    if not isinstance(space, ChainSpace) or known is None:
        return False
    table, allowed = known[0].table, space.allowed
    return all(
        bool((table[both, after] >= table[both, before]).all())
        for before, after in space.steps
        for both in [np.flatnonzero(allowed[:, before] & allowed[:, after])]
    )


class GrowthLimits:
    """Limits as growth sees them: which rows to keep growing although they miss some."""

    def __init__(self, feasible: FeasibleSet) -> None:
        self.feasible = feasible
        self.final: tuple[Limit, ...] = tuple(
            limit for limit in feasible.limits if limit.op == "<=" and never_falls(feasible, limit.name)
        )

    def hopeless(self, population: Population) -> NDArray[np.bool_]:
        """(n, genes) -> (n,): which rows miss an upper limit that every descendant of theirs misses as well."""
        missed = np.zeros(len(population), dtype=np.bool_)
        for limit in self.final:
            assert self.feasible.costs is not None
            missed |= ~limit.holds(self.feasible.costs.interval(limit.name, population)[1])
        return missed
