"""The layers of many networks of NAS-Bench-101, counted by form from the edges and widths of their vertices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .layers import Network, NetworkBuilder
from .tally import Counts, LayerForm, Tally, forms_of

if TYPE_CHECKING:
    from .space import Population

Integers = NDArray[np.int64]
Edges = NDArray[np.bool_]
Write = Callable[[NetworkBuilder], int]


class VertexTally(Tally):
    """Vertices of a stack have few different widths, and layers follow from the widths that they join."""

    def __init__(
        self,
        skeleton: Network,
        cells: Callable[[Population], tuple[Integers, Edges]],
        widths: Callable[[Edges, int], Integers],
        operations: Callable[[NetworkBuilder, int, int], int],
    ) -> None:
        """
        Args:
            skeleton: the network whose cells are one edge, and so one convolution, each.
            cells: population -> (n, vertices inside) operations, -1 for absent ones, and the edges between all.
            widths: (edges, channels that a cell gives) -> (n, vertices inside) channels of each.
            operations: writes an operation, by number and channels, on the map that a network begins with.
        """
        super().__init__()
        self._cells_of, self._widths_of, self._write = cells, widths, operations
        cells_at = [i for i, layer in enumerate(skeleton) if layer.op == "conv" and layer.block.startswith("stack")]
        self._cells = Counter((skeleton[i].in_features, skeleton[i].shape) for i in cells_at)
        self._around = forms_of(skeleton)
        for (enter, shape), times in self._cells.items():
            for form in self._forms(enter, shape, _projection(shape[0])):
                self._around[form] -= times

    def _count(self, population: Population) -> Counts:
        operations, edges = self._cells_of(population)
        times = {form: np.full(len(population), float(k)) for form, k in self._around.items()}
        for (enter, shape), cells in self._cells.items():
            for write, channels, in_a_cell in self._layers(operations, edges, enter, shape[0]):
                if in_a_cell.any():
                    for form in self._forms(channels, shape, write):
                        times[form] = times.get(form, 0.0) + cells * in_a_cell
        numbers = self._numbered(times)
        counts = np.zeros((len(population), len(self.forms)))
        counts[:, numbers] = np.stack(list(times.values()), axis=1)
        return counts

    @staticmethod
    def _forms(channels: int, shape: tuple[int, ...], write: Write) -> Counter[LayerForm]:
        net = NetworkBuilder((channels, *shape[1:]))
        write(net)
        return forms_of(net.network)

    def _layers(
        self, operations: Integers, edges: Edges, enter: int, leave: int
    ) -> Iterator[tuple[Write, int, Integers]]:
        """(how a layer is written, channels that it reads, (n,) how many each cell has) of all layers of a cell."""
        widths = self._widths_of(edges, leave)
        into, inside, out = edges[:, 0, 1:-1], edges[:, 1:-1, 1:-1], edges[:, 1:-1, -1]
        inputs = into.astype(np.int64) + inside.sum(axis=1)
        different = [int(width) for width in np.unique(widths) if width]
        for width in different:
            as_wide = widths == width
            yield _projection(width), enter, (into & as_wide).sum(axis=1)
            for operation in range(int(operations.max()) + 1):
                written = ((operations == operation) & as_wide).sum(axis=1)
                yield lambda net, o=operation, w=width: self._write(net, o, w), width, written  # type: ignore[misc]
            for k in range(2, int(inputs.max()) + 1):
                yield _sum(k), width, ((inputs == k) & as_wide).sum(axis=1)
            for less in (each for each in different if each < width):
                cut = inside & as_wide[:, :, None] & (widths == less)[:, None, :]
                yield lambda net, c=less: net.first_channels(0, c), width, cut.sum(axis=(1, 2))  # type: ignore[misc]
        direct, joined = edges[:, 0, -1], out.sum(axis=1)
        yield _projection(leave), enter, direct.astype(np.int64)
        yield lambda net: net.concat([0]), leave, (joined > 1).astype(np.int64)
        yield _sum(2), leave, (direct & (joined > 0)).astype(np.int64)


def _projection(channels: int) -> Write:
    return lambda net: net.conv(0, channels, activation="relu")


def _sum(k: int) -> Write:
    return lambda net: net.add([0] * k)
