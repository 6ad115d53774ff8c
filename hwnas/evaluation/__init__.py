"""What an architecture scores."""

from .evaluator import Evaluator
from .interval import wilson_interval
from .training import TrainingEvaluator, TrialTime

__all__ = ["Evaluator", "TrainingEvaluator", "TrialTime", "wilson_interval"]
