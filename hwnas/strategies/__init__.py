"""Search strategies: each proposes architectures and learns from results."""

from .neural_predictor import NeuralPredictor
from .random_search import RandomSearch
from .strategy import Strategy

__all__ = ["NeuralPredictor", "RandomSearch", "Strategy"]
