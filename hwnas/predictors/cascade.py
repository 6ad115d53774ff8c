"""Two stages: a classifier tells which architectures are worth looking at, a regressor ranks those."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spaces.errors import InputError
from spaces.graph import GraphBatch

from .gcn import GCNPredictor
from .predictor import FittedPredictor, Floats, Predictor, checked_targets

LEAST = 4  # architectures: two on either side of the threshold


@dataclass(frozen=True)
class CascadePredictor(Predictor):
    """A classifier of targets above a threshold, and a regressor that is fitted on those alone.

    What the classifier passes (its mean is at least 1/2) is predicted by the regressor, but never below the threshold.
    All else is predicted below it: from the mean of the targets there up to the threshold, as the classifier's mean
    rises from 0 to 1/2; the std of those is that of the targets there around their mean. Where all targets or all but
    one are on one side, there is nothing to classify, and the fit says so.

    Attributes:
        classifier: fitted on 1 for targets above the threshold and 0 for others; its mean is the chance of 1.
        regressor: fitted on the targets above the threshold.
        threshold: in the unit of the targets.

    Source: Wen et al., Neural Predictor for Neural Architecture Search (arXiv 1912.00848), section 3.2, where what is
    not passed is dropped; that it is ranked below is ours.
    """

    classifier: Predictor
    regressor: Predictor
    threshold: float

    @classmethod
    def paper_nasbench101(cls, n: int) -> CascadePredictor:
        """The paper's two stages for n cells of NAS-Bench-101: accuracies as fractions, threshold 91 %."""
        return cls(GCNPredictor.paper_nasbench101_classifier(n), GCNPredictor.paper_nasbench101(n), 0.91)

    def fit(self, graphs: GraphBatch, features: Floats, targets: Floats, *, seed: int) -> FittedCascade:
        targets = checked_targets(targets, len(graphs), least=LEAST)
        above = targets > self.threshold
        if not LEAST // 2 <= above.sum() <= len(targets) - LEAST // 2:
            raise InputError(
                f"a cascade needs at least {LEAST // 2} targets on either side of its threshold {self.threshold:g}, "
                f"got {above.sum()} of {len(targets)} above it",
                hint="move the threshold, or take a predictor of one stage",
            )
        rejected = targets[~above]
        return FittedCascade(
            self.classifier.fit(graphs, features, above.astype(np.float64), seed=seed),
            self.regressor.fit(graphs[above], features[above], targets[above], seed=seed),
            self.threshold,
            float(rejected.mean()),
            float(rejected.std(ddof=1)),
        )


@dataclass(frozen=True)
class FittedCascade(FittedPredictor):
    """Both stages, fitted; mean and std of the targets that were not above the threshold."""

    classifier: FittedPredictor
    regressor: FittedPredictor
    threshold: float
    rejected_mean: float
    rejected_std: float

    def passes(self, graphs: GraphBatch, features: Floats) -> NDArray[np.bool_]:
        """(n,): which architectures the classifier takes to be above the threshold."""
        return self.classifier.predict(graphs, features)[0] >= 0.5

    def predict(self, graphs: GraphBatch, features: Floats) -> tuple[Floats, Floats]:
        chance = np.clip(self.classifier.predict(graphs, features)[0], 0.0, 1.0)
        passed = chance >= 0.5
        mean = self.rejected_mean + (self.threshold - self.rejected_mean) * 2 * chance
        std = np.full(len(graphs), self.rejected_std)
        mean[passed], std[passed] = self.regressor.predict(graphs[passed], features[passed])
        mean[passed] = np.maximum(mean[passed], self.threshold)
        return mean, std
