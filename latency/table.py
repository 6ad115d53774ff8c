"""Additive block tables: the latency of any chain from timed blocks.

A block is timed in context, between two 1x1 convolutions whose own time is taken off again: alone, its input and
output would pass through the caches and the session's borders as they do in no network. What these times and a block's
layers tell of its price is learned from whole networks, as `prices` does. How far each of those is from what the others
alone would say is the table's stated error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaces import InputError, Network, Population, SearchSpace, Task
from spaces.additive import AdditiveCost, AdditiveSampler, Interval
from spaces.chain import ChainSpace, Fragments
from spaces.layers import NetworkBuilder
from spaces.tally import LayerForm, forms_of

from .device import Device
from .measuring import MeasuringPlan, PlanTimes, measure_plan, network_name, networks_digest
from .model import LatencyModel, check_enough, check_networks, stored_fields
from .prices import price_pieces, relative_error

CONTEXT_CHANNELS = 8
CALIBRATION_NETWORKS, CALIBRATION_DRAWN = 24, 500


@dataclass(frozen=True)
class LatencyTable(LatencyModel):
    """Estimated latency of every network of one chain space and task on one device.

    Attributes:
        cost: milliseconds of the stem and head (constant) and of every block, in whole networks.
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
            InputError: if it is of another device, space, task or networks than the ones given.
            ValueError: if it does not price each choice of each gene that the space has now.
        """
        stored: Mapping[str, Any] = json.loads(text)
        model = cls(
            **stored_fields(stored, space=space.name, task=task, device=device),
            cost=AdditiveCost(stored["constant_ms"], np.array(stored["table_ms"])),
        )
        check_networks(stored, timed_networks(space, task))
        assert isinstance(space, ChainSpace)
        if model.cost.table.shape != space.allowed.shape:
            came = f"{model.cost.table.shape} blocks"
            raise ValueError(f"{space.name} has {space.allowed.shape} blocks (genes, choices), and the table {came}")
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
    """Time every block of a chain space, and learn from the measured `calibration` networks what blocks cost in them.

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
    names = [network_name(space.layers(space.arch(row), task)) for row in rows]
    measured = reference_ms * np.exp([times.log_ratios[name].mean() for name in names])
    prices = price_pieces(blocks.counts(rows), blocks.ms, *blocks.layers(), measured, blocks.always())
    return LatencyTable(
        device=device,
        space=space.name,
        task=task,
        reference_ms=reference_ms,
        reference_now_ms=times.reference_now_ms,
        slope_deviation=times.slope_deviation,
        cost=blocks.cost(prices.ms, prices.constant_ms),
        relative_error=relative_error(measured, prices.left_out_ms),
        calibration=tuple(zip(measured.tolist(), prices.left_out_ms.tolist(), strict=True)),
        networks=networks_digest(plan.groups[0]),
    )


class _BlockTimes:
    """What was timed for each different piece of a chain, less half of the context at each end.

    Attributes:
        ms: (pieces,)
    """

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
        self._number = {key: number for number, key in enumerate(networks)}
        self.ms = np.array([own_ms(key, before=key != stem, after=key != head) for key in networks])

    def layers(self) -> tuple[NDArray[np.float64], tuple[LayerForm, ...]]:
        """(pieces, forms): how many layers of each form every piece has, and the forms."""
        found = [forms_of(piece) for piece in self._number]
        forms = tuple(dict.fromkeys(form for each in found for form in each))
        return np.array([[each[form] for form in forms] for each in found], dtype=np.float64), forms

    def cost(self, ms: NDArray[np.float64], constant_ms: float = 0.0) -> AdditiveCost:
        """The sum of what a network's pieces cost, of which each costs so much, and a constant."""
        cost = self._pieces.additive(lambda piece: float(ms[self._number[_unnamed(piece)]]))
        return replace(cost, constant=cost.constant + constant_ms)

    def counts(self, population: Population) -> NDArray[np.float64]:
        """(n, genes) -> (n, pieces): how many of each piece the networks have."""
        return np.stack([self.cost(unit).of(population) for unit in np.eye(len(self.ms))], axis=1)

    def always(self) -> NDArray[np.float64]:
        """(pieces,): how many of each piece every network has: a stem and a head."""
        return np.array([self.cost(unit).constant for unit in np.eye(len(self.ms))])


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
