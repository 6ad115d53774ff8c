"""How to choose: limits, fronts, predictors, strategies, evaluations, and the search that joins them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .evaluation import Evaluator, TabularEvaluator, TrainingEvaluator
    from .feasible import FeasibleSet, InfeasibleError
    from .objectives import Limit
    from .pareto import hypervolume, soft_front
    from .search_loop import search
    from .soft_limits import SoftLimit, reward
    from .study import Study
    from .trial import Trial

_HOME = {
    "Evaluator": "evaluation",
    "FeasibleSet": "feasible",
    "InfeasibleError": "feasible",
    "Limit": "objectives",
    "SoftLimit": "soft_limits",
    "Study": "study",
    "TabularEvaluator": "evaluation",
    "TrainingEvaluator": "evaluation",
    "Trial": "trial",
    "hypervolume": "pareto",
    "reward": "soft_limits",
    "search": "search_loop",
    "soft_front": "pareto",
}

__all__ = [
    "Evaluator",
    "FeasibleSet",
    "InfeasibleError",
    "Limit",
    "SoftLimit",
    "Study",
    "TabularEvaluator",
    "TrainingEvaluator",
    "Trial",
    "hypervolume",
    "reward",
    "search",
    "soft_front",
]


def __getattr__(name: str) -> object:  # lazy, since some of these import torch
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
