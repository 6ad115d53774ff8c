"""What has to be measured for a latency model: a value that can be measured here, or travel to another device."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spaces import Network, Population, Task

from .onnx_graph import build_onnx
from .rounds import QUANTILE, in_new_process, pieces, run_rounds

PLAN_VISITS, LEAST_PLAN_VISITS, PLAN_ROUNDS = 6, 2, 6


@dataclass(frozen=True)
class MeasuringPlan:
    """All that a latency model of one space and task needs to know of a device, besides the reference's own latency.

    Attributes:
        space: the full name.
        calibration: (n, genes) rows whose whole networks are among those measured.
        groups: networks that run in the same rounds, beside the reference network.
    """

    space: str
    task: Task
    calibration: Population
    groups: tuple[tuple[Network, ...], ...]

    def models(self, group: tuple[Network, ...], rng: np.random.Generator) -> dict[str, bytes]:
        """ONNX models by name, with random weights; one that reads the image normalises it, as deployed ones do."""
        return {
            network_name(network): build_onnx(network, rng, normalise=network[0].shape == self.task.input_shape)
            for network in group
        }


def network_name(network: Network) -> str:
    """Twelve hexadecimal digits of the layer records: what has one name is one network, on whatever machine."""
    records = json.dumps([astuple(layer) for layer in network], default=int)  # a space may write numpy's integers
    return hashlib.sha256(records.encode()).hexdigest()[:12]


def networks_digest(networks: Iterable[Network]) -> str:
    """Twelve hexadecimal digits by which it is known whether a space still has the networks that were measured."""
    return hashlib.sha256(" ".join(map(network_name, networks)).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Visit:
    """One visit of each network of a plan.

    Attributes:
        log_ratios: by `network_name`: the logarithm of its time over the reference's.
        reference_now_ms: of the reference network, in the same rounds.
    """

    log_ratios: Mapping[str, float]
    reference_now_ms: float


@dataclass(frozen=True)
class PlanTimes:
    """How long the networks of a plan take on a device.

    Attributes:
        log_ratios: by `network_name`: (visits,) logarithms of its time over the reference's.
        reference_now_ms: of the reference network, in the same rounds.
    """

    log_ratios: Mapping[str, NDArray[np.float64]]
    reference_now_ms: float

    @classmethod
    def of(cls, visits: Sequence[Visit]) -> PlanTimes:
        """Of all visits: the median of what the reference took in each."""
        by_name = {name: np.array([visit.log_ratios[name] for visit in visits]) for name in visits[0].log_ratios}
        return cls(by_name, float(np.median([visit.reference_now_ms for visit in visits])))


def measure_plan(
    plan: MeasuringPlan, reference: bytes, rng: np.random.Generator, *, budget_s: float | None = None
) -> PlanTimes:
    """Measure everything on this machine.

    All networks are visited once, then all again: what comes and goes with the time, and what differs between
    processes, is in the visits of each network, and moves no network against the others.

    Args:
        budget_s: make fewer visits than 6, but at least 2, so that all of it takes about this long.
    """
    started = time.monotonic()
    visits: list[Visit] = []
    while len(visits) < PLAN_VISITS:
        after_next_s = (time.monotonic() - started) * (1 + 1 / max(len(visits), 1))
        if budget_s is not None and len(visits) >= LEAST_PLAN_VISITS and after_next_s > budget_s:
            break
        visits.append(visit_in_processes(plan, reference, rng))
    return PlanTimes.of(visits)


def visit_in_processes(plan: MeasuringPlan, reference: bytes, rng: np.random.Generator) -> Visit:
    """One visit of each network of a plan, where nothing else has run."""
    log_ratios: dict[str, float] = {}
    reference_ms: list[float] = []
    for piece in pieces(list(map(len, plan.groups)), rng):
        part = replace(plan, groups=tuple(plan.groups[i] for i in piece))
        ratios, ms = in_new_process(visit_once, part, reference, *rng.spawn(1))
        log_ratios |= ratios
        reference_ms += ms
    return Visit(log_ratios, float(np.quantile(reference_ms, QUANTILE)))


def visit_once(plan: MeasuringPlan, reference: bytes, rng: np.random.Generator) -> tuple[dict[str, float], list[float]]:
    """One visit of each network of a plan, by this process: log ratios by name, the reference's ms in each group."""
    log_ratios: dict[str, float] = {}
    reference_ms: list[float] = []
    for group in plan.groups:
        models = plan.models(group, rng)
        raw = run_rounds([reference, *models.values()], visits=1, rounds=PLAN_ROUNDS, rng=rng)
        log_ratios.update(zip(models, raw.log_ratios()[:, 0].tolist(), strict=True))
        reference_ms += raw.quartiles_ms()[0].tolist()
    return log_ratios, reference_ms
