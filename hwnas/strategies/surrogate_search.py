"""What searches share that fit a surrogate again and again."""

from __future__ import annotations

import numpy as np

from hwnas.predictors.surrogate import FittedSurrogate, Surrogate
from hwnas.trial import Trial
from spaces import Population

from .strategy import PhasedStrategy

# Third parts of seeds, so that what is drawn for one purpose is drawn for no other. 0 is that of proposals: numpy takes
# parts that are missing for 0.
FITTING, REFERENCE = 1, 2


class SurrogateSearch(PhasedStrategy):
    """A search in phases whose surrogate learns from all trials before each.

    Attributes:
        surrogate: set by the constructor.
        least_to_fit: networks that succeeded, below which nothing is fitted.
    """

    surrogate: Surrogate
    least_to_fit = 3

    def fitted(self, first: int) -> FittedSurrogate | None:
        """What the surrogate learns from the trials before `first` that succeeded; None where they are too few."""
        accuracies = self.told_accuracies()[:first]
        good = np.isfinite(accuracies)
        if good.sum() < self.least_to_fit:
            return None
        rows, seed = self.rows_before(first)[good], int(self.seeds(first, FITTING).generate_state(1)[0])
        return self.surrogate.fit(rows, accuracies[good], feasible=self.feasible, seed=seed)

    def seeds(self, first: int, purpose: int) -> np.random.SeedSequence:
        """Of what is drawn before proposal `first` for a purpose of its own, other than 0."""
        return np.random.SeedSequence([self.seed, first, purpose])

    def chosen(self) -> Trial | None:
        """The trial of the highest mean of the surrogate, once there are enough to fit it; of equals the earliest."""
        fitted = self.fitted(len(self.told))
        if fitted is None:
            return super().chosen()
        complete = [i for i, trial in enumerate(self.told) if trial.state == "complete"]
        mean, _ = fitted.predict(self.told_rows()[complete])
        return self.told[complete[int(np.argmax(mean))]]


def in_any_order(rows: Population, rng: np.random.Generator) -> Population:
    """The same rows; where the first of equally good ones is taken, it is any of them, not the first of a table."""
    return rows[rng.permutation(len(rows))]
