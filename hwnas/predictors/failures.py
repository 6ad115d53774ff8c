"""Which networks fail to train, as far as earlier failures tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwnas.belief import RiskyBelief

from .features import describe
from .gaussian_process import FittedProcess, Floats
from .surrogate import FittedByBelief, FittedSurrogate, in_chunks

if TYPE_CHECKING:
    from hwnas.feasible import FeasibleSet
    from spaces import Population


@dataclass(frozen=True, eq=False)
class SuccessChance:
    """How likely a network trains to the end: a Gaussian process on 1 where one did and 0 where it failed.

    Networks of a kind fail, those too large for the memory, or any network does, at times. Only the first can be
    foreseen: as much of what the process says counts as it explains of the outcomes by each other (R squared of
    leaving each out), and the rest counts as success, so that failures by chance turn a search away from nothing.

    Attributes:
        mean, std: of the outcomes.
        skill: in 0..1.
    """

    feasible: FeasibleSet
    process: FittedProcess
    mean: float
    std: float
    skill: float

    @classmethod
    def of(cls, feasible: FeasibleSet, population: Population, succeeded: NDArray[np.bool_]) -> SuccessChance:
        """Of (n, genes) and (n,), which holds both outcomes."""
        mean, std = float(succeeded.mean()), float(succeeded.std())
        outcomes = np.asarray((succeeded - mean) / std, dtype=np.float64)
        process = FittedProcess.of(describe(feasible, population), outcomes)
        skill = max(0.0, 1 - float(((process.left_out[0] - outcomes) ** 2).mean()))
        return cls(feasible, process, mean, std, skill)

    def __call__(self, population: Population) -> Floats:
        """(n, genes) -> (n,) in 0..1."""
        if self.skill == 0:
            return np.ones(len(population))
        said, _ = in_chunks(population, lambda rows: self.process.predict(describe(self.feasible, rows)))
        return np.asarray(1 - self.skill * (1 - np.clip(self.mean + self.std * said, 0, 1)))


@dataclass(frozen=True, eq=False)
class FittedWithFailures(FittedByBelief):
    """What a surrogate learned, where networks may fail.

    Attributes:
        failed: what a failure is worth.
    """

    of_success: FittedSurrogate
    chance: SuccessChance
    failed: float

    def believe(self, population: Population) -> RiskyBelief:
        return RiskyBelief(self.of_success.believe(population), self.chance(population), self.failed)
