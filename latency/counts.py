"""What a network costs by counting: flops, parameters, bytes, intensity, peak memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spaces import Network, Population, SearchSpace, Task
from spaces.additive import AdditiveCost
from spaces.chain import ChainSpace, Fragments
from spaces.layers import last_uses

FLOAT_BYTES = 4
MAX_KNOWN = 200_000  # networks whose numbers are remembered
FAST = ("flops", "params")  # what spaces count themselves, in the order in which they give it
COUNTED = ("flops", "params", "bytes", "weight_bytes", "peak_memory_bytes", "intensity")


@dataclass(frozen=True, slots=True)
class Counts:
    """Costs of one network, for one image, float32, batch norm folded where a deployed network folds it.

    Attributes:
        flops: multiply-adds of convolutions and linear layers, one each.
        params: trained parameters, batch norm's scale and shift included.
        bytes: inputs, outputs and weights of every convolution and linear layer.
        weight_bytes: the weights among them.
        peak_memory_bytes: the largest sum of live activations in execution order, plus all weights.
    """

    flops: int
    params: int
    bytes: int
    weight_bytes: int
    peak_memory_bytes: int

    @property
    def intensity(self) -> float:
        """flops per byte."""
        return self.flops / self.bytes


def count(network: Network) -> Counts:
    """All counts of layer records.

    Source: DESIGN section 3; flops agree to the unit with fvcore's conv and linear entries, params with torch.
    """
    weight_bytes = _weight_bytes(network)
    return Counts(
        flops=_flops(network),
        params=_params(network),
        bytes=_bytes(network),
        weight_bytes=weight_bytes,
        peak_memory_bytes=peak_activation_bytes(network) + weight_bytes,
    )


def peak_activation_bytes(network: Network) -> int:
    """The largest sum of maps that must be held at once while the layers run in order; weights are not counted.

    While a layer runs, its inputs, its output and all maps that a later layer reads are held. Activations and
    folded batch norms work in place.
    """
    last = last_uses(network)
    sizes = [math.prod(layer.shape) for layer in network]
    live = peak = 0
    for now, layer in enumerate(network):
        live += sizes[now]
        peak = max(peak, live)
        live -= sum(sizes[x] for x in {*layer.inputs, now} if last[x] == now)
    return FLOAT_BYTES * peak


class PerNetwork:
    """Numbers that follow from one network's layer records, for whole populations of a space and task.

    One network after another, each different row once: for spaces that have nothing faster.
    """

    def __init__(
        self, space: SearchSpace, task: Task, numbers: Callable[[Network], Sequence[float]], *, names: Sequence[str]
    ) -> None:
        """
        Args:
            names: of the numbers, in order.
        """
        self.space = space
        self.task = task
        self.numbers = numbers
        self.names = tuple(names)
        self._known: dict[bytes, NDArray[np.float64]] = {}

    def __call__(self, population: Population) -> NDArray[np.float64]:
        """(n, genes) -> (n, numbers)."""
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        keys = [row.tobytes() for row in np.ascontiguousarray(population)]
        for key, row in zip(keys, population, strict=True):
            if key not in self._known:
                network = self.space.layers(self.space.arch(row), self.task)
                self._known[key] = np.asarray(self.numbers(network), dtype=float)
        return np.array([self._known[key] for key in keys]).reshape(len(keys), len(self.names))


class PopulationCosts:
    """The counts of many architectures of one space and task, as arrays.

    Chains are counted by tables, exactly as `count` does it for each of their networks. Of other spaces, flops and
    params are as fast as the space's own `counts`; the rest is counted one network after another.
    """

    def __init__(self, space: SearchSpace, task: Task) -> None:
        self.space = space
        self.task = task
        self._one_by_one = PerNetwork(space, task, _counted, names=COUNTED)

    def of(self, population: Population) -> dict[str, NDArray[np.float64]]:
        """(n, genes) -> one (n,) array for each name of `COUNTED`."""
        if self._pieces is None:
            return dict(zip(COUNTED, self._one_by_one(population).T, strict=True))
        values = {name: cost.of(population) for name, cost in self._sums.items()}
        values["intensity"] = values["flops"] / values["bytes"]
        values["peak_memory_bytes"] = self.peak_activations(population) + values["weight_bytes"]
        return values

    def one(self, name: str, population: Population) -> NDArray[np.float64]:
        """(n, genes) -> (n,): one of `COUNTED` alone, which may be much faster than all of them."""
        if self._pieces is not None and name in self._sums:
            return self._sums[name].of(population)
        if name in FAST and type(self.space).counts is not SearchSpace.counts:
            return self.space.counts(population, self.task)[FAST.index(name)].astype(np.float64)
        return self.of(population)[name]

    def additive(self, name: str) -> AdditiveCost | None:
        """The cost `name` as a sum over genes, or None where it is no such sum (or the space is no chain)."""
        return self._sums.get(name) if self._pieces is not None else None

    def peak_activations(self, population: Population) -> NDArray[np.float64]:
        """(n, genes) -> (n,) bytes of activations at the worst moment. Chains only."""
        peaks: NDArray[np.float64] = self._peaks.table[np.arange(self._peaks.table.shape[0]), population]
        return np.asarray(np.maximum(peaks.max(axis=1), self._peaks.constant))

    @cached_property
    def _pieces(self) -> Fragments | None:
        return self.space.fragments(self.task) if isinstance(self.space, ChainSpace) else None

    @cached_property
    def _sums(self) -> dict[str, AdditiveCost]:
        assert self._pieces is not None
        counters: dict[str, Callable[[Network], int]] = {
            "flops": _flops,
            "params": _params,
            "bytes": _bytes,
            "weight_bytes": _weight_bytes,
        }
        return {name: self._pieces.additive(counter) for name, counter in counters.items()}

    @cached_property
    def _peaks(self) -> AdditiveCost:
        """Of each piece alone: only its own input is live beside it, so a chain's peak is their maximum."""
        assert self._pieces is not None
        pieces = self._pieces.additive(peak_activation_bytes)
        ends = max(peak_activation_bytes(self._pieces.stem), peak_activation_bytes(self._pieces.head))
        return AdditiveCost(float(ends), pieces.table)


def _counted(network: Network) -> list[float]:
    """In the order of `COUNTED`."""
    counts = count(network)
    return [float(getattr(counts, name)) for name in COUNTED]


def _flops(network: Network) -> int:
    return sum(layer.flops for layer in network)


def _params(network: Network) -> int:
    return sum(layer.params for layer in network)


def _bytes(network: Network) -> int:
    moved = 0
    for layer in network:
        if layer.weight_shape:
            (x,) = layer.inputs
            moved += math.prod(network[x].shape) + math.prod(layer.shape) + layer.folded_weights
    return FLOAT_BYTES * moved


def _weight_bytes(network: Network) -> int:
    return FLOAT_BYTES * sum(layer.folded_weights for layer in network if layer.weight_shape)
