"""What a network is worth where limits may be missed a little: accuracy, less for each limit that is missed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spaces.errors import InputError

from .objectives import LIMITED, Limit, satisfies

if TYPE_CHECKING:
    from latency import DeviceCosts
    from spaces import Population

    from .feasible import FeasibleSet

DEFAULT_SHARE = 0.5
_FORM = "write NAME<=NUMBER or NAME>=NUMBER, and after an @ the share that is kept, such as params<=1M@0.5"


@dataclass(frozen=True, slots=True)
class SoftLimit:
    """A limit that may be missed at a price.

    Attributes:
        share: of the accuracy that is kept at a violation of 100 % (twice an upper limit, half a lower one), and
            again for each further 100 %; above 0, below 1.
    """

    limit: Limit
    share: float = DEFAULT_SHARE

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"the share of accuracy that a soft limit keeps lies between 0 and 1, got {self.share}")
        if self.limit.value == 0:
            raise InputError(
                f"a soft limit is missed by shares of its value, which must be above 0, got {self.limit}",
                hint="give --limit instead, which is met or not",
            )

    @classmethod
    def parse(cls, text: str, *, names: Sequence[str] = LIMITED) -> SoftLimit:
        """The soft limit of a text such as "params<=1M" or "params<=1M@0.8".

        Raises:
            InputError: if the text has another form, or names a quantity that is not known.
        """
        limit, at, share = text.partition("@")
        if not at:
            return cls(Limit.parse(limit, names=names))
        try:
            kept = float(share)
        except ValueError:
            kept = math.nan
        if math.isnan(kept):
            raise InputError(f"the share of a soft limit must be a number, got {share!r}", hint=_FORM)
        return cls(Limit.parse(limit, names=names), kept)

    def __str__(self) -> str:
        return f"{self.limit}@{self.share:g}"


def kept_share(soft: Sequence[SoftLimit], costs: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """The share of the accuracy that is kept: the product over all limits of p^v, v the relative violation.

    Args:
        soft: several, or none: then all is kept.
        costs: by name, arrays of one shape.
    Returns:
        The same shape, in [0, 1]: 1 exactly where every limit holds, 0 where a violation is not finite.
    Raises:
        InputError: if a limited quantity has no values.
    """
    share = np.ones(np.broadcast_shapes(*(np.shape(each) for each in costs.values())))
    for each in soft:
        name = each.limit.name
        if name not in costs:
            raise InputError(f"the soft limit {each} needs {name}, which is not known here", hint="leave the limit out")
        share = share * each.share ** each.limit.violation(costs[name])
    return np.asarray(share, dtype=np.float64)


def kept_by_estimates(soft: Sequence[SoftLimit], costs: DeviceCosts, population: Population) -> NDArray[np.float64]:
    """`kept_share` of rows (n, genes) -> (n,); of an estimated quantity the far end of its 95 % interval counts."""
    share = np.ones(len(population))
    for each in soft:
        share *= kept_share([each], {each.limit.name: _far_end(each.limit, costs, population)})
    return share


def _far_end(limit: Limit, costs: DeviceCosts, population: Population) -> NDArray[np.float64]:
    low, high = costs.interval(limit.name, population)
    return high if limit.op == "<=" else low


def reward(
    accuracy: ArrayLike,
    costs: Mapping[str, ArrayLike],
    *,
    soft: Sequence[SoftLimit] = (),
    hard: Sequence[Limit] = (),
) -> NDArray[np.float64]:
    """R = A * prod_i p_i^{v_i}; a network that misses a hard limit is void: 0, whatever its accuracy.

    Args:
        accuracy: (n,), not negative.
        costs: by name, (n,) each, in any unit that the limits share.
        soft, hard: any number of each, upper and lower.
    Raises:
        InputError: if a limited quantity has no values.

    Source: the multiplicative reward of EPNAS (arXiv 1907.04648), as our design reads it.
    """
    costs = {**costs, "accuracy": accuracy}
    return _reward(accuracy, kept_share(soft, costs), satisfies(hard, costs))


def reward_by_estimates(
    accuracy: NDArray[np.float64], soft: Sequence[SoftLimit], feasible: FeasibleSet, population: Population
) -> NDArray[np.float64]:
    """`reward` of rows (n, genes) -> (n,) that meet the hard limits, by counts and the far ends of estimates.

    Args:
        accuracy: (n,), predicted or found; what is predicted below 0 counts as 0.
    """
    costs = feasible.costs
    kept = np.ones(len(population)) if costs is None else kept_by_estimates(soft, costs, population)
    return _reward(np.maximum(accuracy, 0.0), kept, np.ones(len(population), dtype=np.bool_))


def _reward(accuracy: ArrayLike, kept: NDArray[np.float64], met: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(np.where(met, np.asarray(accuracy, dtype=np.float64) * kept, 0.0))
