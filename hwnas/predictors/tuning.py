"""Choosing settings of a predictor by cross-validation."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spaces.errors import InputError
from spaces.graph import GraphBatch

from .predictor import FittedPredictor, Floats, Predictor, checked_targets
from .quality import PredictorQuality, cross_validate

log = logging.getLogger(__name__)


def grid(predictor: Predictor, **values: Sequence[Any]) -> tuple[Predictor, ...]:
    """A predictor with every combination of the values of its settings, those of the last setting changing fastest."""
    return tuple(
        replace(predictor, **dict(zip(values, chosen, strict=True)))  # type: ignore[type-var]
        for chosen in itertools.product(*values.values())
    )


@dataclass(frozen=True)
class Tuned:
    """The predictor of the least error, and the qualities of all that were tried, one list of them for each:
    an empty one of those that could not be cross-validated."""

    best: Predictor
    qualities: tuple[tuple[PredictorQuality, ...], ...]


def tune(
    candidates: Sequence[Predictor],
    graphs: GraphBatch,
    features: Floats,
    targets: Floats,
    *,
    splits: int = 2,
    folds: int = 5,
    seed: int,
) -> Tuned:
    """The candidate of the least mean squared error on what was left out, over several cross-validations.

    One that cannot be fitted on some part, or predicts what is not finite, is not chosen.

    Args:
        candidates: not fitted, such as a `grid` gives them.
        splits: into folds, in as many random ways; all candidates get the same ones.
    Raises:
        InputError: if there is no candidate or no split, or none can be cross-validated.

    Source: the procedure of Wen et al., 1912.00848, who choose by the error on validation parts of the N samples.
    """
    if not candidates or splits < 1:
        raise InputError(f"tuning needs at least one candidate and one split, got {len(candidates)} and {splits}")
    seeds = np.random.default_rng(seed).integers(2**31, size=splits)
    qualities: list[tuple[PredictorQuality, ...]] = []
    failed = []
    for each in candidates:
        try:
            own = tuple(cross_validate(each, graphs, features, targets, folds=folds, seed=int(own)) for own in seeds)
        except (InputError, ArithmeticError, np.linalg.LinAlgError) as error:
            own = ()
            failed.append(str(error))
            log.warning("%s could not be cross-validated and is not chosen: %s", each, error)
        qualities.append(own)
    errors = np.array([np.mean([quality.rmse**2 for quality in own]) if own else np.inf for own in qualities])
    errors[~np.isfinite(errors)] = np.inf
    if np.isinf(errors).all():
        why = failed[0] if failed else "predictions are not finite"
        raise InputError(f"none of {len(candidates)} candidates could be cross-validated: {why}")
    return Tuned(candidates[int(np.argmin(errors))], tuple(qualities))


@dataclass(frozen=True)
class TunedPredictor(Predictor):
    """Chooses among candidates by cross-validation of what it learns from, then fits the chosen one on all of it.

    What was fitted is the chosen one's, and says what it is of as such (`FittedGCN.predictor`).

    Attributes:
        candidates: not fitted, such as a `grid` gives them.
        splits, folds: as of `tune`.
    """

    candidates: tuple[Predictor, ...]
    splits: int = 1
    folds: int = 5

    def fit(self, graphs: GraphBatch, features: Floats, targets: Floats, *, seed: int) -> FittedPredictor:
        targets = checked_targets(targets, len(graphs), least=self.folds)
        tuned = tune(self.candidates, graphs, features, targets, splits=self.splits, folds=self.folds, seed=seed)
        return tuned.best.fit(graphs, features, targets, seed=seed)
