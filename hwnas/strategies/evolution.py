"""Regularized evolution: the best of a few is mutated, the oldest leaves."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from hwnas.feasible import FeasibleSet
from spaces import InputError, Population
from spaces.space import Rate

from .strategy import Strategy


class RegularizedEvolution(Strategy):
    """The population are the last `population` networks that were trained; failed ones leave no place open.

    Proposals are random until there were `population` of them. Then each is a mutant of the best of `sample` different
    ones, drawn from the population as far as it was told.

    Args:
        rate: the chance that a gene changes, one for all or (genes,); one gene always does. None stands for one over
            the number of genes.

    Source: Real et al., Regularized Evolution for Image Classifier Architecture Search, 1802.01548, algorithm 1;
    sampling without repeats as in the notebook of google-research/nasbench. The defaults are those of the paper.
    """

    def __init__(self, *, population: int = 100, sample: int = 25, rate: Rate | None = None) -> None:
        if not 1 <= sample <= population:
            raise InputError(f"evolution needs 1 <= sample <= population, got {sample} and {population}")
        self.population = population
        self.sample = sample
        self.rate = rate

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        super().start(feasible, seed)
        self.__dict__.pop("_first", None)

    def propose(self, k: int, rng: np.random.Generator) -> Population | None:
        if k < self.population:
            return np.asarray(self._first[k])
        accuracies = self.told_accuracies()
        alive = np.flatnonzero(np.isfinite(accuracies))[-self.population :]
        if not len(alive):
            return np.asarray(self.draw(1, rng)[0])
        sample = rng.choice(alive, size=min(self.sample, len(alive)), replace=False)
        parent = sample[accuracies[sample].argmax()]
        return self.mutant(self._told_rows[parent], rng, rate=self.rate)

    @cached_property
    def _first(self) -> Population:
        return self.draw(self.population, np.random.default_rng(self.seed), new=False)
