"""What a run says of the predictor that made its picks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hwnas.predictors import PredictorJudgement

NAMES = {
    "gcn": "the GCN",
    "ridge": "ridge regression",
    "trees": "trees",
    "flops": "flops alone",
    "process": "the Gaussian process",
    "process-and-trees": "the Gaussian process with trees",
    "graphs": "a predictor of graphs",
    "sequences": "a predictor of sequences",
}


def record_of(judgement: PredictorJudgement) -> dict[str, Any]:
    """For `plan.json` and the report."""
    return {
        "name": judgement.name,
        "qualities": {name: asdict(quality) for name, quality in judgement.qualities.items()},
        "flops_spearman": judgement.flops_spearman,
        "warning": judgement.warning,
    }


def sentence(judgement: PredictorJudgement) -> str:
    """For the terminal."""
    quality = judgement.qualities[judgement.name]
    found = (
        f"predictor: {NAMES[judgement.name]}, cross-validated Spearman {quality.spearman:.2f} "
        f"(flops alone {judgement.flops_spearman:.2f}), {quality.coverage:.0%} of accuracies inside its 95 % intervals"
    )
    return found if judgement.warning is None else f"warning: {judgement.warning}; {found}"
