"""What a run says of the predictor that made its picks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hwnas.predictors import PredictorChoice

NAMES = {"gcn": "the GCN", "ridge": "ridge regression", "trees": "trees", "flops": "flops alone"}


def record_of(choice: PredictorChoice) -> dict[str, Any]:
    """For `plan.json` and the report."""
    return {
        "name": choice.name,
        "qualities": {name: asdict(quality) for name, quality in choice.qualities.items()},
        "flops_spearman": choice.flops_spearman,
        "warning": choice.warning,
    }


def sentence(choice: PredictorChoice) -> str:
    """For the terminal."""
    quality = choice.qualities[choice.name]
    found = (
        f"predictor: {NAMES[choice.name]}, cross-validated Spearman {quality.spearman:.2f} "
        f"(flops alone {choice.flops_spearman:.2f}), {quality.coverage:.0%} of accuracies inside its 95 % intervals"
    )
    return found if choice.warning is None else f"warning: {choice.warning}; {found}"
