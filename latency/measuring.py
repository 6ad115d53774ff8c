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

from .drift import WARM_RUNS, Visit, at_stored_speed, readings_of, reference_now_of, slope_deviation_of
from .onnx_graph import build_onnx
from .rounds import new_processes, rounds_of, run_rounds

PLAN_VISITS, LEAST_PLAN_VISITS = 4, 2


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
class PlanTimes:
    """How long the networks of a plan take on a device.

    Attributes:
        log_ratios: by `network_name`: (visits,) logarithms of its time over the reference's, as they would be at the
            speed at which that was stored.
        reference_now_ms: of the reference network, in the same rounds.
        slope_deviation: how far the slope may be wrong by which `at_stored_speed` changed them, root mean square.
    """

    log_ratios: Mapping[str, NDArray[np.float64]]
    reference_now_ms: float
    slope_deviation: float

    @classmethod
    def of(cls, visits: Sequence[Visit], reference_ms: float) -> PlanTimes:
        """Of all visits.

        Args:
            reference_ms: of the reference network, as stored.
        """
        there = {name: at_stored_speed([visit[name] for visit in visits], reference_ms) for name in visits[0]}
        return cls(
            {name: each.log_ratios for name, each in there.items()},
            reference_now_of(visits),
            slope_deviation_of(there.values()),
        )


def measure_plan(
    plan: MeasuringPlan,
    reference: bytes,
    reference_ms: float,
    rng: np.random.Generator,
    *,
    budget_s: float | None = None,
) -> PlanTimes:
    """Measure everything on this machine.

    All networks are visited once, then all again: what comes and goes with the time, and what differs between
    processes, is in the visits of each network, and moves no network against the others.

    Args:
        reference_ms: of the reference network, as stored.
        budget_s: make fewer visits than 4, but at least 2, so that all of it takes about this long.
    """
    started = time.monotonic()
    visits: list[Visit] = []
    while len(visits) < PLAN_VISITS:
        after_next_s = (time.monotonic() - started) * (1 + 1 / max(len(visits), 1))
        if budget_s is not None and len(visits) >= LEAST_PLAN_VISITS and after_next_s > budget_s:
            break
        visits.append(visit_in_processes(plan, reference, rng))
    return PlanTimes.of(visits, reference_ms)


def visit_in_processes(plan: MeasuringPlan, reference: bytes, rng: np.random.Generator) -> Visit:
    """One visit of each network of a plan: of each group in random order, where nothing else has run."""
    found: Visit = {}
    with new_processes() as run:
        for i in rng.permutation(len(plan.groups)):
            found |= run(visit_once, replace(plan, groups=(plan.groups[i],)), reference, *rng.spawn(1))
    return found


def visit_once(plan: MeasuringPlan, reference: bytes, rng: np.random.Generator) -> Visit:
    """One visit of each network of a plan, by this process."""
    found: Visit = {}
    for group in plan.groups:
        models = plan.models(group, rng)
        both, rounds = [reference, *models.values()], rounds_of(group)
        raw = run_rounds(both, visits=1, rounds=rounds, warm_runs=WARM_RUNS, rng=rng)
        found.update((name, visits[0]) for name, visits in zip(models, readings_of(raw), strict=True))
    return found
