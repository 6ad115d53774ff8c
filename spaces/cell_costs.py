"""Exact flops and parameters of many networks of cells, from the records of their pieces."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .cell_order import INPUTS
from .cell_parts import Size, add_combination, add_fitted
from .layers import Network, NetworkBuilder

if TYPE_CHECKING:
    from .cell_arrays import Cells
    from .cells import CellSpace, Slot
    from .space import Task

SOURCES = 4  # where an operation reads: state 0, state 1, a block as wide as the cell, a block twice as wide

Integers = NDArray[np.int64]


class CellPrices:
    """What the pieces of a space's networks cost on a task; every piece is written once and counted.

    An operation costs the same in all cells of a kind that stand alike, so only which cells are live and how wide
    their outputs are depends on a row beyond a sum over its genes.
    """

    def __init__(self, space: CellSpace, task: Task) -> None:
        self.space = space
        self.task = task
        imagenet = space.imagenet(task)
        self._slots = space.slots(imagenet)
        stem = NetworkBuilder(task.input_shape)
        maps = space.write_stem(stem, imagenet)
        self._stem_shapes = {number - len(maps): stem.shape(x) for number, x in enumerate(maps)}
        self._stem_costs = {number - len(maps): sum_of(stem.network[: x + 1]) for number, x in enumerate(maps)}
        self._sizes = space.map_sizes(task)
        self._known: dict[Hashable, Integers] = {}

    def of(self, cells: Cells) -> Integers:
        """(n, 2): flops and parameters of every architecture."""
        n, kinds = cells.width.shape
        features = np.concatenate([cells.reads.reshape(n, -1), cells.width], axis=1)
        patterns, which = np.unique(features, axis=0, return_inverse=True)
        reads = patterns[:, : INPUTS * kinds].reshape(-1, kinds, INPUTS).astype(bool)
        widths = patterns[:, INPUTS * kinds :]
        constants = np.array([self._constant(r, w) for r, w in zip(reads, widths, strict=True)]).reshape(-1, 2)
        live = [self.space.live(self._slots, r) for r in reads]
        order = {maps: number for number, maps in enumerate(dict.fromkeys(live))}
        tables = [self._tables(maps) for maps in order]
        operations, combinations = (np.array(table) for table in zip(*tables, strict=True))
        table = np.array([order[maps] for maps in live])[which.ravel()][:, None, None]
        kind = np.arange(kinds)[:, None]
        combined = combinations[table, kind, cells.combinations] * cells.present[..., None]
        source = np.where(cells.inputs < INPUTS, cells.inputs, INPUTS - 1 + cells.units_read)
        applied = operations[table[..., None], kind[..., None], source, cells.operations]
        applied = applied * cells.present[..., None, None]
        return np.asarray(constants[which.ravel()] + combined.sum(axis=(1, 2)) + applied.sum(axis=(1, 2, 3)))

    def _constant(self, reads: NDArray[np.bool_], widths: Integers) -> Integers:
        """Stem, head, and what makes maps enter and leave the cells, for one pattern of reading and widths."""
        shapes = dict(self._stem_shapes)
        live = self.space.live(self._slots, reads)
        total = self._stem_costs[max(number for number in live if number < 0)].copy()
        for number, slot in enumerate(self._slots):
            shapes[number] = (int(widths[slot.kind]) * slot.filters, *self._sizes[number])
            if number in live:
                total += self._inputs(slot, shapes, reads[slot.kind]) + self._kept(slot, shapes)
        head = shapes[len(self._slots) - 1]
        return total + self._price(("head", head), head, lambda net: self.space.add_head(net, 0, self.task))

    def _inputs(self, slot: Slot, shapes: dict[int, tuple[int, ...]], reads: NDArray[np.bool_]) -> Integers:
        total = np.zeros(2, dtype=np.int64)
        size, filters = self._sizes[slot.last], slot.filters
        for state, number in enumerate((slot.before, slot.last)):
            if number is not None and reads[state]:
                shape = shapes[number]
                total += self._price(
                    ("input", state, shape, size, filters),
                    shape,
                    lambda net, state=state: self.space.add_input(net, 0, state, size, filters),  # type: ignore[misc]
                )
        return total

    def _kept(self, slot: Slot, shapes: dict[int, tuple[int, ...]]) -> Integers:
        """States 0 and 1 as parts of the output, where the space joins them to it."""
        total = np.zeros(2, dtype=np.int64)
        size = self.space.size_after(self._sizes[slot.last], slot.stride)
        for state in np.flatnonzero(self.space.kept[slot.kind, :INPUTS]):
            shape = self._state_shape(slot, int(state), shapes)
            total += self._price(
                ("kept", shape, size, slot.filters), shape, lambda net: add_fitted(net, 0, size, slot.filters)
            )
        return total

    def _state_shape(self, slot: Slot, source: int, shapes: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
        return state_shape(self.space, slot, source, shapes, self._sizes)

    def _tables(self, live: frozenset[int]) -> tuple[Integers, Integers]:
        """Costs summed over the live cells of each kind: (kinds, sources, operations, 2), (kinds, combinations, 2)."""
        space = self.space
        kinds, n_operations, n_combinations = len(space.kinds), len(space.operations), len(space.combinations)
        operations = np.zeros((kinds, SOURCES, n_operations, 2), dtype=np.int64)
        combinations = np.zeros((kinds, n_combinations, 2), dtype=np.int64)
        for number, slot in enumerate(self._slots):
            if number in live:
                operations[slot.kind] += self._operations(slot)
                shape = self._state_shape(slot, INPUTS, {})
                for combination in range(n_combinations):
                    combinations[slot.kind, combination] += self._price(
                        ("combination", shape, combination),
                        shape,
                        lambda net, c=combination: add_combination(net, (0, 0), c),  # type: ignore[misc]
                    )
        return operations, combinations

    def _operations(self, slot: Slot) -> Integers:
        """(sources, operations, 2) for one cell."""
        table = np.empty((SOURCES, len(self.space.operations), 2), dtype=np.int64)
        for source in range(SOURCES):
            shape = self._state_shape(slot, source, self._stem_shapes)
            stride = slot.stride if source < INPUTS else 1
            for operation in range(len(self.space.operations)):
                table[source, operation] = self._price(
                    ("operation", shape, operation, slot.filters, stride),
                    shape,
                    lambda net, o=operation, s=stride: self.space.add_operation(net, 0, o, slot.filters, s),  # type: ignore[misc]
                )
        return table

    def _price(self, name: Hashable, shape: tuple[int, ...], write: Callable[[NetworkBuilder], int]) -> Integers:
        """The cost of a piece that reads a map of the given shape."""
        if name not in self._known:
            net = NetworkBuilder(shape)
            write(net)
            self._known[name] = sum_of(net.network)
        return self._known[name]


def state_shape(
    space: CellSpace, slot: Slot, source: int, shapes: Mapping[int, tuple[int, ...]], sizes: Mapping[int, Size]
) -> tuple[int, ...]:
    """What an operation in a slot reads from one of the `SOURCES`.

    Args:
        shapes, sizes: of the maps outside, by number; of the shapes, those of the stem are enough.
    """
    size = sizes[slot.last]
    if source == 0 and slot.before is None:
        return shapes[slot.last]
    if source < INPUTS:
        return (slot.filters, *size)
    return ((source - INPUTS + 1) * slot.filters, *space.size_after(size, slot.stride))


def sum_of(layers: Network) -> Integers:
    """(2,) flops and parameters."""
    return np.array([sum(layer.flops for layer in layers), sum(layer.params for layer in layers)], dtype=np.int64)
