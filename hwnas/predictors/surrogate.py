"""Models of accuracy that iterated searches fit again and again."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from spaces.errors import InputError

if TYPE_CHECKING:
    from hwnas.feasible import FeasibleSet
    from spaces import Population

Floats = NDArray[np.float64]
LEAST = 3  # networks of which a Gaussian process is fitted
FAR = 4.0  # interquartile ranges below the median: what is worse counts as this bad
JITTER = 1e-8
STARTS = ((0.0, 0.0, -4.0), (1.0, 1.0, -2.0))  # log lengths of genes and costs, log variance of the noise


class FittedSurrogate(ABC):
    """What a surrogate has learned."""

    @abstractmethod
    def predict(self, population: Population) -> tuple[Floats, Floats]:
        """(n, genes) -> mean (n,) and std (n,) of the true value, in its unit; the noise of a new one is not in std."""


class Surrogate(ABC):
    """A way to learn values of networks. Settings are fields; `fit` leaves the surrogate as it is."""

    @abstractmethod
    def fit(self, population: Population, values: Floats, *, feasible: FeasibleSet, seed: int) -> FittedSurrogate:
        """Learn from evaluated networks.

        Args:
            population: (n, genes).
            values: (n,) finite.
            feasible: their space, and its costs where they are known.
            seed: decides everything that is drawn.
        Raises:
            InputError: if a value is not finite or there are too few.
        """


@dataclass(frozen=True)
class GaussianProcess(Surrogate):
    """A Gaussian process on one-hot genes and, where costs are known, log params and log flops.

    The kernel is exp(-d / (2 l^2) - e / (2 m^2)): d is the share of genes that differ (of canonical rows, where the
    space has such), e the squared distance of the standardised costs. Lengths and noise maximise the marginal
    likelihood. Values far below the median count as less far, so that failures do not set the scale.

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, algorithm 2.1 and section 5.4.1.
    """

    def fit(self, population: Population, values: Floats, *, feasible: FeasibleSet, seed: int) -> FittedSurrogate:
        values = np.asarray(values, dtype=np.float64)
        if len(values) < LEAST or not np.isfinite(values).all():
            raise InputError(f"a Gaussian process needs at least {LEAST} finite values, got {len(values)}")
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        values = np.maximum(values, middle - FAR * (high - low)) if high > low else values
        centre, scale = float(values.mean()), float(values.std()) or 1.0
        describe = _Description.of(population, feasible)
        X = describe(population)
        y = (values - centre) / scale
        distances = _distances(X, X)
        found = [
            minimize(
                _loss, start, args=(distances, y), method="L-BFGS-B", jac=True, bounds=[(-3, 4), (-3, 4), (-10, 1)]
            )
            for start in STARTS
        ]
        theta = min(found, key=lambda result: float(result.fun)).x
        K = _kernel(distances, theta) + (math.exp(theta[2]) + JITTER) * np.eye(len(y))
        factor = np.asarray(np.linalg.cholesky(K), dtype=np.float64)
        amplitude = float(y @ cho_solve((factor, True), y)) / len(y)
        return FittedGaussianProcess(describe, X, theta, factor, cho_solve((factor, True), y), amplitude, centre, scale)


@dataclass(frozen=True, eq=False)
class FittedGaussianProcess(FittedSurrogate):
    """The posterior, by the Cholesky factor of the kernel matrix."""

    describe: _Description
    X: tuple[Floats, Floats]
    theta: Floats
    factor: Floats
    weights: Floats
    amplitude: float
    centre: float
    scale: float

    def predict(self, population: Population) -> tuple[Floats, Floats]:
        means, stds = [np.empty(0)], [np.empty(0)]
        for start in range(0, len(population), 4096):
            k = _kernel(_distances(self.describe(population[start : start + 4096]), self.X), self.theta)
            reached = solve_triangular(self.factor, k.T, lower=True, check_finite=False)
            variance = self.amplitude * np.maximum(1 - (reached**2).sum(axis=0), 1e-12)
            means.append(self.centre + self.scale * (k @ self.weights))
            stds.append(self.scale * np.sqrt(variance))
        return np.concatenate(means), np.concatenate(stds)


@dataclass(frozen=True, eq=False)
class _Description:
    """Networks as numbers: one-hot genes, and standardised log costs."""

    feasible: FeasibleSet
    mean: Floats
    std: Floats

    @classmethod
    def of(cls, population: Population, feasible: FeasibleSet) -> _Description:
        costs = _log_costs(population, feasible)
        std = costs.std(axis=0)
        return cls(feasible, costs.mean(axis=0), np.where(std > 0, std, 1.0))

    def __call__(self, population: Population) -> tuple[Floats, Floats]:
        space = self.feasible.space
        keys = space.canonical(population)
        rows = keys if keys.shape == population.shape else population
        places = np.arange(-1, max(space.choices))
        one_hot = (rows[:, :, None] == places).reshape(len(rows), -1).astype(np.float64) / math.sqrt(rows.shape[1])
        return one_hot, (_log_costs(population, self.feasible) - self.mean) / self.std


def _log_costs(population: Population, feasible: FeasibleSet) -> Floats:
    if feasible.costs is None:
        return np.zeros((len(population), 0))
    return np.log(np.stack([feasible.costs.one(name, population) for name in ("params", "flops")], axis=1))


def _distances(A: tuple[Floats, Floats], B: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """(n, k), (m, k) -> (n, m) squared distances, of genes and of costs."""
    squared = [
        np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T, 0) for a, b in zip(A, B, strict=True)
    ]
    return squared[0], squared[1]


def _kernel(distances: tuple[Floats, Floats], theta: Floats) -> Floats:
    genes, costs = distances
    return np.asarray(np.exp(-genes / 2 * math.exp(-2 * theta[0]) - costs / 2 * math.exp(-2 * theta[1])))


def _loss(theta: Floats, distances: tuple[Floats, Floats], y: Floats) -> tuple[float, Floats]:
    """Minus the log likelihood of y, its amplitude at the best value, and the gradient by theta."""
    n = len(y)
    signal, noise = _kernel(distances, theta), math.exp(theta[2])
    factor = cho_factor(signal + (noise + JITTER) * np.eye(n), lower=True, check_finite=False)
    weights = cho_solve(factor, y, check_finite=False)
    amplitude = float(y @ weights) / n
    inverse = cho_solve(factor, np.eye(n), check_finite=False)
    inner = inverse - np.outer(weights, weights) / amplitude
    slopes = [signal * d * math.exp(-2 * t) for d, t in zip(distances, theta[:2], strict=True)] + [noise * np.eye(n)]
    value = n / 2 * math.log(amplitude) + float(np.log(np.diag(factor[0])).sum())
    return value, np.array([0.5 * float((inner * slope).sum()) for slope in slopes])
