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
        low, high = costs.interval(each.limit.name, population)
        share *= kept_share([each], {each.limit.name: high if each.limit.op == "<=" else low})
    return share


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
    met = satisfies(hard, costs)
    return np.asarray(np.where(met, np.asarray(accuracy, dtype=np.float64) * kept_share(soft, costs), 0.0))
