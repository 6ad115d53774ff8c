"""Predictors of graphs as models of populations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hwnas.belief import Belief, NormalBelief

from .predictor import FittedPredictor, Floats, Predictor
from .surrogate import FittedSurrogate, Surrogate

if TYPE_CHECKING:
    from hwnas.feasible import FeasibleSet
    from spaces import Population

FLOPS_COLUMN = 1  # of `graph_features`
ROWS_AT_ONCE = 65_536  # whose graphs are held at once


def graph_features(feasible: FeasibleSet, rows: Population) -> Floats:
    """(n, 2): log params and log flops, of none as of one; (n, 0) where costs are unknown."""
    if feasible.costs is None:
        return np.empty((len(rows), 0))
    costs = np.stack([feasible.costs.one(name, rows) for name in ("params", "flops")], axis=1)
    return np.log(np.maximum(costs, 1.0))  # a network of no layers costs nothing


@dataclass(frozen=True)
class GraphSurrogate(Surrogate):
    """A predictor, given the graphs of a population and its log params and log flops.

    Its std is the predictor's: unlike those of other surrogates, it holds the noise of one more value too.
    """

    name: ClassVar[str] = "graphs"
    predictor: Predictor

    def fit(self, population: Population, values: Floats, *, feasible: FeasibleSet, seed: int) -> FittedGraphSurrogate:
        graphs, features = feasible.space.graphs(population), graph_features(feasible, population)
        return FittedGraphSurrogate(self.predictor.fit(graphs, features, values, seed=seed), feasible)


@dataclass(frozen=True, eq=False)
class FittedGraphSurrogate(FittedSurrogate):
    """A fitted predictor and the space of what it is asked."""

    fitted: FittedPredictor
    feasible: FeasibleSet

    def predict(self, population: Population) -> tuple[Floats, Floats]:
        mean, std = np.empty(len(population)), np.empty(len(population))
        for start in range(0, len(population), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            rows = population[part]
            graphs, features = self.feasible.space.graphs(rows), graph_features(self.feasible, rows)
            mean[part], std[part] = self.fitted.predict(graphs, features)
        return mean, std

    def left_out(self) -> Belief | None:
        left_out = self.fitted.left_out()
        return None if left_out is None else NormalBelief(*left_out)
