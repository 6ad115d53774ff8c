"""What searches share that fit a surrogate again and again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwnas.predictors import PredictorJudgement, judged_beside_flops
from hwnas.predictors.surrogate import FittedSurrogate, Surrogate
from hwnas.predictors.surrogate_adapter import FLOPS_COLUMN, graph_features
from spaces import Population

from .strategy import PhasedStrategy

# Third parts of seeds, so that what is drawn for one purpose is drawn for no other. 0 is that of proposals: numpy takes
# parts that are missing for 0.
FITTING, REFERENCE = 1, 2
LEAST_TO_FIT = 5  # as many as an ensemble of 5 needs


class SurrogateSearch(PhasedStrategy):
    """A search in phases whose surrogate learns from all trials before each.

    Attributes:
        surrogate: set by the constructor.
    """

    surrogate: Surrogate

    def fitted(self, first: int) -> FittedSurrogate | None:
        """What the surrogate learns from the trials before `first` that succeeded; None where they are fewer than 5."""
        accuracies = self.told_accuracies()[:first]
        good = np.isfinite(accuracies)
        if good.sum() < LEAST_TO_FIT:
            return None
        rows, seed = self.rows_before(first)[good], int(self.seeds(first, FITTING).generate_state(1)[0])
        return self.surrogate.fit(rows, accuracies[good], feasible=self.feasible, seed=seed)

    def seeds(self, first: int, purpose: int) -> np.random.SeedSequence:
        """Of what is drawn before proposal `first` for a purpose of its own, other than 0."""
        return np.random.SeedSequence([self.seed, first, purpose])

    def scores(self) -> NDArray[np.float64]:
        """The surrogate's medians, once there are enough trials to fit it."""
        scores, fitted = self.told_accuracies(), self.fitted(len(self.told))
        if fitted is not None:
            good = np.isfinite(scores)
            scores[good] = self.worth(fitted.predict(self.told_rows()[good])[0], self.told_rows()[good])
        return scores

    def worth(self, accuracies: NDArray[np.float64], rows: Population) -> NDArray[np.float64]:
        """(n,): what networks (n, genes) of such accuracies are worth."""
        del rows
        return accuracies

    @property
    def judgement(self) -> PredictorJudgement | None:
        """How the surrogate of all trials ranks each of them from the others, and flops beside it."""
        fitted = self.fitted(len(self.told))
        left_out = None if fitted is None else fitted.left_out()
        if left_out is None or self.feasible.costs is None:
            return None
        accuracies = self.told_accuracies()
        good = np.isfinite(accuracies)
        rows = self.told_rows()[good]
        return judged_beside_flops(
            self.surrogate.name,
            left_out,
            self.feasible.space.graphs(rows),
            graph_features(self.feasible, rows),
            accuracies[good],
            flops_column=FLOPS_COLUMN,
            seed=self.seed,
        )


def in_any_order(rows: Population, rng: np.random.Generator) -> Population:
    """The same rows; where the first of equally good ones is taken, it is any of them, not the first of a table."""
    return rows[rng.permutation(len(rows))]
