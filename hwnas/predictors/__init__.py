"""Learned predictors of accuracy, their baselines, and how good they are."""

from .baselines import LinePredictor, RidgePredictor, TreesPredictor
from .cascade import CascadePredictor, FittedCascade
from .gcn import FittedGCN, GCNPredictor
from .mlp import MLPPredictor
from .predictor import FittedPredictor, Predictor
from .quality import (
    PredictorChoice,
    PredictorJudgement,
    PredictorQuality,
    choose_predictor,
    cross_validate,
    quality,
    spearman,
)
from .tuning import Tuned, TunedPredictor, grid, tune

__all__ = [
    "CascadePredictor",
    "FittedCascade",
    "FittedGCN",
    "FittedPredictor",
    "GCNPredictor",
    "LinePredictor",
    "MLPPredictor",
    "Predictor",
    "PredictorChoice",
    "PredictorJudgement",
    "PredictorQuality",
    "RidgePredictor",
    "TreesPredictor",
    "Tuned",
    "TunedPredictor",
    "choose_predictor",
    "cross_validate",
    "grid",
    "quality",
    "spearman",
    "tune",
]
