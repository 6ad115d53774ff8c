"""All edits of networks that make them a step larger, smaller or other, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwnas.evaluation.restricted import RestrictedSpace
from spaces import Population, SearchSpace
from spaces.chain import ChainSpace

REDRAWS = 16  # of an insertion that is no network


@dataclass(frozen=True, eq=False)
class Edits:
    """The edits of one space: numbered, so that a policy can choose among them.

    Edit `gene * width + value` gives a gene another value. In chains that inserts a layer (an identity becomes the
    smallest one, by a step of `grow`), scales its kernel or expansion, or removes it. Elsewhere it changes an operation
    or an input, and two more edits, the last ones, insert a block or vertex after the last (drawn anew each time) and
    remove the last.
    """

    space: SearchSpace
    lengths: dict[int, int] = field(default_factory=dict)  # of a row, of its children

    @property
    def inner(self) -> SearchSpace:
        """The space whose networks are edited; of a table, what is not in it drops out afterwards."""
        return self.space.inner if isinstance(self.space, RestrictedSpace) else self.space

    @property
    def width(self) -> int:
        return max(self.inner.choices)

    @property
    def number(self) -> int:
        return len(self.inner.choices) * self.width + 2

    def of(self, population: Population, rng: np.random.Generator) -> tuple[Population, NDArray[np.bool_]]:
        """What every edit makes of every row.

        Args:
            population: (n, genes).
            rng: decides what is inserted.
        Returns:
            children (n, edits, genes) and which of them are other networks of the space (n, edits); limits aside.
        """
        n, genes = population.shape
        children = np.repeat(population[:, None], self.number, axis=1)
        gene, value = np.divmod(np.arange(genes * self.width), self.width)
        children[:, np.arange(len(gene)), gene] = value
        legal = np.zeros((n, self.number), dtype=np.bool_)
        legal[:, :-2] = self._may_change(population)
        if not isinstance(self.inner, ChainSpace):
            children[:, -2], legal[:, -2] = self._longer(population, rng)
            children[:, -1], legal[:, -1] = self._shorter(population)
        made = self._tidy(children[legal])
        good = self.space.is_valid(made)
        self._count(good, self.inner.is_valid(made) if self.space is not self.inner else good)
        origins = np.nonzero(legal)[0]
        good &= (made != population[origins]).any(axis=1)  # a layer may have moved back to where it was
        children[legal] = made
        legal[legal] = good
        return children, legal

    def _count(self, good: NDArray[np.bool_], valid: NDArray[np.bool_]) -> None:
        if isinstance(self.space, RestrictedSpace):
            self.space.proposed.drawn += int(valid.sum())
            self.space.proposed.inside += int(good.sum())

    def _may_change(self, population: Population) -> NDArray[np.bool_]:
        """(n, genes) -> (n, genes * width): to which values genes may change, as far as a gene alone tells."""
        values = np.arange(self.width)
        may = (values < np.array(self.inner.choices)[:, None]) & (population >= 0)[:, :, None]
        may = may & (values != population[:, :, None])
        if isinstance(self.inner, ChainSpace):
            may &= self.inner.allowed[:, : self.width]
            first = [after for before, after in self.inner.steps if before == self.inner.identity]
            may &= (population != self.inner.identity)[:, :, None] | np.isin(values, first)
        return np.asarray(may.reshape(len(population), -1))

    def _longer(self, population: Population, rng: np.random.Generator) -> tuple[Population, NDArray[np.bool_]]:
        """Each row with as many genes more, drawn, as `grow` adds."""
        used, genes = (population >= 0).sum(axis=1), np.arange(population.shape[1])
        lengths = np.zeros(len(genes) + 1, dtype=np.int64)
        for length in np.unique(used):
            lengths[length] = self._next_length(population[used == length][0])
        children, found = population.copy(), np.zeros(len(population), dtype=np.bool_)
        for _ in range(REDRAWS):
            left = np.flatnonzero(~found & (lengths[used] > used))
            if not len(left):
                break
            rows = population[left]
            drawn = np.where(rows >= 0, rows, rng.integers(0, self.inner.choices, size=rows.shape))
            drawn[genes >= lengths[used[left]][:, None]] = -1
            good = self.inner.is_valid(drawn)
            children[left[good]] = drawn[good]
            found[left[good]] = True
        return children, found

    def _next_length(self, row: Population) -> int:
        """The genes of the children of a row, which those of all rows of its length have; 0 where it has none."""
        length = int((row >= 0).sum())
        if length not in self.lengths:
            children = self.inner.grow(row[None])
            self.lengths[length] = int((children[0] >= 0).sum()) if len(children) else 0
        return self.lengths[length]

    def _shorter(self, population: Population) -> tuple[Population, NDArray[np.bool_]]:
        """Each row cut to the longest part that is a network."""
        n, genes = population.shape
        lengths = np.arange(genes)
        cuts = np.where(np.arange(genes) < lengths[:, None], population[:, None, :], -1)  # (n, lengths, genes)
        good = self.inner.is_valid(cuts.reshape(-1, genes)).reshape(n, genes)
        good &= lengths < (population >= 0).sum(axis=1)[:, None]
        has, at = np.asarray(good.any(axis=1)), genes - 1 - good[:, ::-1].argmax(axis=1)
        return np.where(has[:, None], cuts[np.arange(n), at], population), has

    def _tidy(self, rows: Population) -> Population:
        """Without what is dead, and in the order of the space's keys where those are rows."""
        rows = self.inner.repair(rows)
        return self.inner.canonical(rows) if isinstance(self.inner, ChainSpace) else rows
