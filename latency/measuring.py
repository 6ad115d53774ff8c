"""What has to be measured for a latency model: a value that can be measured here, or travel to another device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spaces import Network, Population, Task

from .onnx_graph import build_onnx
from .rounds import run_rounds

PIECE = 6  # networks that one process measures alone
LogRatios = Mapping[
    str, NDArray[np.float64]
]  # by `network_name`: (visits,) logarithms of the time over the reference's


@dataclass(frozen=True)
class Group:
    """Networks that run in the same rounds, beside the reference network.

    Attributes:
        visits, rounds: how often each is loaded, and runs each time.
        share: of a budget that this group may use.
    """

    networks: tuple[Network, ...]
    visits: int
    rounds: int
    share: float

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(network_name, self.networks))


@dataclass(frozen=True)
class MeasuringPlan:
    """All that a latency model of one space and task needs to know of a device, besides the reference's own latency.

    Attributes:
        space: the full name.
        calibration: (n, genes) rows whose whole networks are among those measured.
    """

    space: str
    task: Task
    calibration: Population
    groups: tuple[Group, ...]

    def parts(self) -> list[MeasuringPlan]:
        """The same in pieces, each for a process of its own: networks together stay so, six are measured alone."""
        together = [(group,) for group in self.groups if len(group.networks) > 1]
        alone = [group for group in self.groups if len(group.networks) == 1]
        pieces = [tuple(alone[i : i + PIECE]) for i in range(0, len(alone), PIECE)]
        return [replace(self, groups=groups) for groups in (*together, *pieces)]

    def models(self, group: Group, rng: np.random.Generator) -> dict[str, bytes]:
        """ONNX models by name, with random weights; one that reads the image normalises it, as deployed ones do."""
        return {
            network_name(network): build_onnx(network, rng, normalise=network[0].shape == self.task.input_shape)
            for network in group.networks
        }


def network_name(network: Network) -> str:
    """Twelve hexadecimal digits of the layer records: what has one name is one network, on whatever machine."""
    records = json.dumps([astuple(layer) for layer in network], default=int)  # a space may write numpy's integers
    return hashlib.sha256(records.encode()).hexdigest()[:12]


def measure_plan(
    plan: MeasuringPlan, reference: bytes, rng: np.random.Generator, *, budget_s: float | None = None
) -> dict[str, NDArray[np.float64]]:
    """Measure everything on this machine: log ratios by the name of a network.

    Args:
        budget_s: make fewer visits so that all of it takes about this long.
    """
    measured: dict[str, NDArray[np.float64]] = {}
    for group in plan.groups:
        models = plan.models(group, rng)
        share_s = None if budget_s is None else group.share * budget_s
        raw = run_rounds(
            [reference, *models.values()], visits=group.visits, rounds=group.rounds, rng=rng, budget_s=share_s
        )
        measured.update(zip(models, raw.log_ratios(), strict=True))
    return measured
