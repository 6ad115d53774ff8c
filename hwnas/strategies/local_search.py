"""Local search: all neighbours of a network are trained, the best of them is the next network."""

from __future__ import annotations

import numpy as np

from hwnas.feasible import FeasibleSet
from spaces import Population

from .strategy import PhasedStrategy


class LocalSearch(PhasedStrategy):
    """Best-improvement hill climbing with restarts.

    From a random network, all networks that differ in one gene are trained. The best of them takes its place if it is
    better; else the search starts again from another random network. Networks that were trained are not trained again.

    Source: White et al., Local Search is State of the Art for Neural Architecture Search Benchmarks, 2005.02960,
    algorithm 1, with restarts until the budget is spent.
    """

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        super().start(feasible, seed)
        self._centre = -1  # the number of the trial whose neighbours are tried
        self._phase = 0  # the first proposal of the last phase
        self._is_start = True

    def plan(self, first: int, rng: np.random.Generator) -> Population:
        if first:
            accuracies = self.told_accuracies()
            best = self._phase + int(np.argmax(accuracies[self._phase : first]))
            moves = self._is_start or accuracies[best] > accuracies[self._centre]
            self._phase = first
            if moves and np.isfinite(accuracies[best]):
                self._centre, self._is_start = best, False
                around = self._neighbours(first, rng)
                if len(around):
                    return around
        self._is_start = True
        return self.draw_after(first, 1, rng)

    def _neighbours(self, first: int, rng: np.random.Generator) -> Population:
        space, known = self.feasible.space, self.rows_before(first)
        vectors = one_gene_changed(self._told_rows[self._centre], space.choices)
        rows = space.repair(vectors)
        rows = rows[space.is_valid(rows)]
        rows = rows[self.feasible.holds(rows)]
        keys = space.canonical(np.concatenate([known, rows]))
        seen = np.unique(keys, axis=0, return_index=True)[1]
        new = np.sort(seen[seen >= len(known)]) - len(known)
        return np.asarray(rng.permutation(rows[new]))


def one_gene_changed(row: Population, choices: tuple[int, ...]) -> Population:
    """(genes,) -> all vectors that differ from a row in the value of one used gene."""
    gene, value = np.nonzero((np.arange(max(choices)) < np.array(choices)[:, None]) & (row >= 0)[:, None])
    changed = value != row[gene]
    gene, value = gene[changed], value[changed]
    vectors = np.repeat(row[None], len(gene), axis=0)
    vectors[np.arange(len(gene)), gene] = value
    return vectors
