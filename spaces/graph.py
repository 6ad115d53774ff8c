"""Architectures as graphs: operations and adjacency of many at once, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class GraphBatch:
    """Graphs of n architectures, padded to the same number of nodes.

    Attributes:
        operations: (n, nodes) integers in [0, n_operations); -1 where a graph has no such node.
        adjacency: (n, nodes, nodes) booleans; [g, i, j] is the edge i -> j. May be a read-only broadcast view
            where all graphs have the same edges (chains), which then costs no memory.
        attributes: (n, nodes, k) float32, further known properties of each node (k may be 0), 0 for absent nodes.
        n_operations: how many kinds of node the space has.
    """

    operations: NDArray[np.int64]
    adjacency: NDArray[np.bool_]
    attributes: NDArray[np.float32]
    n_operations: int

    def __len__(self) -> int:
        return len(self.operations)

    def __getitem__(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> GraphBatch:
        return GraphBatch(self.operations[rows], self.adjacency[rows], self.attributes[rows], self.n_operations)
