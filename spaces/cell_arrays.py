"""Cells of many architectures as arrays, and as graphs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .cell_order import INPUTS
from .cell_parts import COMBINATIONS
from .graph import GraphBatch


@dataclass(frozen=True)
class Cells:
    """The cells of n architectures, over (architecture, kind of cell, block or state).

    Attributes:
        inputs: (n, kinds, blocks, 2) states that each block reads; 0 for absent blocks.
        operations: (n, kinds, blocks, 2) what is applied to them.
        combinations: (n, kinds, blocks) how the results become one.
        present: (n, kinds, blocks).
        kept: (n or 1, kinds, states), which states are joined to the output even where a block reads them.
    """

    inputs: NDArray[np.int64]
    operations: NDArray[np.int64]
    combinations: NDArray[np.int64]
    present: NDArray[np.bool_]
    kept: NDArray[np.bool_]

    @cached_property
    def used(self) -> NDArray[np.bool_]:
        """(n, kinds, states): what a block reads."""
        states = np.arange(self.kept.shape[2])
        return np.asarray(((self.inputs[..., None] == states) & self.present[..., None, None]).any(axis=(2, 3)))

    @cached_property
    def outputs(self) -> NDArray[np.bool_]:
        """(n, kinds, states): what is joined to the cell's output, the blocks that none reads and what is kept."""
        outputs = np.broadcast_to(self.kept, self.used.shape).copy()
        outputs[..., INPUTS:] |= ~self.used[..., INPUTS:]
        outputs[..., INPUTS:] &= self.present
        return outputs

    @property
    def reads(self) -> NDArray[np.bool_]:
        """(n, kinds, 2): whether the cell reads each of the maps that enter it."""
        return (self.used | self.outputs)[..., :INPUTS]

    @cached_property
    def units(self) -> NDArray[np.int64]:
        """(n, kinds, states) channels of each state, in filters of the cell."""
        units = np.ones(self.used.shape, dtype=np.int64)
        units[..., INPUTS:] = np.where(self.combinations == COMBINATIONS.index("concat"), 2, 1)
        return units

    @property
    def units_read(self) -> NDArray[np.int64]:
        """(n, kinds, blocks, 2) channels of the states that each block reads, in filters of the cell."""
        n, kinds, blocks, _ = self.inputs.shape
        flat = np.take_along_axis(self.units, self.inputs.reshape(n, kinds, 2 * blocks), axis=2)
        return flat.reshape(self.inputs.shape)

    @cached_property
    def width(self) -> NDArray[np.int64]:
        """(n, kinds) channels of each cell's output, in filters of the cell."""
        return np.asarray((self.units * self.outputs).sum(axis=2))


def cell_graphs(cells: Cells, n_operations: int, n_combinations: int) -> GraphBatch:
    """Graphs of cells, those of one architecture side by side: see `CellSpace.graphs`."""
    n, kinds, blocks = cells.present.shape
    nodes = INPUTS + 3 * blocks + 1
    # Of one cell: its inputs, then for each block the two operations and the combination, then the output.
    state_node = np.concatenate([np.arange(INPUTS), INPUTS + 2 + 3 * np.arange(blocks)])
    operations = np.full((n, kinds, nodes), -1, dtype=np.int64)
    operations[..., :INPUTS] = n_operations + n_combinations + np.arange(INPUTS)
    operations[..., -1] = n_operations + n_combinations + INPUTS
    inner = operations[..., INPUTS:-1].reshape(n, kinds, blocks, 3)
    inner[..., :2] = np.where(cells.present[..., None], cells.operations, -1)
    inner[..., 2] = np.where(cells.present, n_operations + cells.combinations, -1)
    operations[..., INPUTS:-1] = inner.reshape(n, kinds, -1)
    adjacency = np.zeros((n, kinds, nodes, nodes), dtype=bool)
    row, kind, block, side = np.nonzero(np.broadcast_to(cells.present[..., None], cells.inputs.shape))
    operation = INPUTS + 3 * block + side
    adjacency[row, kind, state_node[cells.inputs[row, kind, block, side]], operation] = True
    adjacency[row, kind, operation, state_node[INPUTS + block]] = True
    row, kind, state = np.nonzero(cells.outputs)
    adjacency[row, kind, state_node[state], nodes - 1] = True
    together = np.zeros((n, kinds, nodes, kinds, nodes), dtype=bool)
    for kind_ in range(kinds):
        together[:, kind_, :, kind_] = adjacency[:, kind_]
    attributes = np.zeros((n, kinds, nodes, kinds if kinds > 1 else 0), dtype=np.float32)
    for kind_ in range(attributes.shape[3]):
        attributes[:, kind_, :, kind_] = operations[:, kind_] >= 0
    return GraphBatch(
        operations.reshape(n, kinds * nodes),
        together.reshape(n, kinds * nodes, kinds * nodes),
        attributes.reshape(n, kinds * nodes, -1) if kinds > 1 else np.zeros((n, nodes, 0), dtype=np.float32),
        n_operations + n_combinations + INPUTS + 1,
    )
