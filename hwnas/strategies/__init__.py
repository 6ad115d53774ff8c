"""Search strategies: each proposes architectures and learns from results."""

from .epnas import EPNAS
from .evolution import RegularizedEvolution
from .iterated_predictor import IteratedPredictor
from .local_search import LocalSearch
from .neural_predictor import NeuralPredictor
from .nsga2 import NSGA2
from .optuna_sampler import OptunaSampler
from .pnas import PNAS
from .random_search import RandomSearch
from .strategy import PhasedStrategy, Strategy

__all__ = [
    "EPNAS",
    "NSGA2",
    "PNAS",
    "IteratedPredictor",
    "LocalSearch",
    "NeuralPredictor",
    "OptunaSampler",
    "PhasedStrategy",
    "RandomSearch",
    "RegularizedEvolution",
    "Strategy",
]
