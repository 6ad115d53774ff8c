"""A Gaussian process on groups of features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from .features import Features

Floats = NDArray[np.float64]
JITTER = 1e-6
LEAST_STD = 1e-9  # of a feature that varies
LEAST_AMPLITUDE = 1e-12  # that of equal targets would be 0
PREDICTED_AT_ONCE = 4096
# Normal priors of log lengths and of the log variance of the noise, as mean and precision: with few values the
# likelihood alone would take noise for structure.
LENGTH_PRIOR = (1.0, 0.5)
NOISE_PRIOR = (-2.5, 1.0)
LENGTH_BOUNDS = (-3.0, 5.0)
NOISE_BOUNDS = (-9.0, 1.0)
START_NOISE = -3.0


@dataclass(frozen=True)
class Scaling:
    """Makes each feature's mean 0 and its variance 1 over what was fitted.

    Features that do not vary there keep their unit, so that a network that differs in them alone is another one.
    """

    mean: Mapping[str, Floats]
    factor: Mapping[str, Floats]

    @classmethod
    def of(cls, features: Features) -> Scaling:
        std = {name: values.std(axis=0) for name, values in features.items()}
        varying = {name: values > LEAST_STD for name, values in std.items()}
        of_group = {name: math.sqrt(max(1, varying[name].sum())) for name in features}
        factor = {name: 1 / np.where(varying[name], std[name], 1.0) / of_group[name] for name in features}
        return cls({name: values.mean(axis=0) for name, values in features.items()}, factor)

    def __call__(self, features: Features) -> list[Floats]:
        """(n, k) of each group; squared distances are means over its features that vary."""
        return [(features[name] - self.mean[name]) * self.factor[name] for name in self.factor]


@dataclass(frozen=True, eq=False)
class FittedProcess:
    """The posterior, by the Cholesky factor of the kernel matrix.

    The kernel is Matern 5/2 of the distance sqrt(sum of d_g / l_g^2): d_g is the mean squared difference of the
    standardised features of group g. Lengths and noise maximise the marginal likelihood times their priors; the
    amplitude is the best for them.

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, algorithm 2.1, section 5.4.
    """

    scaling: Scaling
    X: list[Floats]
    theta: Floats
    targets: Floats
    factor: Floats
    weights: Floats
    amplitude: float

    @classmethod
    def of(cls, features: Features, targets: Floats) -> FittedProcess:
        """Of n networks, standardised targets (n,)."""
        scaling = Scaling.of(features)
        X = scaling(features)
        distances = [_squared_distances(x, x) for x in X]
        found = minimize(
            _loss,
            np.array([LENGTH_PRIOR[0]] * len(X) + [START_NOISE]),
            args=(distances, targets),
            method="L-BFGS-B",
            jac=True,
            bounds=[LENGTH_BOUNDS] * len(X) + [NOISE_BOUNDS],
        )
        theta = np.asarray(found.x, dtype=np.float64)
        K = _kernel(distances, theta, (len(targets), len(targets)))[0] + (math.exp(theta[-1]) + JITTER) * np.eye(
            len(targets)
        )
        factor = np.asarray(np.linalg.cholesky(K), dtype=np.float64)
        weights = np.asarray(cho_solve((factor, True), targets))
        return cls(
            scaling, X, theta, targets, factor, weights, max(float(targets @ weights) / len(targets), LEAST_AMPLITUDE)
        )

    def predict(self, features: Features) -> tuple[Floats, Floats]:
        """Mean (n,) and std (n,) of the true value; the noise of a new one is not in std."""
        n = len(next(iter(features.values())))
        means, stds = np.empty(n), np.empty(n)
        for start in range(0, n, PREDICTED_AT_ONCE):
            rows = slice(start, start + PREDICTED_AT_ONCE)
            part = self.scaling({name: values[rows] for name, values in features.items()})
            distances = [_squared_distances(a, b) for a, b in zip(part, self.X, strict=True)]
            k = _kernel(distances, self.theta, (len(means[rows]), len(self.targets)))[0]
            reached = solve_triangular(self.factor, k.T, lower=True, check_finite=False)
            means[rows] = k @ self.weights
            stds[rows] = np.sqrt(self.amplitude * np.maximum(1 - (reached**2).sum(axis=0), 1e-12))
        return means, stds

    @property
    def noise(self) -> float:
        """The std of the noise of one value."""
        return math.sqrt(self.amplitude * math.exp(self.theta[-1]))

    @cached_property
    def left_out(self) -> tuple[Floats, Floats]:
        """Mean (n,) and std (n,), noise included, of each target by all the others (section 5.4.2 of the source)."""
        precision = np.diag(cho_solve((self.factor, True), np.eye(len(self.targets))))
        return self.targets - self.weights / precision, np.sqrt(self.amplitude / precision)


def _squared_distances(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T, 0))


def _kernel(distances: list[Floats], theta: Floats, shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Matern 5/2, and its slope by the scaled squared distance."""
    scaled = np.zeros(shape)
    for d, t in zip(distances, theta[:-1], strict=True):
        scaled += d * math.exp(-2 * t)
    far = np.sqrt(5 * scaled)
    decay = np.exp(-far)
    return (1 + far + far**2 / 3) * decay, -5 / 6 * (1 + far) * decay


def _loss(theta: Floats, distances: list[Floats], y: Floats) -> tuple[float, Floats]:
    """Minus the log posterior of theta, the amplitude at its best value, and its gradient."""
    n = len(y)
    (signal, slope), noise = _kernel(distances, theta, (n, n)), math.exp(theta[-1])
    factor = cho_factor(signal + (noise + JITTER) * np.eye(n), lower=True, check_finite=False)
    weights = cho_solve(factor, y, check_finite=False)
    amplitude = max(float(y @ weights) / n, LEAST_AMPLITUDE)
    inverse = cho_solve(factor, np.eye(n), check_finite=False)
    inner = inverse - np.outer(weights, weights) / amplitude
    slopes = [
        -2 * math.exp(-2 * t) * float((inner * slope * d).sum()) for d, t in zip(distances, theta[:-1], strict=True)
    ]
    gradient = np.array([*slopes, noise * float(np.trace(inner))]) / 2
    value = n / 2 * math.log(amplitude) + float(np.log(np.diag(factor[0])).sum())
    (length, firm), (usual, sure) = LENGTH_PRIOR, NOISE_PRIOR
    value += firm * float(((theta[:-1] - length) ** 2).sum()) / 2 + sure * float(theta[-1] - usual) ** 2 / 2
    gradient[:-1] += firm * (theta[:-1] - length)
    gradient[-1] += sure * (theta[-1] - usual)
    return value, gradient
