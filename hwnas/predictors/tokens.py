"""Rows as sequences of tokens, for predictors that read genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwnas.evaluation.restricted import RestrictedSpace, as_keys
from spaces.cells import CellSpace
from spaces.chain import ChainSpace

if TYPE_CHECKING:
    from spaces import Population, SearchSpace

ABSENT = 0  # the token of an unused gene


@dataclass(frozen=True, eq=False)
class Tokens:
    """How the genes of a space become tokens, 1 to `vocabulary` - 1.

    Genes that mean the same have the same tokens. In cells of blocks these are the inputs, the operations and the
    combinations; in chains a gene is its operation; elsewhere genes of equally many values mean the same, as the edges
    and the operations of NAS-Bench-101 do. Isomorphic networks are read alike where their key is a row.

    Attributes:
        inner: the space; of a table the one that it is of.
        of: (genes, choices), the token of each value of each gene, `ABSENT` for values that it cannot have.
        slots: genes that belong together; a row is one group of them after another. In cells these are a block (of
            both kinds of cell, where there are two), elsewhere the whole row.
    """

    inner: SearchSpace
    of: NDArray[np.int64]
    slots: int

    @classmethod
    def of_space(cls, space: SearchSpace) -> Tokens:
        inner = space.inner if isinstance(space, RestrictedSpace) else space
        sizes = np.array(inner.choices)
        kinds = np.unique(sizes, return_inverse=True)[1].ravel()
        slots = len(sizes)
        if isinstance(inner, ChainSpace):
            return cls(inner, 1 + inner.operation_ids()[0], slots)
        if isinstance(inner, CellSpace):
            place = np.arange(len(sizes)) % inner.genes_per_block
            kinds, slots = np.minimum(place // 2, 2), inner.genes_per_block * len(inner.kinds)
        most = np.array([sizes[kinds == kind].max(initial=0) for kind in range(kinds.max() + 1)])
        first = 1 + np.concatenate([[0], np.cumsum(most)[:-1]])
        values = np.arange(sizes.max())
        return cls(inner, np.where(values < sizes[:, None], first[kinds][:, None] + values, ABSENT), slots)

    @property
    def vocabulary(self) -> int:
        return int(self.of.max()) + 1

    def __call__(self, population: Population) -> NDArray[np.int64]:
        """(n, genes) -> (n, genes): `ABSENT` for unused genes, which come last."""
        rows = as_keys(self.inner, population)
        tokens = self.of[np.arange(rows.shape[1]), np.maximum(rows, 0)]
        return np.where(rows >= 0, tokens, ABSENT)
