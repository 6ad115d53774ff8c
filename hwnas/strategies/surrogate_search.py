"""What searches share that fit a surrogate again and again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwnas.predictors import LinePredictor, PredictorJudgement, cross_validate, quality, spearman
from hwnas.predictors.surrogate import FittedSurrogate, Surrogate
from hwnas.predictors.surrogate_adapter import FLOPS_COLUMN, GraphSurrogate, graph_features
from spaces import Population

from .strategy import PhasedStrategy

Floats = NDArray[np.float64]
# Third parts of seeds, so that what is drawn for one purpose is drawn for no other. 0 is that of proposals: numpy takes
# parts that are missing for 0.
FITTING, REFERENCE = 1, 2
LEAST_TO_FIT = 5  # as many as an ensemble of 5 needs
LEAST_TO_DOUBT = 20  # below, a rank correlation says too little
BY_FLOPS = GraphSurrogate(LinePredictor(FLOPS_COLUMN))


class SurrogateSearch(PhasedStrategy):
    """A search in phases whose surrogate learns from all trials before each.

    Attributes:
        surrogate: set by the constructor.
    """

    surrogate: Surrogate

    def fitted(self, first: int) -> FittedSurrogate | None:
        """What the surrogate learns from the trials before `first` that succeeded; None where they are fewer than 5.

        Where it tells 20 and more of them, each from the others, no better than flops do, a line on flops stands in.
        """
        rows, _ = self._succeeded(first)
        if len(rows) < LEAST_TO_FIT:
            return None
        fitted = self._fit(self.surrogate, first)
        judgement = self._judged(fitted, first)
        return fitted if judgement is None or judgement.name == self.surrogate.name else self._fit(BY_FLOPS, first)

    def _succeeded(self, first: int) -> tuple[Population, Floats]:
        accuracies = self.told_accuracies()[:first]
        good = np.isfinite(accuracies)
        return self.rows_before(first)[good], accuracies[good]

    def _fit(self, surrogate: Surrogate, first: int) -> FittedSurrogate:
        seed = int(self.seeds(first, FITTING).generate_state(1)[0])
        return surrogate.fit(*self._succeeded(first), feasible=self.feasible, seed=seed)

    def _judged(self, fitted: FittedSurrogate, first: int) -> PredictorJudgement | None:
        """Beside flops; None where the surrogate does not tell what the others say of each network.

        A search trains networks that are alike, whose order is mostly noise, so that a low rank correlation alone
        is but a warning: for flops to stand in, the errors must be as large as theirs too.
        """
        left_out = fitted.left_out()
        if left_out is None or self.feasible.costs is None:
            return None
        rows, accuracies = self._succeeded(first)
        graphs, features = self.feasible.space.graphs(rows), graph_features(self.feasible, rows)
        line = cross_validate(BY_FLOPS.predictor, graphs, features, accuracies, seed=self.seed)
        own, by_flops = quality(left_out, accuracies), spearman(features[:, FLOPS_COLUMN], accuracies)
        warning, name = None, self.surrogate.name
        if own.spearman <= by_flops:
            warning = (
                f"each of {len(rows)} networks predicted from the others, the model ranks no better than flops alone "
                f"(Spearman {own.spearman:.2f} and {by_flops:.2f})"
            )
            if own.rmse >= line.rmse and len(rows) >= LEAST_TO_DOUBT:
                warning, name = f"{warning}, which stand in for it", "flops"
        return PredictorJudgement(name, {self.surrogate.name: own, "flops": line}, by_flops, warning)

    def seeds(self, first: int, purpose: int) -> np.random.SeedSequence:
        """Of what is drawn before proposal `first` for a purpose of its own, other than 0."""
        return np.random.SeedSequence([self.seed, first, purpose])

    def scores(self) -> Floats:
        """Half the accuracy that was seen, half what the surrogate makes of it, once there are enough trials to fit it.

        A surrogate takes for noise what it cannot explain of a network, some of which is the network's own. Where flops
        stand in for it, the accuracy alone.
        """
        scores, judgement = self.told_accuracies(), self.judgement
        fitted = self.fitted(len(self.told))
        if fitted is not None and (judgement is None or judgement.name == self.surrogate.name):
            good, rows = np.isfinite(scores), self.told_rows()
            scores[good] = (scores[good] + fitted.predict(rows[good])[0]) / 2
        good = np.isfinite(scores)
        scores[good] = self.worth(scores[good], self.told_rows()[good])
        return scores

    def worth(self, accuracies: Floats, rows: Population) -> Floats:
        """(n,): what networks (n, genes) of such accuracies are worth."""
        del rows
        return accuracies

    @property
    def judgement(self) -> PredictorJudgement | None:
        """How well the surrogate of all trials predicts each of them from the others, and flops beside it."""
        now = len(self.told)
        return (
            None if len(self._succeeded(now)[0]) < LEAST_TO_FIT else self._judged(self._fit(self.surrogate, now), now)
        )


def in_any_order(rows: Population, rng: np.random.Generator) -> Population:
    """The same rows; where the first of equally good ones is taken, it is any of them, not the first of a table."""
    return rows[rng.permutation(len(rows))]
