"""Fronts of predicted accuracies: what a network may add to one, and how likely it is on one."""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from spaces.errors import InputError

from .belief import Belief
from .pareto import hypervolume

Floats = NDArray[np.float64]
CHUNK_VALUES = 4_000_000  # of the largest array of one chunk; the grid of known costs alone may be larger
LOOKED_AT = 256  # candidates at a time
OTHERS_AT_ONCE = 512  # networks that may dominate one: 16 MiB an array
QUANTILES = ndtri((np.arange(64) + 0.5) / 64)  # equally likely values of a standard normal variable


def expected_gain(
    belief: Belief,
    costs: ArrayLike,
    *,
    accuracies: ArrayLike,
    known_costs: ArrayLike,
    floor: float,
    reference: ArrayLike,
) -> Floats:
    """Expected improvement of the hypervolume by each of n candidates: accuracy is uncertain, costs are known.

    The volume is that between the accuracy `floor` and the best accuracy that is to be had at most at each cost,
    over all costs up to the reference. Where a candidate costs no more, its accuracy a adds max(0, a - best), whose
    mean is the expected improvement of what is believed of a. The best accuracy is constant on the cells of the grid
    that the known costs span, so that the sum over cells is exact.

    Args:
        belief: of the accuracies of n candidates.
        costs: (n, m), all minimised, m at least 1.
        accuracies, known_costs: (k,) and (k, m) of the networks that are known, k may be 0.
        reference: (m,) costs from which on nothing counts.
    Returns:
        (n,), at least 0, in the unit of accuracy times those of the costs.
    Raises:
        InputError: if the shapes do not go together or a value is not finite.

    Source: Emmerich, Deutz and Klinkenberg, Hypervolume-based expected improvement, CEC 2011; that only one objective
    is uncertain makes it a sum over cells.
    """
    costs, reference = np.asarray(costs, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    mean = belief.at(0.0)
    accuracies, known_costs = np.asarray(accuracies, dtype=np.float64), np.asarray(known_costs, dtype=np.float64)
    m = len(reference)
    if costs.shape != (len(mean), m) or known_costs.shape != (len(accuracies), m):
        raise InputError(
            f"candidates and known networks need one cost for each of {m} places of the reference, got the shapes "
            f"{costs.shape} and {known_costs.shape}"
        )
    if not all(np.isfinite(each).all() for each in (mean, belief.at(1.0), costs, reference, accuracies, known_costs)):
        raise InputError("expected gains need finite accuracies and costs")
    return _Cells.of(accuracies, known_costs, floor, reference).gain(belief, costs)


class _Cells:
    """The grid of known costs, and the best accuracy in each of its cells, one of `levels`."""

    def __init__(self, edges: list[Floats], best: Floats) -> None:
        self.edges = edges  # of each cost: lower ends of the cells, the first -inf, and the reference
        self.best = best  # (cells of cost 1, cells of cost 2, ...)
        self.levels = np.unique(best)

    @classmethod
    def of(cls, accuracies: Floats, costs: Floats, floor: float, reference: Floats) -> _Cells:
        useful = (accuracies > floor) & (costs < reference).all(axis=1)
        accuracies, costs = accuracies[useful], costs[useful]
        if len(costs):
            front = moocore.is_nondominated(np.concatenate([-accuracies[:, None], costs], axis=1))
            accuracies, costs = accuracies[front], costs[front]
        lows = [np.concatenate([[-np.inf], np.unique(column)]) for column in costs.T]
        best = np.full([len(low) for low in lows], floor)
        for accuracy, cost in zip(accuracies, costs, strict=True):
            reached = best[tuple(slice(np.searchsorted(low, c), None) for low, c in zip(lows, cost, strict=True))]
            np.maximum(reached, accuracy, out=reached)
        edges = [np.append(low, end) for low, end in zip(lows, reference, strict=True)]
        return cls(edges, best)

    def gain(self, belief: Belief, costs: Floats) -> Floats:
        """Of n candidates; some of them and some levels at a time, since all times all cells may be a great many."""
        levels_at_once = min(len(self.levels), max(1, CHUNK_VALUES // self.best.size))
        beside_first = levels_at_once * self.best[0].size
        rows_at_once = max(1, CHUNK_VALUES // (beside_first + len(self.levels)))
        gains = np.zeros(len(costs))
        for start in range(0, len(self.levels), levels_at_once):
            levels = self.levels[start : start + levels_at_once]
            is_best = (levels.reshape(-1, *[1] * self.best.ndim) == self.best).astype(np.float64)
            for row in range(0, len(costs), rows_at_once):
                rows = slice(row, row + rows_at_once)
                gains[rows] += (self._volumes(is_best, costs[rows]) * belief.part(rows).improvement(levels)).sum(axis=1)
        return gains

    def _volumes(self, is_best: Floats, costs: Floats) -> Floats:
        """(levels, cells of cost 1, ...), (n, m) -> (n, levels): of the cells of each level, what costs no less."""
        volume = is_best
        for d, (edges, cost) in enumerate(zip(self.edges, costs.T, strict=True)):
            width = np.maximum(edges[1:] - np.maximum(edges[:-1], cost[:, None]), 0.0)  # (n, cells) beyond the cost
            sums = "nc,lc...->nl..." if d == 0 else "nc,nlc...->nl..."
            volume = np.einsum(sums, width, volume, optimize=True)
        return volume


def best_gains(
    k: int,
    belief: Belief,
    costs: Floats,
    *,
    accuracies: Floats,
    known_costs: Floats,
    floor: float,
    reference: Floats,
) -> NDArray[np.int64]:
    """Choose k candidates, one after another by expected gain, each then taken as known with its median.

    A gain never grows when more is known, so only candidates that may still be the best are looked at again: the
    choice is that of looking at all of them. Arguments as in `expected_gain`.
    """
    mean = belief.at(0.0)
    bounds = expected_gain(
        belief, costs, accuracies=accuracies, known_costs=known_costs, floor=floor, reference=reference
    )
    chosen: list[int] = []
    while len(chosen) < min(k, len(mean)):
        if chosen:
            cells = _Cells.of(accuracies, known_costs, floor, reference)
            bounds[chosen] = -np.inf
            order, sure = np.argsort(-bounds, kind="stable"), 0
            while sure < len(order) and (not sure or bounds[order[:sure]].max() <= bounds[order[sure]]):
                rows = order[sure : sure + LOOKED_AT]
                rows = rows[np.isfinite(bounds[rows])]
                bounds[rows] = cells.gain(belief.part(rows), costs[rows])
                sure += LOOKED_AT
        best = int(np.argmax(bounds))
        chosen.append(best)
        accuracies, known_costs = np.append(accuracies, mean[best]), np.concatenate([known_costs, costs[[best]]])
    return np.array(chosen, dtype=np.int64)


def probability_non_dominated(
    mean: ArrayLike, std: ArrayLike, cost: ArrayLike, cost_std: ArrayLike | None = None
) -> Floats:
    """How likely each of n networks is on the front of accuracy over cost, all of them normal and independent.

    Given a network's own accuracy a and cost c, the others dominate it independently of each other, each with
    probability P(accuracy > a) P(cost <= c); the mean over a and c is over equally likely values of both. Of two equal
    networks neither dominates the other.

    Args:
        mean, std: (n,) of accuracies, by the predictor or by measuring; std may be 0.
        cost, cost_std: (n,) of costs, such as measured latency_ms; no cost_std means that they are exact.
    Returns:
        (n,), within about 0.01 of the exact probabilities.
    Raises:
        InputError: if the shapes differ, a value is not finite or a std is negative.
    """
    mean, std, cost = (np.asarray(each, dtype=np.float64) for each in (mean, std, cost))
    cost_std = np.zeros_like(cost) if cost_std is None else np.asarray(cost_std, dtype=np.float64)
    arrays = (mean, std, cost, cost_std)
    if any(each.shape != (len(mean),) or not np.isfinite(each).all() for each in arrays) or (
        len(mean) and min(std.min(), cost_std.min()) < 0
    ):
        raise InputError("mean, std, cost and cost_std must be finite, one of each for every network, no std negative")
    found = np.empty(len(mean))
    for i in range(len(mean)):
        others = np.delete(np.arange(len(mean)), i)
        a, c = mean[i] + std[i] * QUANTILES, cost[i] + cost_std[i] * QUANTILES
        stays = np.ones((len(a), len(c)))
        for start in range(0, len(others), OTHERS_AT_ONCE):
            other = others[start : start + OTHERS_AT_ONCE]
            better, as_good = _above(mean[other], std[other], a)
            dearer, as_dear = _above(cost[other], cost_std[other], c)
            cheaper = 1 - dearer - as_dear
            # Better at the same cost or less, or as good at less.
            dominated = (
                better[:, :, None] * (cheaper + as_dear)[:, None, :] + as_good[:, :, None] * cheaper[:, None, :]
            )  # (others, own accuracies, own costs)
            stays *= np.prod(1 - dominated, axis=0)
        found[i] = stays.mean()
    return found


def _above(mean: Floats, std: Floats, x: Floats) -> tuple[Floats, Floats]:
    """(n,), (n,), (k,) -> (n, k): how likely each normal variable is above x, and how likely it is x itself."""
    ahead = mean[:, None] - x
    exact = (std == 0)[:, None]
    above = np.where(exact, ahead > 0, ndtr(ahead / np.where(exact, 1.0, std[:, None])))
    return above, (exact & (ahead == 0)).astype(np.float64)


def hypervolume_interval(
    mean: ArrayLike,
    std: ArrayLike,
    costs: ArrayLike,
    *,
    floor: float,
    reference: ArrayLike,
    rng: np.random.Generator,
    draws: int = 2000,
) -> tuple[float, float]:
    """The 95 % interval of the hypervolume of n networks whose accuracies are normal and independent.

    Args:
        mean, std: (n,) accuracies; costs: (n, m).
        floor, reference: the accuracy and the (m,) costs where the volume starts.
    """
    mean, std, costs = (np.asarray(each, dtype=np.float64) for each in (mean, std, costs))
    drawn = mean + std * rng.standard_normal((draws, len(mean)))
    corner = np.append(-floor, reference)
    volumes = [hypervolume(np.concatenate([-each[:, None], costs], axis=1), corner) for each in drawn]
    low, high = np.quantile(volumes, (0.025, 0.975))
    return float(low), float(high)
