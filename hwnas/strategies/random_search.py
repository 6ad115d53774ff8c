"""Random search under limits, spread evenly along the cost axis."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from hwnas.feasible import FeasibleSet
from spaces import Population

from .strategy import Strategy


class RandomSearch(Strategy):
    """Networks drawn under the limits, evenly along latency (flops where no latency is known), without repeats.

    A plan of all draws is made at once from the seed, so proposal k is the same whatever was told.
    """

    def __init__(self, *, planned: int = 4096) -> None:
        self.planned = planned

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        super().start(feasible, seed)
        self.__dict__.pop("_plan", None)

    def propose(self, k: int, rng: np.random.Generator) -> Population | None:
        # A small space runs out of new networks.
        rows = self._plan[k : k + 1] if k < len(self._plan) else self.feasible.sample(1, rng)
        return np.asarray(rows[0])

    @cached_property
    def _plan(self) -> Population:
        return self.feasible.distinct(self.planned, np.random.default_rng(self.seed))
