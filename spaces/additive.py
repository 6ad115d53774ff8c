"""Costs that are sums over genes, and exact sampling under limits on such sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .space import Population

MAX_CELLS = 500_000  # of the dynamic programme's grid over all limited costs: 4 MB a gene
MAX_BINS = 4096
MAX_DRAWS = 200
BLOCK = 262_144  # rows drawn at once: arrays of 15 MB for each value of a gene
CHUNK = 4096  # rows whose entries are looked up at once, few enough for the cache
STRATA = 24  # parts of the cost axis that a spread sample fills evenly


@dataclass(frozen=True)
class AdditiveCost:
    """A cost that is a constant plus one entry of a table per gene.

    Attributes:
        constant: what every network pays (stem, head).
        table: (genes, choices); [i, c] is the cost of value c of gene i, whatever stands elsewhere. Entries of
            values that a gene cannot have are never read.
    """

    constant: float
    table: NDArray[np.float64]

    def of(self, population: Population) -> NDArray[np.float64]:
        """(n, genes) -> (n,)."""
        starts = np.arange(self.table.shape[0]) * self.table.shape[1]  # of each gene in the flattened table
        values = np.empty(len(population))
        for i in range(0, len(population), CHUNK):
            values[i : i + CHUNK] = self.table.take(population[i : i + CHUNK] + starts).sum(axis=1)
        return np.asarray(self.constant + values)

    def __add__(self, other: AdditiveCost) -> AdditiveCost:
        return AdditiveCost(self.constant + other.constant, self.table + other.table)

    def scaled(self, factor: float) -> AdditiveCost:
        return AdditiveCost(factor * self.constant, factor * self.table)


@dataclass(frozen=True)
class Interval:
    """The rows whose `cost` lies in [low, high]."""

    cost: AdditiveCost
    low: float = -math.inf
    high: float = math.inf

    def holds(self, population: Population) -> NDArray[np.bool_]:
        values = self.cost.of(population)
        return (values >= self.low) & (values <= self.high)


def extremes(
    cost: AdditiveCost, allowed: NDArray[np.bool_]
) -> tuple[tuple[float, Population], tuple[float, Population]]:
    """The least and the greatest cost of any row, each with a row (1, genes) that has it. Exact."""
    found = []
    for sign in (1.0, -1.0):
        row = np.where(allowed, sign * cost.table, np.inf).argmin(axis=1)[None]
        found.append((float(cost.of(row)[0]), row))
    return found[0], found[1]


class AdditiveSampler:
    """Draws rows that satisfy several intervals at once, uniformly over all such rows, or evenly along the first cost.

    Costs are rounded down to a grid and the ways to complete each partial sum are counted backwards from the
    last gene, so rows are drawn without starving however rare they are. Rounding only ever admits too much: the
    admitted rows contain all that satisfy the intervals, and rows that do not are drawn again, which leaves the
    distribution exact. For the same reason `is_empty` is a proof.
    """

    def __init__(self, allowed: NDArray[np.bool_], intervals: Sequence[Interval]) -> None:
        """
        Args:
            allowed: (genes, choices), which value each gene may have.
            intervals: what must hold; an empty sequence stands for all rows.
        """
        self.allowed = allowed
        self.intervals = tuple(intervals)
        genes, _ = allowed.shape
        dims = len(self.intervals)
        bins = 1 if dims == 0 else min(MAX_BINS, int(MAX_CELLS ** (1 / dims)))
        bottoms, steps, sizes, limits = [], [], [], []
        self._quanta = np.zeros((dims, *allowed.shape), dtype=np.int64)
        for d, interval in enumerate(self.intervals):
            entries = np.where(allowed, interval.cost.table, np.nan)
            bottom = interval.cost.constant + np.nanmin(entries, axis=1).sum()
            top = interval.cost.constant + np.nanmax(entries, axis=1).sum()
            # The same sum in another order differs in its last bits; the limits give way by more than that.
            size = abs(interval.cost.constant) + np.nanmax(np.abs(entries), axis=1).sum()
            slack = 4 * (genes + 1) * np.finfo(float).eps * size
            low, high = interval.low - slack, interval.high + slack
            if top - low < high - bottom:  # count down from the top where that is nearer: the grid is finer
                entries, bottom, top, low, high = -entries, -top, -bottom, -high, -low
            span = min(high, top + slack) - bottom
            step = max(span / bins, np.finfo(float).tiny) if span > 0 else 1.0
            with np.errstate(over="ignore"):
                quanta = np.floor((entries - np.nanmin(entries, axis=1)[:, None]) / step)
            # More than the whole grid is out of reach: one bin past it says so without a huge array.
            self._quanta[d] = np.minimum(np.nan_to_num(quanta, nan=0.0), bins + 1).astype(np.int64)
            bottoms.append(bottom)
            steps.append(step)
            sizes.append(bins + 1 if span > 0 else int(span == 0))
            limits.append(low)
        self._empty = any(size == 0 for size in sizes)
        self._shape = tuple(sizes)
        if self._empty:
            return
        self._final = np.ones(self._shape, dtype=bool)
        for d, low in enumerate(limits):
            # A total of t bins stands for costs in [bottom + t*step, bottom + (t + genes)*step).
            reach = bottoms[d] + (np.arange(sizes[d]) + genes) * steps[d]
            shape = [1] * dims
            shape[d] = sizes[d]
            self._final &= (reach >= low).reshape(shape)
        self._ways = self._count()

    def _count(self) -> list[NDArray[np.float64]]:
        """ways[i][t]: in how many ways genes 0..i-1 reach a total of exactly t."""
        start = np.zeros(self._shape)
        start[(0,) * start.ndim] = 1.0
        ways = [start]
        for gene in range(self.allowed.shape[0]):
            total = np.zeros(self._shape)
            for choice in np.flatnonzero(self.allowed[gene]):
                shift = self._quanta[:, gene, choice]
                if all(s < size for s, size in zip(shift, self._shape, strict=True)):
                    to = tuple(slice(s, None) for s in shift)
                    src = tuple(slice(None, size - s) for s, size in zip(shift, self._shape, strict=True))
                    total[to] += ways[-1][src]
            ways.append(total)
        return ways

    @property
    def is_empty(self) -> bool:
        """True only if no row satisfies the intervals: a proof, since rounding admits too much."""
        return self._empty or not (self._ways[-1] * self._final).any()

    def sample(self, n: int, rng: np.random.Generator, *, spread: bool = False) -> Population:
        """n rows with repeats, or fewer where the rows that satisfy all intervals are too rare to be found.

        Args:
            spread: fill equal parts of the first interval's cost evenly, instead of drawing uniformly over all rows.
        """
        kept = np.empty((0, self.allowed.shape[0]), dtype=np.int64)
        if self.is_empty:
            return kept
        for _ in range(MAX_DRAWS):
            rows = self._draw(min(max(256, 2 * (n - len(kept))), BLOCK), rng, spread)
            good = np.ones(len(rows), dtype=bool)
            for interval in self.intervals:
                good &= interval.holds(rows)
            kept = np.concatenate([kept, rows[good]])
            if len(kept) >= n:
                return kept[:n]
        return kept

    def _draw(self, n: int, rng: np.random.Generator, spread: bool) -> Population:
        weights = self._ways[-1] * self._final
        if spread and weights.ndim:
            along = weights.sum(axis=tuple(range(1, weights.ndim)))
            admitted = np.flatnonzero(along)  # never empty: sample() asks is_empty first
            first, last = admitted[0], admitted[-1]
            stratum = np.clip((np.arange(len(along)) - first) * STRATA // (last - first + 1), 0, STRATA - 1)
            inside_stratum = np.bincount(stratum, along, minlength=STRATA)
            even = 1.0 / np.where(inside_stratum > 0, inside_stratum, np.inf)[stratum]
            weights = weights * even.reshape(-1, *[1] * (weights.ndim - 1))
        flat = weights.ravel()
        cumulative = np.cumsum(flat)
        picks = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
        totals = np.stack(np.unravel_index(picks, self._shape or (1,)))[: len(self._shape)]  # (dims, n)
        rows = np.empty((n, self.allowed.shape[0]), dtype=np.int64)
        for gene in reversed(range(self.allowed.shape[0])):
            before = totals[:, :, None] - self._quanta[:, gene, None, :]  # (dims, n, choices)
            inside = self.allowed[gene] & (before >= 0).all(axis=0)
            index = tuple(np.where(inside, b, 0) for b in before)
            ways = self._ways[gene][index] if index else np.ones((n, self.allowed.shape[1]))
            chances = np.cumsum(np.where(inside, ways, 0.0), axis=1)
            choice = (chances <= rng.random((n, 1)) * chances[:, -1:]).sum(axis=1)
            rows[:, gene] = np.minimum(choice, self.allowed.shape[1] - 1)
            totals = before[:, np.arange(n), rows[:, gene]] if len(totals) else totals
        return rows
