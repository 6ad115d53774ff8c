"""The layers of many networks of cells, counted by form from the records of their pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .cell_costs import SOURCES, state_shape
from .cell_order import INPUTS
from .cell_parts import add_combination
from .layers import Layer, Network, NetworkBuilder
from .tally import Counts, LayerForm, Tally, forms_of

if TYPE_CHECKING:
    from .cell_arrays import Cells
    from .cells import CellSpace, Slot
    from .space import Population, Task

WAYS = 2  # how an operation reads a state: through its relu, which is written once for all readers, or itself


@dataclass(frozen=True)
class _Patterns:
    """What n networks have around their operations and combinations.

    Attributes:
        reads: (n, kinds, 2) whether each of the two maps is read.
        width: (n, kinds) channels of the output, in filters.
        joins: (n, kinds) whether the output is joined of several states.
        ways: (n, slots, 2, WAYS) how the states 0 and 1 of each slot are read.
    """

    reads: NDArray[np.bool_]
    width: NDArray[np.int64]
    joins: NDArray[np.bool_]
    ways: NDArray[np.bool_]

    def distinct(self) -> tuple[_Patterns, NDArray[np.int64]]:
        """The different ones, and (n,) which of them each is."""
        n = len(self.width)
        flat = np.concatenate([self.reads.reshape(n, -1), self.width, self.joins, self.ways.reshape(n, -1)], axis=1)
        first, which = np.unique(flat, axis=0, return_index=True, return_inverse=True)[1:]
        return self[first], which.ravel()

    def __getitem__(self, rows: NDArray[np.int64]) -> _Patterns:
        return _Patterns(self.reads[rows], self.width[rows], self.joins[rows], self.ways[rows])


class CellTally(Tally):
    """For spaces that join no more states to a cell's output than those that none reads, or all blocks."""

    def __init__(self, space: CellSpace, task: Task) -> None:
        super().__init__()
        self._space = space
        self._task = task
        self._imagenet = space.imagenet(task)
        self._slots = space.slots(self._imagenet)
        self._sizes = space.map_sizes(task)
        stem = NetworkBuilder(task.input_shape)
        maps = space.write_stem(stem, self._imagenet)
        self._stem_shapes = {number - len(maps): stem.shape(x) for number, x in enumerate(maps)}
        self._pieces: dict[Hashable, Network] = {}
        self._ways = np.array([self._ways_of(slot) for slot in self._slots])  # (slots, sources, operations, WAYS)

    def _count(self, population: Population) -> Counts:
        cells = self._space.cells(population)
        source = np.where(cells.inputs < INPUTS, cells.inputs, INPUTS - 1 + cells.units_read)
        ways, relus = self._ways_read(cells, source)
        patterns, which = _Patterns(cells.reads, cells.width, cells.outputs.sum(axis=2) > 1, ways).distinct()
        indicators = self._indicators(cells, source, relus)
        live = [self._space.live(self._slots, reads) for reads in patterns.reads]
        total = np.zeros((len(population), 0))
        for maps in dict.fromkeys(live):
            among = np.array([each == maps for each in live])
            around = self._around(maps, patterns[np.flatnonzero(among)])
            rows = np.flatnonzero(among[which])
            vectors = self._inside(maps)
            total = _widened(total, len(self._number))
            total[rows] = (
                indicators[rows] @ vectors + _widened(around, len(self._number))[np.cumsum(among)[which[rows]] - 1]
            )
        return total

    def _ways_read(self, cells: Cells, source: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """(n, slots, 2, WAYS) how states 0 and 1 are read, (n, kinds, 2) relus of blocks one and two filters wide."""
        n = len(source)
        ways = np.zeros((n, len(self._slots), INPUTS, WAYS), dtype=np.bool_)
        known: dict[tuple[int, bytes], int] = {}
        for number, slot in enumerate(self._slots):
            table = self._ways[number]
            like = known.setdefault((slot.kind, table.tobytes()), number)
            if like < number:
                ways[:, number] = ways[:, like]
                continue
            read = table[source[:, slot.kind], cells.operations[:, slot.kind]]  # (n, blocks, 2, WAYS)
            read = read & cells.present[:, slot.kind, :, None, None]
            for state in range(INPUTS):
                mine = cells.inputs[:, slot.kind] == state
                ways[:, number, state] = (read & mine[..., None]).any(axis=(1, 2))
        relus = np.zeros((n, len(self._space.kinds), 2), dtype=np.int64)
        for kind in range(len(self._space.kinds)):
            number = next(i for i, slot in enumerate(self._slots) if slot.kind == kind)
            through = self._ways[number][source[:, kind], cells.operations[:, kind], 0]
            through = through & cells.present[:, kind, :, None]
            for block in range(cells.present.shape[2]):
                is_read = (through & (cells.inputs[:, kind] == INPUTS + block)).any(axis=(1, 2))
                relus[np.arange(n), kind, cells.units[:, kind, INPUTS + block] - 1] += is_read
        return ways, relus

    def _indicators(self, cells: Cells, source: NDArray[np.int64], relus: NDArray[np.int64]) -> Counts:
        """(n, pieces): how often a row has each operation on each source, each combination and each relu of a block."""
        n, kinds, _ = cells.present.shape
        operations, combinations = len(self._space.operations), len(self._space.combinations)
        kind = np.arange(kinds)[:, None, None]
        code = (kind * SOURCES + source) * operations + cells.operations
        applied = _counted(code.reshape(n, -1), np.repeat(cells.present, 2, axis=2), kinds * SOURCES * operations)
        code = kind[..., 0] * combinations + cells.combinations
        combined = _counted(code.reshape(n, -1), cells.present, kinds * combinations)
        return np.concatenate([applied, combined, relus.reshape(n, -1)], axis=1)

    def _inside(self, live: frozenset[int]) -> Counts:
        """(pieces, forms), in the order of `_indicators`, summed over the live cells."""
        slots = [
            [slot for number, slot in enumerate(self._slots) if number in live and slot.kind == kind]
            for kind in range(len(self._space.kinds))
        ]
        applied = [
            _total(_without_relu(self._operation(slot, source, operation)) for slot in of_kind)
            for of_kind, source, operation in product(slots, range(SOURCES), range(len(self._space.operations)))
        ]
        combined = [
            _total(forms_of(self._combination(slot, combination)) for slot in of_kind)
            for of_kind, combination in product(slots, range(len(self._space.combinations)))
        ]
        relus = [
            _total(forms_of(self._relu(slot, source)) for slot in of_kind)
            for of_kind, source in product(slots, range(INPUTS, SOURCES))
        ]
        return self._vectors([*applied, *combined, *relus])

    def _operation(self, slot: Slot, source: int, operation: int) -> Network:
        stride = slot.stride if source < INPUTS else 1
        return self._piece(
            ("operation", slot.filters, operation, stride),
            self._shape(slot, source),
            lambda net: self._space.add_operation(net, 0, operation, slot.filters, stride),
        )

    def _combination(self, slot: Slot, combination: int) -> Network:
        shape = self._shape(slot, INPUTS)
        return self._piece(("combination", combination), shape, lambda net: add_combination(net, (0, 0), combination))

    def _relu(self, slot: Slot, source: int) -> Network:
        return self._piece("relu", self._shape(slot, source), lambda net: net.relu(0))

    def _shape(self, slot: Slot, source: int) -> tuple[int, ...]:
        return state_shape(self._space, slot, source, self._stem_shapes, self._sizes)

    def _piece(self, name: Hashable, shape: tuple[int, ...], write: Callable[[NetworkBuilder], int]) -> Network:
        """What is written after a map of the given shape."""
        if (name, shape) not in self._pieces:
            net = NetworkBuilder(shape)
            write(net)
            self._pieces[name, shape] = net.network
        return self._pieces[name, shape]

    def _ways_of(self, slot: Slot) -> NDArray[np.bool_]:
        """(sources, operations, WAYS) how each operation reads each source."""
        ways = np.zeros((SOURCES, len(self._space.operations), WAYS), dtype=np.bool_)
        for source in range(SOURCES):
            for operation in range(len(self._space.operations)):
                network = self._operation(slot, source, operation)
                # An operation that writes nothing is the state itself, which the combination reads.
                ways[source, operation] = _ways(network) if len(network) > 1 else (False, True)
        return ways

    def _around(self, live: frozenset[int], patterns: _Patterns) -> Counts:
        """(patterns, forms) of networks with nothing inside their cells but the relus of their inputs."""
        n = len(patterns.width)
        pieces: list[tuple[NDArray[np.int64], list[Counter[LayerForm]]]] = []
        read = {number: np.zeros((n, WAYS), dtype=np.bool_) for number in live}
        for number in sorted(live, reverse=True):  # readers before what they read
            if number == len(self._slots) - 1:
                pieces.append(self._read_by_head(patterns, read[number]))
            if number >= 0:
                pieces.append(self._output(number, patterns, read[number]))
                pieces += [
                    self._input(number, state, patterns, read)
                    for state in range(INPUTS)
                    if patterns.reads[:, self._slots[number].kind, state].any()
                ]
        pieces.append(self._stem(live, read))
        total = np.zeros((n, 0))
        for which, counted in pieces:
            vectors = self._vectors(counted)
            total = _widened(total, len(self._number)) + vectors[which]
        return total

    def _read_by_head(
        self, patterns: _Patterns, read: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], list[Counter[LayerForm]]]:
        last = len(self._slots) - 1
        widths, which = np.unique(patterns.width[:, self._slots[last].kind], return_inverse=True)
        networks = [
            self._piece("head", self._map_shape(last, width), lambda net: self._space.add_head(net, 0, self._task))
            for width in widths
        ]
        read |= np.array([_ways(network) for network in networks])[which]
        return which, [_without_relu(network) for network in networks]

    def _output(
        self, number: int, patterns: _Patterns, read: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], list[Counter[LayerForm]]]:
        """What joins a cell's output, and the relu of it, if others read it through that."""
        kind = self._slots[number].kind
        features = np.stack([patterns.width[:, kind], patterns.joins[:, kind], read[:, 0]], axis=1)
        rows, which = np.unique(features, axis=0, return_inverse=True)
        counted = []
        for width, joins, through_relu in rows:
            net = NetworkBuilder(self._map_shape(number, width))
            if joins:
                net.concat([0])
            if through_relu:
                net.relu(0)
            counted.append(forms_of(net.network))
        return which.ravel(), counted

    def _input(
        self, number: int, state: int, patterns: _Patterns, read: dict[int, NDArray[np.bool_]]
    ) -> tuple[NDArray[np.int64], list[Counter[LayerForm]]]:
        """What makes a map enter a cell; notes how the map is read."""
        slot = self._slots[number]
        before = (slot.before, slot.last)[state]
        source = slot.last if before is None else before
        is_read = patterns.reads[:, slot.kind, state]
        width = patterns.width[:, self._slots[source].kind] if source >= 0 else np.zeros(len(is_read), dtype=np.int64)
        features = np.concatenate([is_read[:, None], width[:, None], patterns.ways[:, number, state]], axis=1)
        rows, which = np.unique(features, axis=0, return_inverse=True)
        counted, ways = [], []
        for is_there, units, *ways_inside in rows.tolist():
            network = self._written_input(slot, state, before, self._map_shape(source, units), tuple(ways_inside))
            counted.append(_without_relu(network) if is_there else Counter())
            ways.append(_ways(network) if is_there else (False, False))
        if is_read.any():
            read[source] |= np.array(ways)[which.ravel()]
        return which.ravel(), counted

    def _written_input(
        self, slot: Slot, state: int, before: int | None, shape: tuple[int, ...], ways: tuple[int, ...]
    ) -> Network:
        size = self._sizes[slot.last]

        def write(net: NetworkBuilder) -> int:
            x = 0 if before is None else self._space.add_input(net, 0, state, size, slot.filters)
            _read(net, x, ways)
            return x

        return self._piece(("input", state, before is None, size, slot.filters, ways), shape, write)

    def _stem(
        self, live: frozenset[int], read: dict[int, NDArray[np.bool_]]
    ) -> tuple[NDArray[np.int64], list[Counter[LayerForm]]]:
        numbers = sorted(number for number in live if number < 0)
        rows, which = np.unique(
            np.concatenate([read[number] for number in numbers], axis=1), axis=0, return_inverse=True
        )
        counted = []
        for ways in rows.reshape(len(rows), -1, WAYS):
            net = NetworkBuilder(self._task.input_shape)
            maps = self._space.write_stem(net, self._imagenet)
            net.cut_after(maps[numbers[-1]])
            for number, way in zip(numbers, ways, strict=True):
                _read(net, maps[number], way)
            counted.append(forms_of(net.network))
        return which.ravel(), counted

    def _map_shape(self, number: int, units: int) -> tuple[int, ...]:
        """Of a cell's output, `units` times as wide as its filters; of the stem's maps as they are."""
        if number < 0:
            return self._stem_shapes[number]
        slot = self._slots[number]
        return (int(units) * slot.filters, *self._space.size_after(self._sizes[slot.last], slot.stride))


