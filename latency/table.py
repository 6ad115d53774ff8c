"""Additive block tables: the latency of any chain from timed blocks.

A block is timed in context, between two 1x1 convolutions whose own time is taken off again: alone, its input and
output would pass through the caches and the session's borders as they do in no network. A factor and a constant, from
a few whole networks, take off what is left; the scatter around them is the table's stated error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import nnls

from spaces import InputError, Network, Population, SearchSpace, Task
from spaces.additive import AdditiveCost, AdditiveSampler, Interval
from spaces.chain import ChainSpace, Fragments
from spaces.layers import NetworkBuilder

from .device import Device
from .measuring import Group, LogRatios, MeasuringPlan, measure_plan, network_name
from .model import LatencyModel, stored_fields
from .rounds import ROUNDS_A_VISIT

CONTEXT_CHANNELS = 8
BLOCK_VISITS, BLOCK_ROUNDS = 6, 5
CALIBRATION_NETWORKS, CALIBRATION_DRAWN, CALIBRATION_VISITS = 10, 500, 10


@dataclass(frozen=True)
class LatencyTable(LatencyModel):
    """Estimated latency of every network of one chain space and task on one device.

    Attributes:
        cost: milliseconds of the stem and head (constant) and of every block, already scaled.
        relative_error: as for every `LatencyModel`; from the scatter of the calibration networks around the table.
    """

    device: Device
    space: str
    task: Task
    reference_ms: float
    cost: AdditiveCost
    relative_error: float
    calibration: tuple[tuple[float, float], ...]

    def estimate_ms(self, population: Population) -> NDArray[np.float64]:
        return self.cost.of(population)

    def additive(self) -> AdditiveCost:
        return self.cost

    def to_json(self) -> str:
        return json.dumps(
            {
                **self.common_fields(),
                "kind": "table",
                "constant_ms": self.cost.constant,
                "table_ms": self.cost.table.tolist(),
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str, *, space: str, task: Task, device: Device) -> LatencyTable:
        """Read a stored table.

        Raises:
            InputError: if it is of another device, space or task than the ones given.
        """
        stored: Mapping[str, Any] = json.loads(text)
        return cls(
            **stored_fields(stored, space=space, task=task, device=device),
            cost=AdditiveCost(stored["constant_ms"], np.array(stored["table_ms"])),
        )


def measure_table(
    space: SearchSpace,
    task: Task,
    device: Device,
    reference: bytes,
    reference_ms: float,
    *,
    calibration: Population,
    rng: np.random.Generator,
    budget_s: float | None = None,
) -> LatencyTable:
    """Time every block of a chain space once, then scale the sums by the measured `calibration` networks.

    Args:
        calibration: (n, genes) rows, n >= 3, spread over the range of costs that will be asked for.
        budget_s: make fewer visits so that timing takes about this long.
    Raises:
        InputError: if the space is no chain.
    """
    plan = table_plan(space, task, calibration)
    log_ratios = measure_plan(plan, reference, rng, budget_s=budget_s)
    return fit_table(space, plan, device, reference_ms, log_ratios)


def calibration_rows(space: ChainSpace, task: Task, rng: np.random.Generator) -> Population:
    """Up to 10 rows spread evenly over the multiply-adds of the whole space, so that a table holds for any limits."""
    flops = space.fragments(task).additive(lambda network: sum(layer.flops for layer in network))
    drawn = AdditiveSampler(space.allowed, [Interval(flops)]).sample(CALIBRATION_DRAWN, rng, spread=True)
    order = np.argsort(flops.of(drawn), kind="stable")
    ascending = flops.of(drawn[order])
    wanted = np.linspace(ascending[0], ascending[-1], CALIBRATION_NETWORKS)  # both ends among them
    return np.asarray(drawn[order[np.unique(np.searchsorted(ascending, wanted))]])


def table_plan(space: SearchSpace, task: Task, calibration: Population) -> MeasuringPlan:
    """What `fit_table` needs measured: all different blocks in context together, then whole networks.

    Raises:
        InputError: if the space is no chain.
    """
    if not isinstance(space, ChainSpace):
        raise InputError(f"block tables are for chains of blocks, and {space.name} is none")
    blocks, contexts = _timed_blocks(space.fragments(task))
    timed = tuple(dict.fromkeys([*blocks.values(), *contexts.values()]))
    share = 0.5 / len(calibration)
    # Each beside the reference alone, as a file is measured at the end: in rounds of many, small networks are faster.
    whole = [(space.layers(space.arch(row), task),) for row in calibration]
    return MeasuringPlan(
        space.name,
        task,
        calibration,
        (
            Group(timed, BLOCK_VISITS, BLOCK_ROUNDS, share=0.5),
            *(Group(network, CALIBRATION_VISITS, ROUNDS_A_VISIT, share) for network in whole),
        ),
    )


def fit_table(
    space: SearchSpace, plan: MeasuringPlan, device: Device, reference_ms: float, log_ratios: LogRatios
) -> LatencyTable:
    """The table of a device on which a `table_plan` was measured."""
    assert isinstance(space, ChainSpace)
    task, calibration = plan.task, plan.calibration
    raw_cost = _block_costs(space, task, reference_ms, log_ratios)
    names = [network_name(space.layers(space.arch(row), task)) for row in calibration]
    measured = reference_ms * np.exp([log_ratios[name].mean() for name in names])
    cost = _calibrated(raw_cost, raw_cost.of(calibration), measured)
    table = LatencyTable(
        device=device,
        space=space.name,
        task=task,
        reference_ms=reference_ms,
        cost=cost,
        relative_error=_prediction_error(np.log(measured / cost.of(calibration)), fitted=2),
        calibration=(),
    )
    pairs = zip(measured.tolist(), table.estimate_ms(calibration).tolist(), strict=True)
    return replace(table, calibration=tuple(pairs))


def _calibrated(cost: AdditiveCost, estimated: NDArray[np.float64], measured: NDArray[np.float64]) -> AdditiveCost:
    """The cost times a factor plus a constant, so that relative errors are least; neither is below 0.

    What a network costs beside its blocks (the session's call, its first and last map) is a constant, which matters for
    the fastest networks; a factor alone would estimate them too low.
    """
    shares = np.stack([estimated, np.ones(len(estimated))], axis=1) / measured[:, None]
    factor, constant = nnls(shares, np.ones(len(measured)))[0]
    return cost.scaled(float(factor)) + AdditiveCost(float(constant), np.zeros_like(cost.table))


def _prediction_error(log_ratios: NDArray[np.float64], *, fitted: int = 1) -> float:
    """95 % half-width for a network that is not among the n calibrated: Student's t with n - `fitted` degrees."""
    n = len(log_ratios)
    return float(stats.t.ppf(0.975, n - fitted) * log_ratios.std(ddof=fitted) * np.sqrt(1 + fitted / n))


def _timed_blocks(pieces: Fragments) -> tuple[dict[Network, Network], dict[tuple[int, ...], Network]]:
    """What is timed: of each different piece the network that holds it, and the context around each shape of map."""
    networks: dict[Network, Network] = {}
    contexts: dict[tuple[int, ...], Network] = {}
    for piece in (pieces.stem, *(block for row in pieces.blocks for block in row if block), pieces.head):
        key = _unnamed(piece)
        ends = [end for end in (piece[0].shape, piece[-1].shape) if len(end) == 3]
        before, after = piece is not pieces.stem, piece is not pieces.head
        networks[key] = _in_context(key, before=before, after=after)
        for shape, wanted in zip(ends, (before, after), strict=False):
            if wanted:
                contexts[shape] = _context(shape)
    return networks, contexts


def _block_costs(space: ChainSpace, task: Task, reference_ms: float, log_ratios: LogRatios) -> AdditiveCost:
    """Milliseconds of each block itself: what was timed, less half of the context at each end."""
    pieces = space.fragments(task)
    networks, contexts = _timed_blocks(pieces)

    def timed_ms(network: Network) -> float:
        return float(reference_ms * np.exp(log_ratios[network_name(network)].mean()))

    def own_ms(piece: Network) -> float:
        total = timed_ms(networks[_unnamed(piece)])
        if piece is not pieces.stem:
            total -= timed_ms(contexts[piece[0].shape]) / 2
        if piece is not pieces.head:
            total -= timed_ms(contexts[piece[-1].shape]) / 2
        return max(total, 0.0)

    return pieces.additive(own_ms)


def _unnamed(network: Network) -> Network:
    """Without block labels, so that equal blocks at different depths are timed once."""
    return tuple(replace(layer, block="") for layer in network)


def _in_context(piece: Network, *, before: bool, after: bool) -> Network:
    shape = piece[0].shape
    net = NetworkBuilder((CONTEXT_CHANNELS, *shape[1:]) if before else shape)
    x = net.conv(0, shape[0]) if before else 0
    x = net.extend(x, piece)
    if after:
        net.conv(x, CONTEXT_CHANNELS)
    return net.network


def _context(shape: tuple[int, ...]) -> Network:
    """The two 1x1 convolutions around a map of this shape, without a block between them."""
    net = NetworkBuilder((CONTEXT_CHANNELS, *shape[1:]))
    net.conv(net.conv(0, shape[0]), CONTEXT_CHANNELS)
    return net.network
