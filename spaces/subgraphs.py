"""Which cells of a list hold another cell as a part: growth where few cells are there to grow into."""

from __future__ import annotations

from functools import cached_property
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE = 4096


class LargerCells:
    """Finds, in a list of cells, those that hold a given cell as a subgraph and have one vertex more.

    A cell holds another if the other's inner vertices can be given different inner vertices of it, of the same
    operation, so that each edge of the other is an edge of it; input stands for input and output for output. It may
    have edges that the other lacks, also between those vertices.

    Cells are compared as bit sets, of edges and of (vertex, operation): in one of all orders of its inner vertices the
    larger has all bits of the smaller.
    """

    def __init__(self, operations: NDArray[np.int64], edges: NDArray[np.bool_]) -> None:
        """Operations (n, k) of the inner vertices, -1 where absent, and edges (n, k + 2, k + 2); the output is last."""
        self._operations = operations
        self._edges = edges
        self._inside = (operations >= 0).sum(axis=1)

    def find(self, operations: NDArray[np.int64], edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Cells in the same form, (m, ...) -> (n,): which cells of the list are larger than at least one of them."""
        found = np.zeros(len(self._inside), dtype=np.bool_)
        wanted = self._sets(operations, edges, self._orders[:1])[:, 0]
        inside = (operations >= 0).sum(axis=1)
        for start in range(0, len(found), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            for cell, size in zip(wanted, inside, strict=True):
                open_rows = start + np.flatnonzero((self._inside[part] == size + 1) & ~found[part])
                found[open_rows] = ((cell & ~self._all_sets[open_rows]) == 0).any(axis=1)
        return found

    @cached_property
    def _orders(self) -> NDArray[np.int64]:
        """(k!, k) all orders of the inner vertices, the given one first."""
        return np.array(list(permutations(range(self._operations.shape[1]))))

    @cached_property
    def _all_sets(self) -> NDArray[np.int64]:
        parts = [
            self._sets(self._operations[start : start + ROWS_AT_ONCE], self._edges[start : start + ROWS_AT_ONCE])
            for start in range(0, len(self._operations), ROWS_AT_ONCE)
        ]
        return np.concatenate([np.empty((0, len(self._orders)), dtype=np.int64), *parts])

    def _sets(
        self, operations: NDArray[np.int64], edges: NDArray[np.bool_], orders: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """(n, orders): the bits of each cell, its inner vertices put in each order."""
        orders = self._orders if orders is None else orders
        inner, kinds = operations.shape[1], int(self._operations.max(initial=0)) + 1
        vertices = inner + 2
        # Nothing enters the input or leaves the output, so that few enough bits are left for a float64 to add exactly.
        of_edges = np.arange((vertices - 1) ** 2).reshape(vertices - 1, vertices - 1)
        of_operations = of_edges.size + np.arange(inner * kinds).reshape(inner, kinds)
        assert of_operations.size + of_edges.size <= np.finfo(np.float64).nmant
        weights = np.zeros((len(orders), vertices**2 + inner * kinds))
        for order, row in zip(orders, weights, strict=True):
            place = np.concatenate([[0], 1 + order, [vertices - 1]])  # of each vertex among the ordered ones
            ends = np.ix_(place[:-1], place[1:] - 1)
            bits = np.zeros((vertices, vertices))
            bits[:-1, 1:] = 2.0 ** of_edges[ends]
            row[: vertices**2] = bits.ravel()
            row[vertices**2 :] = (2.0 ** of_operations[order]).ravel()
        one_hot = operations[:, :, None] == np.arange(kinds)
        present = np.concatenate([edges.reshape(len(edges), -1), one_hot.reshape(len(edges), -1)], axis=1)
        return np.asarray(present.astype(np.float64) @ weights.T).astype(np.int64)