def _read(net: NetworkBuilder, x: int, ways: Sequence[int] | NDArray[np.bool_]) -> None:
    """Have layer x read through its relu, by a record that counts as nothing, or both."""
    through_relu, itself = ways
    if through_relu:
        net.relu(x)
    if itself:
        net.layers.append(Layer("input", (x,), net.shape(x)))


def _ways(piece: Network) -> tuple[bool, bool]:
    """Whether a piece reads its input through a relu, and whether it reads the input itself."""
    through = [layer.op == "relu" for layer in piece if 0 in layer.inputs]
    return any(through), not all(through)


def _without_relu(piece: Network) -> Counter[LayerForm]:
    """All layers but the relu of the piece's own input."""
    forms = forms_of(piece)
    shared = [layer for layer in piece if layer.op == "relu" and layer.inputs == (0,)]
    if shared:
        forms = forms - forms_of((piece[0], shared[0]))
    return forms


def _total(pieces: Iterable[Counter[LayerForm]]) -> Counter[LayerForm]:
    total: Counter[LayerForm] = Counter()
    for piece in pieces:
        total.update(piece)
    return total


def _counted(codes: NDArray[np.int64], is_there: NDArray[np.bool_], size: int) -> Counts:
    """(n, k) codes below `size` -> (n, size) how often each is there."""
    n = len(codes)
    flat = (codes + size * np.arange(n)[:, None])[is_there.reshape(n, -1)]
    return np.bincount(flat, minlength=n * size).reshape(n, size).astype(np.float64)


def _widened(counts: Counts, columns: int) -> Counts:
    return np.pad(counts, ((0, 0), (0, columns - counts.shape[1])))
