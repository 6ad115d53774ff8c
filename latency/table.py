"""Additive block tables: the latency of any chain from timed blocks.

A block is timed in context, between two 1x1 convolutions whose own time is taken off again: alone, its input and
output would pass through the caches and the session's borders as they do in no network. Whole networks take off what is
left: a factor and a constant for all, then each block's own deviation. How far each of them is from what the others
alone would say is the table's stated error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import stdtrit

from spaces import InputError, Network, Population, SearchSpace, Task
from spaces.additive import AdditiveCost, AdditiveSampler, Interval
from spaces.chain import ChainSpace, Fragments
from spaces.layers import NetworkBuilder

from .device import Device
from .measuring import MeasuringPlan, PlanTimes, measure_plan, network_name, networks_digest
from .model import LatencyModel, check_enough, check_networks, stored_fields

CONTEXT_CHANNELS = 8
CALIBRATION_NETWORKS, CALIBRATION_DRAWN = 24, 500
LEFT_BY_SUMS = 0.0077  # standard deviation of what no sum of pieces tells: their own deviations must not follow it
BLOCK_SPREAD = 0.1  # standard deviation of a block's own deviation; 0.1 to 0.4 give about the same errors


@dataclass(frozen=True)
class LatencyTable(LatencyModel):
    """Estimated latency of every network of one chain space and task on one device.

    Attributes:
        cost: milliseconds of the stem and head (constant) and of every block, already scaled.
        relative_error: as for every `LatencyModel`; from calibration networks that were left out of the fit by turns.
    """

    device: Device
    space: str
    task: Task
    reference_ms: float
    reference_now_ms: float
    slope_deviation: float
    cost: AdditiveCost
    relative_error: float
    calibration: tuple[tuple[float, float], ...]
    networks: str

    def estimate_ms(self, population: Population) -> NDArray[np.float64]:
        return self.cost.of(population)

    def additive(self) -> AdditiveCost:
        return self.cost

    def with_reference(self, reference_ms: float) -> LatencyTable:
        cost, known = self.cost.scaled(reference_ms / self.reference_ms), self.calibration_with(reference_ms)
        return replace(self, reference_ms=reference_ms, calibration=known, cost=cost)

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
    def from_json(cls, text: str, *, space: SearchSpace, task: Task, device: Device) -> LatencyTable:
        """Read a stored table.

        Raises:
            InputError: if it is of another device, space or task than the ones given.
        """
        stored: Mapping[str, Any] = json.loads(text)
        model = cls(
            **stored_fields(stored, space=space.name, task=task, device=device),
            cost=AdditiveCost(stored["constant_ms"], np.array(stored["table_ms"])),
        )
        check_networks(model, timed_networks(space, task))
        return model


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
        calibration: (n, genes) rows, n >= 6, spread over the range of costs that will be asked for.
        budget_s: make fewer visits so that timing takes about this long.
    Raises:
        InputError: if the space is no chain, or the rows are fewer than 6 or not all of different networks.
    """
    plan = table_plan(space, task, calibration)
    times = measure_plan(plan, reference, reference_ms, rng, budget_s=budget_s)
    return fit_table(space, plan, device, reference_ms, times)


def calibration_rows(space: ChainSpace, task: Task, rng: np.random.Generator) -> Population:
    """Up to 24 rows spread evenly over the multiply-adds of the whole space, so that a table holds for any limits."""
    flops = space.fragments(task).additive(lambda network: sum(layer.flops for layer in network))
    drawn = AdditiveSampler(space.allowed, [Interval(flops)]).sample(CALIBRATION_DRAWN, rng, spread=True)
    order = np.argsort(flops.of(drawn), kind="stable")
    ascending = flops.of(drawn[order])
    wanted = np.linspace(ascending[0], ascending[-1], CALIBRATION_NETWORKS)  # both ends among them
    return np.asarray(drawn[order[np.unique(np.searchsorted(ascending, wanted))]])


def table_plan(space: SearchSpace, task: Task, calibration: Population) -> MeasuringPlan:
    """What `fit_table` needs measured: all different blocks in context together, then whole networks.

    Raises:
        InputError: if the space is no chain, or the rows are fewer than 6 or not all of different networks.
    """
    timed = timed_networks(space, task)
    check_enough(space, calibration)
    # Each beside the reference alone, as a file is measured at the end: in rounds of many, small networks are faster.
    whole = [(space.layers(space.arch(row), task),) for row in calibration]
    return MeasuringPlan(space.name, task, calibration, (timed, *whole))


def timed_networks(space: SearchSpace, task: Task) -> tuple[Network, ...]:
    """All different blocks of a chain in context, and the contexts alone.

    Raises:
        InputError: if the space is no chain.
    """
    if not isinstance(space, ChainSpace):
        raise InputError(f"block tables are for chains of blocks, and {space.name} is none")
    blocks, contexts = _timed_blocks(space.fragments(task))
    return tuple(dict.fromkeys([*blocks.values(), *contexts.values()]))


