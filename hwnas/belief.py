"""What is believed of values that are not known yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, ndtr

Floats = NDArray[np.float64]
LEAST_STD = 1e-12


class Belief(ABC):
    """A distribution for the value of each of n networks, each of them a rising function of a normal variable."""

    @abstractmethod
    def at(self, z: ArrayLike) -> Floats:
        """The values where the normal variable is z stds from its mean, z of a shape that goes with (n,).

        Of z = 0 that is the median, of a number of stds a bound, of standard normal draws draws of the values.
        """

    @abstractmethod
    def improvement(self, levels: Floats) -> Floats:
        """(k,) -> (n, k): the mean of max(0, value - level)."""

    @abstractmethod
    def part(self, places: slice | NDArray[np.int64]) -> Belief:
        """That of some of the networks."""


@dataclass(frozen=True, eq=False)
class NormalBelief(Belief):
    """Normal values.

    Attributes:
        mean, std: (n,), std may be 0.
    """

    mean: Floats
    std: Floats

    def at(self, z: ArrayLike) -> Floats:
        return np.asarray(self.mean + np.asarray(z) * self.std)

    def improvement(self, levels: Floats) -> Floats:
        return expected_improvement(self.mean[:, None], self.std[:, None], levels)

    def part(self, places: slice | NDArray[np.int64]) -> NormalBelief:
        return NormalBelief(self.mean[places], self.std[places])


@dataclass(frozen=True, eq=False)
class BelowTopBelief(Belief):
    """Values that never reach `top`: the log of their distance to it is normal.

    Attributes:
        log_distance, std: (n,), mean and std of that log; std may be 0.
    """

    top: float
    log_distance: Floats
    std: Floats

    def at(self, z: ArrayLike) -> Floats:
        return np.asarray(self.top - np.exp(self.log_distance - np.asarray(z) * self.std))

    def improvement(self, levels: Floats) -> Floats:
        """The distance, lognormal, has room below that of the level: as a put option on a stock has."""
        room = np.maximum(self.top - levels, LEAST_STD)
        mean, std = self.log_distance[:, None], np.maximum(self.std[:, None], LEAST_STD)
        z = (np.log(room) - mean) / std
        gain = room * ndtr(z) - np.exp(mean + std**2 / 2 + log_ndtr(z - std))
        return np.where(levels < self.top, np.maximum(gain, 0.0), 0.0)

    def part(self, places: slice | NDArray[np.int64]) -> BelowTopBelief:
        return BelowTopBelief(self.top, self.log_distance[places], self.std[places])


@dataclass(frozen=True, eq=False)
class RiskyBelief(Belief):
    """Of what training brings where it may fail, which is worth no more than `failed`.

    Attributes:
        of_success: the values where it does not fail.
        chance: (n,) in 0..1, that it does not.
    """

    of_success: Belief
    chance: Floats
    failed: float

    def at(self, z: ArrayLike) -> Floats:
        """Weighted by the chance: the mean over failing or not, of what this is where it does not."""
        return np.asarray(self.failed + self.chance * (self.of_success.at(z) - self.failed))

    def improvement(self, levels: Floats) -> Floats:
        """Of levels that are no lower than `failed`."""
        return self.chance[:, None] * self.of_success.improvement(levels)

    def part(self, places: slice | NDArray[np.int64]) -> RiskyBelief:
        return RiskyBelief(self.of_success.part(places), self.chance[places], self.failed)


def expected_improvement(mean: Floats, std: Floats, level: ArrayLike) -> Floats:
    """E max(0, x - level) of normal x, elementwise; std may be 0.

    Source: Jones, Schonlau and Welch, Efficient Global Optimization, 1998, equation 15.
    """
    ahead = mean - np.asarray(level)
    std = np.maximum(std, LEAST_STD)
    z = ahead / std
    return np.asarray(np.maximum(ahead * ndtr(z) + std * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), 0.0))
