"""How good a predictor is on architectures that it has not seen, and which one to use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import kendalltau, spearmanr

from spaces.errors import InputError
from spaces.graph import GraphBatch

from .baselines import LinePredictor, RidgePredictor, TreesPredictor
from .predictor import FittedPredictor, Floats, Predictor, checked_inputs, checked_targets

Z95 = 1.959964  # a normal variable lies within +- this many stds with probability 95 %


@dataclass(frozen=True, slots=True)
class PredictorQuality:
    """Predictions against truth.

    Attributes:
        kendall_tau: rank correlation (tau-b), 0 where either side is constant.
        spearman: rank correlation, 0 where either side is constant.
        rmse: root mean squared error, in the unit of the targets.
        coverage: share of targets inside the predicted 95 % intervals.
    """

    kendall_tau: float
    spearman: float
    rmse: float
    coverage: float


def quality(mean: Floats, std: Floats, targets: Floats) -> PredictorQuality:
    """Compare predictions with what came true; all (n,), n at least 2."""
    error = np.asarray(mean) - np.asarray(targets)
    return PredictorQuality(
        kendall_tau=_rank(kendalltau, mean, targets),
        spearman=_rank(spearmanr, mean, targets),
        rmse=float(np.sqrt(np.mean(error**2))),
        coverage=float(np.mean(np.abs(error) <= Z95 * np.asarray(std))),
    )


def cross_validate(
    predictor: Predictor, graphs: GraphBatch, features: Floats, targets: Floats, *, folds: int = 5, seed: int
) -> PredictorQuality:
    """The quality on architectures left out of the fit, each once.

    Raises:
        InputError: if there are fewer than 2 folds or fewer architectures than folds, or the predictor cannot be
            fitted on what one fold leaves.
    """
    features = checked_inputs(graphs, features)
    targets = checked_targets(targets, len(graphs), least=2)
    if not 2 <= folds <= len(targets):
        raise InputError(f"cross-validation needs from 2 folds to one for each architecture, got {folds}")
    rng = np.random.default_rng(seed)
    fold = rng.permutation(len(targets)) % folds
    mean, std = np.empty(len(targets)), np.empty(len(targets))
    for held_out in range(folds):
        inside, outside = np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
        fit_seed = int(rng.integers(2**31))
        fitted = predictor.fit(graphs[inside], features[inside], targets[inside], seed=fit_seed)
        mean[outside], std[outside] = fitted.predict(graphs[outside], features[outside])
    return quality(mean, std, targets)


@dataclass(frozen=True)
class PredictorChoice:
    """Which predictor to use, and why.

    Attributes:
        name: "gcn", or where that ranks no better than flops, the best of "ridge", "trees" and "flops".
        predictor: the one of that name.
        fitted: the same, fitted on all architectures.
        qualities: on architectures left out, by name: of the GCN and flops, and of the others where they were asked.
        flops_spearman: rank correlation of log flops with the targets, nothing fitted.
        warning: why the GCN was not chosen; None where it was.
    """

    name: str
    predictor: Predictor
    fitted: FittedPredictor = field(repr=False)
    qualities: Mapping[str, PredictorQuality] = field(hash=False)
    flops_spearman: float
    warning: str | None


def choose_predictor(
    gcn: Predictor,
    graphs: GraphBatch,
    features: Floats,
    targets: Floats,
    *,
    flops_column: int,
    folds: int = 5,
    seed: int,
) -> PredictorChoice:
    """The GCN where it ranks better than flops alone, else the best of flops, ridge and trees.

    A GCN whose members left out folds is fitted once, and those folds are its cross-validation: of one member each, so
    that it is, if anything, judged too hard. Others are cross-validated.

    Args:
        gcn: the default, as it would be used.
        features: (n, k), of which column `flops_column` is log flops (or anything that rises with flops).
    Raises:
        InputError: as `cross_validate`.
    """
    fallbacks: dict[str, Predictor] = {
        "flops": LinePredictor(flops_column),
        "ridge": RidgePredictor(),
        "trees": TreesPredictor(),
    }

    def validated(predictor: Predictor) -> PredictorQuality:
        return cross_validate(predictor, graphs, features, targets, folds=folds, seed=seed)

    fitted = gcn.fit(graphs, features, targets, seed=seed)
    left_out = fitted.left_out()
    qualities = {
        "gcn": validated(gcn) if left_out is None else quality(*left_out, targets),
        "flops": validated(fallbacks["flops"]),
    }
    flops_spearman = _rank(spearmanr, np.asarray(features)[:, flops_column], targets)
    own = qualities["gcn"].spearman
    if own > flops_spearman:
        return PredictorChoice("gcn", gcn, fitted, qualities, flops_spearman, None)
    qualities |= {name: validated(each) for name, each in fallbacks.items() if name not in qualities}
    ranks = {name: qualities[name].spearman for name in fallbacks} | {"flops": flops_spearman}
    best = max(ranks, key=ranks.__getitem__)
    warning = (
        f"cross-validated on {len(targets)} architectures, the GCN ranks no better (Spearman {own:.2f}) "
        f"than flops alone ({flops_spearman:.2f}); {best} ({ranks[best]:.2f}) is used instead"
    )
    fitted = fallbacks[best].fit(graphs, features, targets, seed=seed)
    return PredictorChoice(best, fallbacks[best], fitted, qualities, flops_spearman, warning)


def _rank(correlation: object, x: Floats, y: Floats) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(correlation(x, y).statistic)  # type: ignore[operator]
