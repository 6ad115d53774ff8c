"""Learned predictors of accuracy, their baselines, and how good they are."""

from .baselines import LinePredictor, RidgePredictor, TreesPredictor
from .gcn import FittedGCN, GCNPredictor
from .predictor import FittedPredictor, Predictor
from .quality import PredictorChoice, PredictorQuality, choose_predictor, cross_validate, quality

__all__ = [
    "FittedGCN",
    "FittedPredictor",
    "GCNPredictor",
    "LinePredictor",
    "Predictor",
    "PredictorChoice",
    "PredictorQuality",
    "RidgePredictor",
    "TreesPredictor",
    "choose_predictor",
    "cross_validate",
    "quality",
]
