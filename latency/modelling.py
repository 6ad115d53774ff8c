"""Which latency model a space has: a table of blocks for chains, learned prices for all others."""

from __future__ import annotations

import json

import numpy as np

from spaces import Population, SearchSpace, Task
from spaces.chain import ChainSpace

from .device import Device
from .measuring import MeasuringPlan, PlanTimes
from .model import LEARNED_NETWORKS, LatencyModel, LearnedLatency, fit_learned, learned_plan, spread_rows
from .table import LatencyTable, calibration_rows, fit_table, table_plan


def calibration_of(space: SearchSpace, task: Task, rng: np.random.Generator) -> Population:
    """Rows whose networks are measured whole, spread over the space."""
    if isinstance(space, ChainSpace):
        return calibration_rows(space, task, rng)
    return spread_rows(space, task, LEARNED_NETWORKS, rng)


def plan_latency_model(space: SearchSpace, task: Task, calibration: Population) -> MeasuringPlan:
    """What must be measured on a device.

    Raises:
        InputError: if the rows are too few.
    """
    plan = table_plan if isinstance(space, ChainSpace) else learned_plan
    return plan(space, task, calibration)


def fit_latency_model(
    space: SearchSpace, plan: MeasuringPlan, device: Device, reference_ms: float, times: PlanTimes
) -> LatencyModel:
    """The model of a device on which `plan_latency_model` was measured.

    Args:
        reference_ms: the reference network's own latency there.
    """
    fit = fit_table if isinstance(space, ChainSpace) else fit_learned
    return fit(space, plan, device, reference_ms, times)


def read_latency_model(text: str, *, space: SearchSpace, task: Task, device: Device) -> LatencyModel:
    """A stored model of either kind, as its `to_json` wrote it.

    Raises:
        InputError: if it is of another device, space or task than the ones given.
    """
    if json.loads(text)["kind"] == "learned":
        return LearnedLatency.from_json(text, space=space, task=task, device=device)
    return LatencyTable.from_json(text, space=space, task=task, device=device)


def check_estimates(model: LatencyModel, space: SearchSpace) -> None:
    """Make sure that a model says of networks what a latency can be.

    Raises:
        ValueError: if an estimate or an end of its interval is no time.
    """
    rows = space.sample(64, np.random.default_rng(0))
    values = np.stack([model.estimate_ms(rows), *model.interval_ms(rows)])
    if not np.isfinite(values).all() or (values[[0, 2]] <= 0).any() or (values < 0).any():
        raise ValueError("networks must take a time above 0, and some of its estimates say otherwise")
