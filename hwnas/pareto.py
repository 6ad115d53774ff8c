"""Fronts: which of many points are worth having. All objectives are minimised unless a name says accuracy or score."""

from __future__ import annotations

import heapq

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from spaces.errors import InputError


def is_non_dominated(F: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates.

    A point is dominated if another is at most equal in every objective and less in at least one. Equal points
    do not dominate each other: all copies of a point on the front are kept.

    Args:
        F: (n, m) values, all minimised; inf is a value like others.
    Returns:
        (n,) booleans.
    Raises:
        InputError: if F is not two-dimensional, has no column or holds a NaN.
    """
    F = _checked(F)
    if len(F) == 0:
        return np.zeros(0, dtype=np.bool_)
    if F.shape[1] == 1:
        return np.asarray(F[:, 0] == F[:, 0].min())
    # Ranks say all that dominance asks, and are finite.
    ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in F.T], axis=1).astype(np.float64)
    return np.asarray(moocore.is_nondominated(ranks, keep_weakly=True), dtype=np.bool_)


def soft_front(costs: ArrayLike, accuracies: ArrayLike, *, J: int = 6) -> NDArray[np.bool_]:
    """Which architectures stay on the soft Pareto front of predicted accuracy over cost.

    Sort by cost, and among equal costs the more accurate first. An architecture stays if its accuracy is above
    the J-th best accuracy among those before it, and as long as fewer than J stand before it. Copies (same cost
    and accuracy) do not stand before each other: they stay or go together, and each counts towards J for those after.

    In other words: an architecture stays if fewer than J others dominate it. J = 1 is the ordinary front, as
    `is_non_dominated` gives it, and every J contains the fronts of all smaller ones.

    Args:
        costs: (n,) what is minimised, such as estimated latency_ms.
        accuracies: (n,) what is maximised.
        J: how much softer than the ordinary front, at least 1.
    Returns:
        (n,) booleans in the order of the input. Time n log n: a million architectures take about a second.
    Raises:
        InputError: if the lengths differ, a value is NaN, or J is below 1.

    Source: our reading of soft-Pareto selection as in the Neural Predictor (arXiv 1912.00848), which says "higher
    than the minimum of the previous J models", with J = 6.
    """
    costs, accuracies = _checked_pair(costs, accuracies)
    if J < 1:
        raise InputError(f"J of a soft front must be at least 1, got {J}")
    order = np.lexsort((-accuracies, costs))
    sorted_costs, sorted_accuracies = costs[order], accuracies[order]
    is_copy = np.zeros(len(order), dtype=np.bool_)
    is_copy[1:] = (sorted_costs[1:] == sorted_costs[:-1]) & (sorted_accuracies[1:] == sorted_accuracies[:-1])
    best: list[float] = []  # the J best accuracies so far, the least of them first
    stays: list[bool] = []
    for accuracy, copy in zip(sorted_accuracies.tolist(), is_copy.tolist(), strict=True):
        stays.append(stays[-1] if copy else len(best) < J or accuracy > best[0])
        if len(best) < J:
            heapq.heappush(best, accuracy)
        elif accuracy > best[0]:
            heapq.heapreplace(best, accuracy)
    kept = np.empty(len(order), dtype=np.bool_)
    kept[order] = stays
    return kept


def hypervolume(F: ArrayLike, ref_point: ArrayLike) -> float:
    """The volume that a set of points dominates, up to the reference point.

    Args:
        F: (n, m) values, all minimised; points that are not better than ref_point in every objective add nothing.
        ref_point: (m,).
    Returns:
        The volume in the product of the objectives' units, 0 for no points.
    Raises:
        InputError: if the shapes do not go together or a value is NaN.
    """
    F, ref_point = _checked(F), np.asarray(ref_point, dtype=np.float64)
    if ref_point.shape != F.shape[1:] or not np.isfinite(ref_point).all():
        raise InputError(
            f"the reference point needs one finite value for each of {F.shape[1]} objectives, got {ref_point.tolist()}"
        )
    F = F[(ref_point > F).all(axis=1)]
    return float(moocore.hypervolume(F, ref=ref_point)) if len(F) else 0.0


def spread_along(
    costs: ArrayLike, scores: ArrayLike, k: int, *, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Choose k of many candidates, spread along the whole cost axis, the best of each part.

    The range of the costs is cut into k parts of equal width, and each part gives its candidate of the highest score
    (ties: the lower cost, then the earlier one). Empty parts leave places open; these are filled in the same way
    from the candidates that are left, over their own range. So one expensive outlier takes one place, not the
    resolution of the rest.

    Args:
        costs: (n,) finite.
        scores: (n,) higher is better, such as predicted accuracy.
        k: how many are wanted.
        mask: (n,) which candidates may be chosen; all, if left out.
    Returns:
        The indices of min(k, candidates) different candidates, by increasing cost. Nothing is drawn.
    Raises:
        InputError: if the shapes differ, a cost is not finite, a score is NaN, or k is negative.
    """
    costs, scores = _checked_pair(costs, scores)
    allowed = np.ones(len(costs), dtype=np.bool_) if mask is None else np.asarray(mask, dtype=np.bool_)
    if allowed.shape != costs.shape:
        raise InputError(f"the mask must have one entry for each of {len(costs)} candidates, got {allowed.shape}")
    if k < 0 or not np.isfinite(costs[allowed]).all():
        raise InputError(f"spreading needs finite costs and a number of places of at least 0, got {k} places")
    left = np.flatnonzero(allowed)
    left = left[np.lexsort((left, costs[left], -scores[left]))]  # the best first
    chosen: list[NDArray[np.int64]] = []
    places = min(k, len(left))
    while places:
        low, high = costs[left].min(), costs[left].max()
        if low == high:  # nothing to spread along
            chosen.append(left[:places])
            break
        part = np.minimum(((costs[left] - low) / (high - low) * places).astype(np.int64), places - 1)
        first = np.unique(part, return_index=True)[1]
        chosen.append(left[first])
        places -= len(first)
        left = np.delete(left, first)
    picks = np.concatenate([np.empty(0, dtype=np.int64), *chosen])
    return np.asarray(picks[np.lexsort((picks, costs[picks]))], dtype=np.int64)


def _checked(F: ArrayLike) -> NDArray[np.float64]:
    F = np.asarray(F, dtype=np.float64)
    if F.ndim != 2 or F.shape[1] == 0:
        raise InputError(f"objectives must be a table (n, m) with at least one column, got the shape {F.shape}")
    if np.isnan(F).any():
        raise InputError(
            f"objectives must be numbers, {int(np.isnan(F).any(axis=1).sum())} of {len(F)} rows hold a NaN"
        )
    return F


def _checked_pair(costs: ArrayLike, values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    costs, values = np.asarray(costs, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if costs.ndim != 1 or costs.shape != values.shape:
        raise InputError(
            f"each candidate needs one cost and one value, got the shapes {costs.shape} and {values.shape}"
        )
    if np.isnan(costs).any() or np.isnan(values).any():
        raise InputError("costs and values of candidates must be numbers, some are NaN")
    return costs, values
