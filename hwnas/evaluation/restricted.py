"""A space restricted to the networks of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spaces import Arch, GraphBatch, InputError, Network, Population, SearchSpace, Task
from spaces.layers import AuxiliaryHead
from spaces.nasbench101 import NASBench101Space
from spaces.space import Rate

REDRAWS = (4, 16, 64, 256)  # children that are drawn of one parent, round after round, until one is in the table
NEAREST_CHUNK = 16


@dataclass
class Proposed:
    """How many networks were proposed by operators and optimisers, and how many of them are in the table."""

    drawn: int = 0
    inside: int = 0

    @property
    def share(self) -> float:
        """NaN where nothing was drawn."""
        return self.inside / self.drawn if self.drawn else float("nan")


@dataclass(frozen=True, eq=False)
class RestrictedSpace(SearchSpace):
    """The networks of `inner` that a table lists; drawing is uniform over them.

    One rule holds for every strategy. What an operator draws outside of the table is drawn again, by the same operator,
    up to 340 times; what is still outside then, and every vector of genes that was not drawn by an operator of the
    space (`repair`), becomes the nearest row of the table: the one that differs in the fewest genes, at equal distance
    the one that stands first. A child is never the network of its parent. `proposed` counts what operators drew and
    what was repaired.

    Attributes:
        rows: (n, genes), one of each network.
    """

    inner: SearchSpace
    rows: Population
    proposed: Proposed = field(default_factory=Proposed)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def choices(self) -> tuple[int, ...]:
        return self._choices

    @property
    def cardinality(self) -> int:
        return len(self.rows)

    def places(self, population: Population) -> NDArray[np.int64]:
        """(n, genes) -> (n,): where in the table each network stands, -1 where it does not."""
        found = self._of_rows.find(population)
        other = np.flatnonzero(found < 0)
        if len(other):
            other = other[self.inner.is_valid(population[other])]
            found[other] = self._of_keys.find(self.inner.canonical(population[other]))
        return found

    def is_valid(self, population: Population) -> NDArray[np.bool_]:
        return np.asarray(self.places(population) >= 0)

    def why_invalid(self, row: NDArray[np.int64]) -> str:
        if self.inner.is_valid(row[None])[0]:
            return f"it is none of the {len(self.rows)} networks of the table"
        return self.inner.why_invalid(row)

    def sample(self, n: int, rng: np.random.Generator) -> Population:
        return self.rows[rng.integers(0, len(self.rows), size=n)]

    def mutate(self, population: Population, rng: np.random.Generator, *, rate: Rate | None = None) -> Population:
        own = self.places(population)
        children = population.copy()
        left = np.arange(len(population))
        drawn = population
        for times in REDRAWS:
            if not len(left):
                return children
            drawn = self.inner.mutate(np.repeat(population[left], times, axis=0), rng, rate=rate)
            left = self._keep(children, left, drawn, own, times)
        if len(left):
            children[left] = self.rows[self.nearest(as_keys(self.inner, drawn[:: REDRAWS[-1]]), without=own[left])]
        return children

    def crossover(self, mothers: Population, fathers: Population, rng: np.random.Generator) -> Population:
        children = mothers.copy()
        left = np.arange(len(mothers))
        nobody = np.full(len(mothers), -1, dtype=np.int64)
        drawn = mothers
        for times in REDRAWS:
            if not len(left):
                return children
            tried = np.repeat(left, times)
            drawn = self.inner.crossover(mothers[tried], fathers[tried], rng)
            left = self._keep(children, left, drawn, nobody, times)
        if len(left):
            children[left] = self.rows[self.nearest(as_keys(self.inner, drawn[:: REDRAWS[-1]]))]
        return children

    def _keep(
        self, children: Population, left: NDArray[np.int64], drawn: Population, own: NDArray[np.int64], times: int
    ) -> NDArray[np.int64]:
        """Of `times` drawn children of each parent the first that is in the table and new; who has none is returned."""
        places = self.places(drawn).reshape(-1, times)
        good = (places >= 0) & (places != own[left][:, None])
        has, first = good.any(axis=1), good.argmax(axis=1)
        self.proposed.drawn += int(np.where(has, first + 1, times).sum())
        self.proposed.inside += int(has.sum())
        children[left[has]] = self.rows[places[has, first[has]]]
        return np.asarray(left[~has])

    def repair(self, vectors: Population) -> Population:
        rows = self.inner.repair(vectors)
        places = self.places(rows)
        outside = np.flatnonzero(places < 0)
        self.proposed.drawn += len(places)
        self.proposed.inside += len(places) - len(outside)
        if len(outside):
            valid = self.inner.is_valid(rows[outside])
            wanted = vectors[outside].copy()  # of what is no network, repairing may leave nothing to compare
            wanted[valid] = as_keys(self.inner, rows[outside][valid])
            places[outside] = self.nearest(wanted)
        return self.rows[places]

    def nearest(self, population: Population, *, without: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """(n, genes) -> (n,) places of the rows that differ in the fewest genes, the place `without` left out."""
        found = np.empty(len(population), dtype=np.int64)
        for start in range(0, len(population), NEAREST_CHUNK):
            part = population[start : start + NEAREST_CHUNK].astype(np.int16)
            distance = (part[:, None, :] != self._narrow).sum(axis=2, dtype=np.int16)
            if without is not None:
                left_out = without[start : start + NEAREST_CHUNK]
                known = np.flatnonzero(left_out >= 0)
                distance[known, left_out[known]] = np.iinfo(np.int16).max
            found[start : start + len(part)] = distance.argmin(axis=1)
        return found

    def canonical(self, population: Population) -> Population:
        places = self._of_rows.find(population)
        keys = self._keys[places]
        other = np.flatnonzero(places < 0)
        if len(other):
            keys[other] = self.inner.canonical(population[other])
        return keys

    def complexity(self, population: Population) -> NDArray[np.int64]:
        return self.inner.complexity(population)

    def simplest(self, k: int, rng: np.random.Generator) -> Population:
        """Up to k rows, those of least complexity; which ones of the greatest complexity is drawn."""
        return self.rows[np.lexsort((rng.random(len(self.rows)), self._complexity))[:k]]

    def grow(self, population: Population) -> Population:
        """The rows of the table that are a step more complex than one of the population.

        Cells of NAS-Bench-101 grow into those that hold them as a subgraph and have one vertex more, other networks
        into those children of `inner` that are in the table; each stands once.
        """
        if isinstance(self.inner, NASBench101Space):
            return self.rows[self._larger(population)]
        places = self.places(self.inner.grow(population))
        return self.rows[np.unique(places[places >= 0])]

    @cached_property
    def _larger(self) -> Callable[[Population], NDArray[np.bool_]]:
        assert isinstance(self.inner, NASBench101Space)
        return self.inner.larger(self.rows)

    @cached_property
    def _complexity(self) -> NDArray[np.int64]:
        return self.complexity(self.rows)

    def layers(self, arch: Arch, task: Task) -> Network:
        return self.inner.layers(arch, task)

    def auxiliary(self, arch: Arch, task: Task) -> AuxiliaryHead | None:
        return self.inner.auxiliary(arch, task)

    def graphs(self, population: Population) -> GraphBatch:
        return self.inner.graphs(population)

    def counts(self, population: Population, task: Task) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.inner.counts(population, task)

    @cached_property
    def _choices(self) -> tuple[int, ...]:
        return self.inner.choices  # which some spaces make anew each time

    @cached_property
    def _keys(self) -> Population:
        return self.inner.canonical(self.rows)

    @cached_property
    def _of_rows(self) -> RowIndex:
        return RowIndex(self.rows)

    @cached_property
    def _of_keys(self) -> RowIndex:
        return RowIndex(self._keys)

    @cached_property
    def _narrow(self) -> NDArray[np.int16]:
        return self.rows.astype(np.int16)


def as_keys(space: SearchSpace, rows: Population) -> Population:
    """Valid rows (n, genes), each in the order of its key where that is a row of the space itself, else as it is."""
    keys = space.canonical(rows)
    return np.where(space.is_valid(keys)[:, None], keys, rows) if keys.shape == rows.shape else rows


class RowIndex:
    """Finds rows among given ones, by a hash that is checked: other rows may have the same."""

    def __init__(self, rows: Population) -> None:
        self._rows = rows
        self._factors = np.random.default_rng(0).integers(1 << 62, size=rows.shape[1]) | 1
        hashes = self._hash(rows)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]
        self._most = int(np.unique(hashes, return_counts=True)[1].max(initial=0))  # rows of one hash
        if self._most > 1 and len(np.unique(rows, axis=0)) < len(rows):
            raise InputError("the rows of a restricted space must be different networks, but two are the same")

    def _hash(self, rows: Population) -> NDArray[np.int64]:
        return np.asarray((rows * self._factors).sum(axis=1))  # wraps around, on purpose

    def find(self, rows: Population) -> NDArray[np.int64]:
        """(n, k) -> (n,) places, -1 where a row is none of them."""
        first = np.searchsorted(self._hashes, self._hash(rows))
        found = np.full(len(rows), -1, dtype=np.int64)
        for i in range(self._most):
            places = self._order[np.minimum(first + i, len(self._hashes) - 1)]
            found = np.where((self._rows[places] == rows).all(axis=1), places, found)
        return found
