"""Models of accuracy that searches fit again and again, on networks as rows of their space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from hwnas.belief import Belief, BelowTopBelief, NormalBelief
from spaces.errors import InputError

from .features import Features, describe
from .gaussian_process import FittedProcess

if TYPE_CHECKING:
    from hwnas.feasible import FeasibleSet
    from spaces import Population

Floats = NDArray[np.float64]
DESCRIBED_AT_ONCE = 16_384
LEAST_SPREAD = 1e-9
LEAST = 3  # networks of which a surrogate is fitted
FAR = 4.0  # interquartile ranges below the median: what is worse counts as this bad
ABOVE = 2.0  # interquartile ranges above the best: where the warped scale ends
FEATURES_PER_SPLIT = 0.5
TREE_GROUPS = ("visits", "none")  # that trees do without: splits on them follow chance


class FittedSurrogate(ABC):
    """What a surrogate has learned."""

    @abstractmethod
    def predict(self, population: Population) -> tuple[Floats, Floats]:
        """(n, genes) -> mean (n,) and std (n,), in the unit of the values.

        Of a belief that is not normal these are its median, and how much higher the bound of one std is.
        """

    def believe(self, population: Population) -> Belief:
        """Of the true values, which acquisitions ask; where a surrogate cannot tell the noise apart, it is in it."""
        return NormalBelief(*self.predict(population))

    def foretell(self, population: Population) -> Belief:
        """Of one value that is observed of each network, its noise included."""
        return self.believe(population)

    def left_out(self) -> Belief | None:
        """Of the value of each network that was learned, by the others alone, noise included; None where unknown."""
        return None


class FittedByBelief(FittedSurrogate):
    """What a surrogate has learned that tells its belief first."""

    def predict(self, population: Population) -> tuple[Floats, Floats]:
        belief = self.believe(population)
        median = belief.at(0.0)
        return median, belief.at(1.0) - median

    @abstractmethod
    def believe(self, population: Population) -> Belief: ...


class Surrogate(ABC):
    """A way to learn values of networks. Settings are fields; `fit` leaves the surrogate as it is.

    Attributes:
        name: for people who read how good it is.
    """

    name: ClassVar[str]

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
class Warp:
    """Values on a scale that is stretched towards the best: minus the log distance to a `top` above all of them.

    What differs between good networks is a small part of the range of all, and the worst of them, that failed to
    learn, would set the scale: they count as `floor`.
    """

    top: float
    floor: float
    centre: float
    scale: float

    @classmethod
    def of(cls, values: Floats) -> Warp:
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        least = LEAST_SPREAD * max(1.0, float(np.abs(values).max()))  # below it, rounding would set the scale
        spread = next((each for each in (float(high - low), float(values.std())) if each > least), 1.0)
        warp = cls(float(values.max()) + ABOVE * spread, float(middle) - FAR * spread, 0.0, 1.0)
        warped = warp(values)
        std = float(warped.std())
        return cls(warp.top, warp.floor, float(warped.mean()), std if std > LEAST_SPREAD else 1.0)

    def __call__(self, values: Floats) -> Floats:
        return np.asarray((-np.log(self.top - np.maximum(values, self.floor)) - self.centre) / self.scale)

    def belief(self, mean: Floats, std: Floats) -> Belief:
        """Of values that are normal on the warped scale: bounds are taken there, and brought back.

        A normal belief in the unit of the values, of a std that one step of the scale makes here, would promise most
        of the worst networks, from which a step is longest.
        """
        return BelowTopBelief(self.top, -(self.centre + self.scale * mean), self.scale * std)


@dataclass(frozen=True)
class GaussianProcess(Surrogate):
    """A Gaussian process (`FittedProcess`) on the features of `describe` and the `Warp` of the values."""

    name: ClassVar[str] = "process"

    def fit(self, population: Population, values: Floats, *, feasible: FeasibleSet, seed: int) -> FittedSurrogate:
        values = checked_values(values)
        warp = Warp.of(values)
        process = FittedProcess.of(describe(feasible, population), warp(values))
        return FittedOnFeatures(feasible, warp, process, process.left_out[0])


@dataclass(frozen=True)
class ProcessAndTrees(Surrogate):
    """The Gaussian process and extremely randomised trees on the same features; a weight between them.

    Their weights are as the inverse square of their mean squared errors on networks left out: of the process each
    alone, of trees those that each tree did not draw. So the worse of unlike models still helps where it is nearly as
    good, and has no say where it is much worse. The std is that of the process.

    Attributes:
        trees: their number.
    """

    name: ClassVar[str] = "process-and-trees"
    trees: int = 200

    def fit(self, population: Population, values: Floats, *, feasible: FeasibleSet, seed: int) -> FittedSurrogate:
        values = checked_values(values)
        warp = Warp.of(values)
        features, y = describe(feasible, population), warp(values)
        process = FittedProcess.of(features, y)
        X = tree_table(features)
        settings = {"n_estimators": self.trees, "max_features": FEATURES_PER_SPLIT, "random_state": seed}
        drawing = ExtraTreesRegressor(bootstrap=True, oob_score=True, **settings).fit(X, y)
        of_trees = np.where(np.isfinite(drawing.oob_prediction_), drawing.oob_prediction_, y.mean())
        of_process, _ = process.left_out
        errors = [float(((left_out - y) ** 2).mean()) for left_out in (of_process, of_trees)]
        weight = errors[1] ** 2 / (errors[0] ** 2 + errors[1] ** 2) if any(errors) else 1.0
        left_out = weight * of_process + (1 - weight) * of_trees
        return FittedOnFeatures(feasible, warp, process, left_out, ExtraTreesRegressor(**settings).fit(X, y), weight)


@dataclass(frozen=True, eq=False)
class FittedOnFeatures(FittedByBelief):
    """A process of warped values, and where there are any, trees.

    Attributes:
        median_left_out: (n,) on the warped scale, of each network that was learned by the others.
        weight: of the process.
    """

    feasible: FeasibleSet
    warp: Warp
    process: FittedProcess
    median_left_out: Floats
    forest: ExtraTreesRegressor | None = None
    weight: float = 1.0

    def believe(self, population: Population) -> Belief:
        return self.warp.belief(*in_chunks(population, self._warped))

    def foretell(self, population: Population) -> Belief:
        mean, std = in_chunks(population, self._warped)
        return self.warp.belief(mean, np.hypot(std, self.process.noise))

    def left_out(self) -> Belief:
        """Settings (lengths, noise, weight and scale) are those of all, which makes it look a little too good."""
        return self.warp.belief(self.median_left_out, self.process.left_out[1])

    def _warped(self, rows: Population) -> tuple[Floats, Floats]:
        features = describe(self.feasible, rows)
        mean, std = self.process.predict(features)
        if self.forest is not None:
            mean = self.weight * mean + (1 - self.weight) * self.forest.predict(tree_table(features))
        return mean, std


def in_chunks(population: Population, predict: Callable[[Population], tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Mean and std of all rows, some at a time, so that a million of them need no more memory than a few thousand."""
    mean, std = np.empty(len(population)), np.empty(len(population))
    for start in range(0, len(population), DESCRIBED_AT_ONCE):
        rows = slice(start, start + DESCRIBED_AT_ONCE)
        mean[rows], std[rows] = predict(population[rows])
    return mean, std


def checked_values(values: Floats) -> Floats:
    """Finite values of at least `LEAST` networks, as float64.

    Raises:
        InputError: if they are not.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < LEAST or not np.isfinite(values).all():
        raise InputError(f"a surrogate needs at least {LEAST} finite values, got {len(values)}")
    return values


def tree_table(features: Features) -> Floats:
    return np.concatenate([values for name, values in features.items() if name not in TREE_GROUPS], axis=1)
