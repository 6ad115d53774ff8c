"""How good a predictor is on architectures that it has not seen, and which one to use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import kendalltau, spearmanr

from hwnas.belief import Belief, NormalBelief
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


def quality(belief: Belief, targets: Floats) -> PredictorQuality:
    """Compare what is believed of n networks, n at least 2, with what came true, (n,)."""
    low, median, high = belief.at(np.array([[-Z95], [0.0], [Z95]]))
    targets = np.asarray(targets)
    return PredictorQuality(
        kendall_tau=_rank(kendalltau, median, targets),
        spearman=spearman(median, targets),
        rmse=float(np.sqrt(np.mean((median - targets) ** 2))),
        coverage=float(np.mean((low <= targets) & (targets <= high))),
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
    return quality(NormalBelief(mean, std), targets)


@dataclass(frozen=True)
class PredictorJudgement:
    """How good a predictor is on architectures left out, and flops beside it.

    Attributes:
        name: of the predictor that is used.
        qualities: by name, of all that were asked; of flops, a line that was fitted to the others.
        flops_spearman: rank correlation of log flops with the targets, nothing fitted.
        warning: where the predictor ranks no better than that; None where it does.
    """

    name: str
    qualities: Mapping[str, PredictorQuality] = field(hash=False)
    flops_spearman: float
    warning: str | None


@dataclass(frozen=True)
class PredictorChoice(PredictorJudgement):
    """Which predictor to use, and why: the GCN, or where that ranks no better than flops, ridge, trees or flops.

    Attributes:
        predictor: the one of that name.
        fitted: the same, fitted on all architectures.
    """

    predictor: Predictor
    fitted: FittedPredictor = field(repr=False)


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
        "gcn": validated(gcn) if left_out is None else quality(NormalBelief(*left_out), targets),
        "flops": validated(fallbacks["flops"]),
    }
    flops_spearman = spearman(np.asarray(features)[:, flops_column], targets)
    own = qualities["gcn"].spearman
    if own > flops_spearman:
        return PredictorChoice("gcn", qualities, flops_spearman, None, gcn, fitted)
    qualities |= {name: validated(each) for name, each in fallbacks.items() if name not in qualities}
    ranks = {name: qualities[name].spearman for name in fallbacks} | {"flops": flops_spearman}
    best = max(ranks, key=ranks.__getitem__)
    warning = (
        f"cross-validated on {len(targets)} architectures, the GCN ranks no better (Spearman {own:.2f}) "
        f"than flops alone ({flops_spearman:.2f}); {best} ({ranks[best]:.2f}) is used instead"
    )
    fitted = fallbacks[best].fit(graphs, features, targets, seed=seed)
    return PredictorChoice(best, qualities, flops_spearman, warning, fallbacks[best], fitted)


def spearman(x: Floats, y: Floats) -> float:
    """Rank correlation of two (n,), 0 where either is constant."""
    return _rank(spearmanr, x, y)


def _rank(correlation: object, x: Floats, y: Floats) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(correlation(x, y).statistic)  # type: ignore[operator]
