"""What flops alone tell of accuracy: the least that a surrogate must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hwnas.belief import Belief
from spaces.errors import InputError

from .surrogate import FittedByBelief, Floats, Surrogate, Warp, checked_values

if TYPE_CHECKING:
    from hwnas.feasible import FeasibleSet
    from spaces import Population


@dataclass(frozen=True)
class FlopsLine(Surrogate):
    """A straight line of the `Warp` of the values over log flops, rising or flat."""

    name: ClassVar[str] = "flops"

    def fit(self, population: Population, values: Floats, *, feasible: FeasibleSet, seed: int) -> FittedFlopsLine:
        values = checked_values(values)
        warp = Warp.of(values)
        x, y = log_flops(feasible, population), warp(values)
        n, dx, dy = len(y), x - x.mean(), y - y.mean()
        slope = _rising(dx @ dx, dx @ dy)
        # Without network i, sums of squares and products about the means of the others are less by this much.
        without = n / (n - 1)
        slopes = _rising(dx @ dx - without * dx**2, dx @ dy - without * dx * dy)
        left_out = y.mean() - dy / (n - 1) + slopes * without * dx
        std = float(np.sqrt(((left_out - y) ** 2).mean()))
        return FittedFlopsLine(feasible, warp, float(slope), float(y.mean() - slope * x.mean()), std, left_out)


@dataclass(frozen=True, eq=False)
class FittedFlopsLine(FittedByBelief):
    """A line on the warped scale.

    Attributes:
        std: root mean squared error of each network by a line of the others.
        median_left_out: (n,) what those lines say.
    """

    feasible: FeasibleSet
    warp: Warp
    slope: float
    intercept: float
    std: float
    median_left_out: Floats

    def believe(self, population: Population) -> Belief:
        return self._belief(self.intercept + self.slope * log_flops(self.feasible, population))

    def left_out(self) -> Belief:
        return self._belief(self.median_left_out)

    def _belief(self, warped: Floats) -> Belief:
        return self.warp.belief(warped, np.full(len(warped), self.std))


def log_flops(feasible: FeasibleSet, population: Population) -> Floats:
    """(n, genes) -> (n,).

    Raises:
        InputError: if costs are unknown.
    """
    if feasible.costs is None:
        raise InputError("flops of networks need costs, and none were given")
    return np.log(np.maximum(feasible.costs.one("flops", population), 1.0))


def _rising(squares: Floats, products: Floats) -> Floats:
    """Slopes; 0 where x does not vary, or y falls."""
    varies = squares > 1e-12
    return np.where(varies, np.maximum(products, 0.0) / np.where(varies, squares, 1.0), 0.0)
