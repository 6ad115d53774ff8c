"""One order of a cell's blocks for all cells that are isomorphic, for many cells at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

INPUTS = 2  # states that a cell is given

Integers = NDArray[np.int64]


def canonical_blocks(
    inputs: Integers, operations: Integers, codes: Integers, n_blocks: Integers, n_operations: int
) -> tuple[Integers, Integers]:
    """The blocks of m cells, renumbered so that isomorphic cells become equal.

    Blocks are taken one after another: of those whose inputs have been taken, the one that is smallest as written
    in the new numbers. Blocks that are written alike are tried in turn, and what differs first decides; so the
    result is the smallest of all orders that this rule admits, and does not depend on the order given.

    Args:
        inputs: (m, blocks, 2) states read by each block; 0 and 1 are the cell's inputs, 2 is the first block.
        operations: (m, blocks, 2) in [0, n_operations), applied to those states.
        codes: (m, blocks) what else tells blocks apart.
        n_blocks: (m,) blocks in use, the first ones.
    Returns:
        (m, blocks) codes and (m, blocks, 4) inputs and operations in the new order; -1 for blocks not in use.
    """
    m, most, _ = inputs.shape
    new_codes, places = np.full((m, most), -1, dtype=np.int64), np.full((m, most, 4), -1, dtype=np.int64)
    for blocks in np.unique(n_blocks):
        rows = np.flatnonzero(n_blocks == blocks)
        keys = _smallest_order(inputs[rows, :blocks], operations[rows, :blocks], codes[rows, :blocks], n_operations)
        pairs = (INPUTS + int(blocks)) * n_operations
        high, low = keys % pairs, keys // pairs % pairs
        new_codes[rows, :blocks] = keys // pairs**2
        places[rows, :blocks] = np.stack(
            [low // n_operations, high // n_operations, low % n_operations, high % n_operations], axis=2
        )
    return new_codes, places


def _smallest_order(inputs: Integers, operations: Integers, codes: Integers, n_operations: int) -> Integers:
    """(m, b) keys of the blocks in the order that `canonical_blocks` describes, all b blocks in use."""
    m, b, _ = inputs.shape
    pairs = (INPUTS + b) * n_operations
    origin = np.arange(m)  # of every branch; branches of one cell stand together
    number = np.full((m, INPUTS + b), -1, dtype=np.int64)  # the new number of each state, -1 before it has one
    number[:, :INPUTS] = np.arange(INPUTS)
    keys = np.empty((m, b), dtype=np.int64)
    read = (inputs[..., None] == INPUTS + np.arange(b)).any(axis=(1, 2))
    for step in range(b):
        new = np.take_along_axis(number, inputs[origin].reshape(len(origin), -1), axis=1).reshape(-1, b, 2)
        ends = np.sort(new * n_operations + operations[origin], axis=2)
        key = codes[origin] * pairs**2 + ends[:, :, 0] * pairs + ends[:, :, 1]
        open_ = (new >= 0).all(axis=2) & (number[:, INPUTS:] < 0)
        key = np.where(open_, key, np.iinfo(np.int64).max)
        smallest = np.full(m, np.iinfo(np.int64).max)
        np.minimum.at(smallest, origin, key.min(axis=1))
        tied = key == smallest[origin][:, None]
        unread = tied & ~read[origin]  # these are alike in all: one of them stands for the others
        branch, block = np.nonzero(tied & ~(unread & (unread.cumsum(axis=1) > 1)))
        origin, number, keys = origin[branch], number[branch], keys[branch]
        number[np.arange(len(branch)), INPUTS + block] = INPUTS + step
        keys[:, step] = smallest[origin]
    first = np.unique(origin, return_index=True)[1]
    return keys[first]
