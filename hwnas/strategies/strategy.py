"""What every search strategy is: it proposes architectures and learns from trials."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from hwnas.feasible import FeasibleSet
from hwnas.trial import Trial
from spaces import Population


class Strategy(ABC):
    """Proposes architectures; `start` is called once before the first `ask`.

    Proposal k draws from `default_rng([seed, k])` and depends on nothing but that and the trials told before, so a
    strategy that is told the recorded trials in order goes on where an earlier one stopped.
    """

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        self.feasible = feasible
        self.seed = seed
        self.asked = 0
        self.told: list[Trial] = []

    def ask(self, n: int) -> Population:
        """Up to n rows to evaluate next; fewer, or none, where the strategy first needs trials that it asked for."""
        rows: list[Population] = []
        for _ in range(n):
            row = self.propose(self.asked, np.random.default_rng([self.seed, self.asked]))
            if row is None:
                break
            rows.append(row)
            self.asked += 1
        genes = len(self.feasible.space.choices)
        return np.stack(rows) if rows else np.empty((0, genes), dtype=np.int64)

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn from finished trials, in the order of their numbers."""
        self.told.extend(trials)
        self.asked = max([self.asked, *(trial.number + 1 for trial in trials)])

    @abstractmethod
    def propose(self, k: int, rng: np.random.Generator) -> Population | None:
        """Proposal k, (genes,), or None while it has to wait for trials."""

    def told_rows(self) -> Population:
        """The rows of all trials told so far."""
        rows = [self.feasible.space.row(trial.arch) for trial in self.told]
        return np.stack(rows) if rows else np.empty((0, len(self.feasible.space.choices)), dtype=np.int64)
