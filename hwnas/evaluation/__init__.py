"""What an architecture scores."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .evaluator import Evaluator
    from .interval import wilson_interval
    from .restricted import RestrictedSpace
    from .table import ArrayTable, Table, table_of
    from .table_files import TabularBenchmark, read_described, read_nasbench101, read_nasbench_macro
    from .tabular import TabularEvaluator
    from .training import TrainingEvaluator, TrialTime, load_weights

_HOME = {
    "ArrayTable": "table",
    "Evaluator": "evaluator",
    "RestrictedSpace": "restricted",
    "Table": "table",
    "TabularBenchmark": "table_files",
    "TabularEvaluator": "tabular",
    "TrainingEvaluator": "training",
    "TrialTime": "training",
    "load_weights": "training",
    "read_described": "table_files",
    "read_nasbench101": "table_files",
    "read_nasbench_macro": "table_files",
    "table_of": "table",
    "wilson_interval": "interval",
}

__all__ = [
    "ArrayTable",
    "Evaluator",
    "RestrictedSpace",
    "Table",
    "TabularBenchmark",
    "TabularEvaluator",
    "TrainingEvaluator",
    "TrialTime",
    "load_weights",
    "read_described",
    "read_nasbench101",
    "read_nasbench_macro",
    "table_of",
    "wilson_interval",
]


def __getattr__(name: str) -> object:  # lazy, since training imports torch and tables do not
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
