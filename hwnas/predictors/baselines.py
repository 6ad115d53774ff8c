"""What a learned predictor must beat: a line on operation counts, trees on the same, a line on one feature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from spaces.errors import InputError
from spaces.graph import GraphBatch

from .predictor import FittedPredictor, Floats, Predictor, checked_inputs, checked_targets

LEAST = 4  # architectures: two for a line, two more for its residuals
COUNTING_BATCH = 4096
ALPHAS = tuple(10.0 ** (exponent / 2) for exponent in range(-6, 9))


def pair_counts(graphs: GraphBatch) -> Floats:
    """How much of each attribute each operation has, summed over nodes.

    Returns:
        (n, n_operations * (1 + attributes)): for each operation its number of nodes, then the sum of each attribute
        over them. With one-hot attributes these are the counts of (operation, attribute) pairs.
    """
    n, nodes = graphs.operations.shape
    k = graphs.attributes.shape[-1]
    counts = np.empty((n, graphs.n_operations * (1 + k)))
    for start in range(0, n, COUNTING_BATCH):
        part = graphs[start : start + COUNTING_BATCH]
        one_hot = (part.operations[:, :, None] == np.arange(graphs.n_operations)).astype(np.float32)
        ones = np.ones((len(part), nodes, 1), dtype=np.float32)
        values = np.concatenate([ones, part.attributes], axis=2)
        counts[start : start + len(part)] = (one_hot.transpose(0, 2, 1) @ values).reshape(len(part), -1)
    return counts


@dataclass(frozen=True)
class RidgePredictor(Predictor):
    """Ridge regression on operation counts and features, its strength chosen by leaving each architecture out once."""

    def fit(self, graphs: GraphBatch, features: Floats, targets: Floats, *, seed: int) -> FittedBaseline:
        X, y = _table(graphs, features), checked_targets(targets, len(graphs), least=LEAST)
        model = make_pipeline(StandardScaler(), RidgeCV(alphas=ALPHAS))
        model.fit(X, y)
        # best_score_ is minus the mean squared error of leaving each one out.
        return FittedBaseline(model, X.shape[1], math.sqrt(max(0.0, -float(model[-1].best_score_))))


@dataclass(frozen=True)
class TreesPredictor(Predictor):
    """Extremely randomised trees on operation counts and features; residuals are those of trees that left a row out."""

    trees: int = 200

    def fit(self, graphs: GraphBatch, features: Floats, targets: Floats, *, seed: int) -> FittedBaseline:
        X, y = _table(graphs, features), checked_targets(targets, len(graphs), least=LEAST)
        model = ExtraTreesRegressor(self.trees, bootstrap=True, oob_score=True, random_state=seed)
        model.fit(X, y)
        return FittedBaseline(model, X.shape[1], math.sqrt(float(np.mean((model.oob_prediction_ - y) ** 2))))


@dataclass(frozen=True)
class FittedBaseline(FittedPredictor):
    """A fitted scikit-learn model on the table of counts and features; one std for all."""

    model: Any
    columns: int
    residual_std: float

    def predict(self, graphs: GraphBatch, features: Floats) -> tuple[Floats, Floats]:
        X = _table(graphs, features)
        if X.shape[1] != self.columns:
            raise InputError(
                f"operations, attributes and features must be as many as in the fit ({self.columns} columns), "
                f"got {X.shape[1]} columns"
            )
        mean = np.asarray(self.model.predict(X), dtype=np.float64) if len(X) else np.empty(0)
        return mean, np.full(len(X), self.residual_std)


@dataclass(frozen=True)
class LinePredictor(Predictor):
    """A rising straight line on one feature, such as log flops: what ranking by that feature alone is worth.

    Attributes:
        column: of the features.
    """

    column: int

    def fit(self, graphs: GraphBatch, features: Floats, targets: Floats, *, seed: int) -> FittedLine:
        x, y = _column(graphs, features, self.column), checked_targets(targets, len(graphs), least=LEAST)
        centred = x - x.mean()
        total = float(centred @ centred)
        slope = max(float(centred @ y) / total, 0.0) if total > 0 else 0.0
        intercept = float(y.mean()) - slope * float(x.mean())
        residuals = y - (intercept + slope * x)
        return FittedLine(self.column, slope, intercept, math.sqrt(float(residuals @ residuals) / (len(y) - 2)))


@dataclass(frozen=True)
class FittedLine(FittedPredictor):
    """A line on one feature."""

    column: int
    slope: float
    intercept: float
    residual_std: float

    def predict(self, graphs: GraphBatch, features: Floats) -> tuple[Floats, Floats]:
        x = _column(graphs, features, self.column)
        return self.intercept + self.slope * x, np.full(len(x), self.residual_std)


def _table(graphs: GraphBatch, features: Floats) -> Floats:
    return np.concatenate([pair_counts(graphs), checked_inputs(graphs, features)], axis=1)


def _column(graphs: GraphBatch, features: Floats, column: int) -> Floats:
    features = checked_inputs(graphs, features)
    if not 0 <= column < features.shape[1]:
        raise InputError(f"column {column} is needed, the features have {features.shape[1]}")
    return features[:, column]