def fit_table(
    space: SearchSpace, plan: MeasuringPlan, device: Device, reference_ms: float, times: PlanTimes
) -> LatencyTable:
    """The table of a device on which a `table_plan` was measured."""
    assert isinstance(space, ChainSpace)
    task, rows = plan.task, plan.calibration
    blocks = _BlockTimes(space, task, reference_ms, times)
    ratios = np.stack([times.log_ratios[network_name(space.layers(space.arch(row), task))] for row in rows])
    measured = reference_ms * np.exp(ratios.mean(axis=1))
    # Of all networks together: two or three visits of one alone say little about how it scatters.
    error = np.hypot(np.sqrt(ratios.var(axis=1, ddof=1).mean() / ratios.shape[1]), LEFT_BY_SUMS)
    shares = blocks.shares(rows)

    def fit(which: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
        return fit_multiples(shares[which], measured[which], float(error))

    prices, constant = fit(np.ones(len(rows), dtype=np.bool_))
    others = ~np.eye(len(rows), dtype=np.bool_)
    left_out = np.array([shares[i] @ p + k for i, (p, k) in enumerate(map(fit, others))])
    log_errors = np.log(measured / left_out)
    return LatencyTable(
        device=device,
        space=space.name,
        task=task,
        reference_ms=reference_ms,
        reference_now_ms=times.reference_now_ms,
        slope_deviation=times.slope_deviation,
        cost=blocks.cost(prices) + AdditiveCost(constant, np.zeros_like(blocks.cost(prices).table)),
        relative_error=float(stdtrit(len(rows) - 1, 0.975) * np.sqrt(np.mean(log_errors**2))),
        calibration=tuple(zip(measured.tolist(), left_out.tolist(), strict=True)),
        networks=networks_digest(plan.groups[0]),
    )


def fit_multiples(
    shares: NDArray[np.float64], measured_ms: NDArray[np.float64], relative_error: float
) -> tuple[NDArray[np.float64], float]:
    """What each piece costs as a multiple of what was timed for it, and what a network costs beside its pieces.

    First one factor for all and a constant, neither below 0, so that relative errors are least: what a network costs
    beside its blocks (the session's call, its first and last map) matters for the fastest networks. Then each
    piece's own deviation, the mean of a Gaussian process whose prior says that 95 % of them are within 20 %.

    Args:
        shares: (n, pieces) milliseconds that were timed for each piece, as often as the network has it.
        measured_ms: (n,) whole networks.
        relative_error: standard error of each of these.
    Returns:
        (pieces,) multiples, none negative, and the constant in ms.
    """
    relative = shares / measured_ms[:, None]
    whole = np.stack([relative.sum(axis=1), 1 / measured_ms], axis=1)
    factor, constant = nnls(whole, np.ones(len(measured_ms)))[0]
    left = 1 - whole @ (factor, constant)
    of_pieces = factor * BLOCK_SPREAD * relative
    covariance = of_pieces @ of_pieces.T + relative_error**2 * np.eye(len(measured_ms))
    deviations = BLOCK_SPREAD * of_pieces.T @ np.linalg.solve(covariance, left)
    return np.maximum(factor * (1 + deviations), 0.0), float(constant)


class _BlockTimes:
    """What was timed for each different piece of a chain, less half of the context at each end."""

    def __init__(self, space: ChainSpace, task: Task, reference_ms: float, times: PlanTimes) -> None:
        self._pieces = space.fragments(task)
        networks, contexts = _timed_blocks(self._pieces)
        timed_ms = {
            name: float(reference_ms * np.exp(times.log_ratios[name].mean()))
            for name in map(network_name, (*networks.values(), *contexts.values()))
        }

        def own_ms(piece: Network, *, before: bool, after: bool) -> float:
            total = timed_ms[network_name(networks[piece])]
            total -= timed_ms[network_name(contexts[piece[0].shape])] / 2 if before else 0.0
            total -= timed_ms[network_name(contexts[piece[-1].shape])] / 2 if after else 0.0
            return max(total, 0.0)

        stem, head = _unnamed(self._pieces.stem), _unnamed(self._pieces.head)
        self.ms = {key: own_ms(key, before=key != stem, after=key != head) for key in networks}

    def cost(self, multiples: NDArray[np.float64]) -> AdditiveCost:
        """The sum over pieces, each times its multiple, in the order of `ms`."""
        own = {key: ms * float(by) for (key, ms), by in zip(self.ms.items(), multiples, strict=True)}
        return self._pieces.additive(lambda piece: own[_unnamed(piece)])

    def shares(self, population: Population) -> NDArray[np.float64]:
        """(n, genes) -> (n, pieces): milliseconds of each piece, as often as a network has it."""
        unit = np.eye(len(self.ms))
        return np.stack([self.cost(unit[i]).of(population) for i in range(len(self.ms))], axis=1)


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
