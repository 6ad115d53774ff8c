"""Spaces of cells: small graphs of operations, each searched once and stacked many times.

A cell is a row of blocks. A block applies an operation to each of two states and combines the results into a new
state; states 0 and 1 are the outputs of the cell before the last one and of the last one, the states after them are
the blocks in order. What no block reads is the cell's output.

Source: Zoph et al., 1707.07012, section 3; Liu et al., 1712.00559, section 3; Liu et al., 1806.09055, section 2.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from .cell_arrays import Cells, cell_graphs
from .cell_costs import CellPrices
from .cell_order import INPUTS, canonical_blocks
from .cell_parts import COMBINATIONS, Size, add_combination, add_fitted
from .cell_tally import CellTally
from .errors import InputError
from .graph import GraphBatch
from .layers import AuxiliaryHead, Network, NetworkBuilder
from .space import MAX_REJECTION_ROUNDS, Arch, Population, Rate, SearchSpace, Task, change_genes
from .tally import Tally

SMALLEST_LAST_MAP = 4  # pixels; where the ImageNet form would leave less, the CIFAR form stands
IMAGENET_STRIDE = 32  # of the ImageNet form as a whole
ROWS_AT_ONCE = 1 << 16  # bounds the memory of array work
MOST_LISTED = 50_000  # simplest rows that are listed rather than drawn


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one cell in a network.

    Attributes:
        kind: which of the space's cells stands here.
        stride: of the operations on states 0 and 1.
        filters: channels of its states.
        before, last: the maps that enter as states 0 and 1: cells by their position, the stem's maps by -1 for
            the last one and -2 for the one before. `before` is None where the cell reads the last map twice, as
            state 0 unchanged.
        drop: share of the drop-path probability that its paths meet.
    """

    kind: int
    stride: int
    filters: int
    before: int | None
    last: int
    drop: float


class CellSpace(SearchSpace):
    """A space of cells. A subclass says what stands where; the rest is derived, at array speed.

    Genes of a block: its two inputs, the operation on each, and the combination where there is a choice. Blocks
    follow in order, of two kinds of cell by turns, so that a smaller architecture leaves genes unused at the end.
    """

    @property
    @abstractmethod
    def kinds(self) -> tuple[str, ...]:
        """Names of the cells that a row describes."""

    @property
    @abstractmethod
    def operations(self) -> tuple[str, ...]: ...

    @property
    @abstractmethod
    def combinations(self) -> tuple[str, ...]: ...

    @property
    @abstractmethod
    def blocks(self) -> int:
        """The most blocks of a cell."""

    @property
    @abstractmethod
    def distinct_inputs(self) -> bool:
        """Whether a block's inputs must be two different states, the smaller one first."""

    @property
    @abstractmethod
    def kept(self) -> NDArray[np.bool_]:
        """(kinds, states): what is joined to a cell's output even where a block reads it."""

    @property
    @abstractmethod
    def imagenet_form(self) -> bool | None:
        """Whether networks have the ImageNet form; None where the resolution decides."""

    @abstractmethod
    def slots(self, imagenet: bool) -> tuple[Slot, ...]:
        """The cells in order."""

    @abstractmethod
    def add_stem(self, net: NetworkBuilder, imagenet: bool) -> tuple[int, ...]:
        """Write what stands before the first cell; returns the maps that cells may read.

        Raises:
            InputError: if the form would have maps without channels.
        """

    @abstractmethod
    def add_input(self, net: NetworkBuilder, x: int, state: int, size: tuple[int, ...], filters: int) -> int:
        """Write what makes map x enter a cell as state 0 or 1 with `filters` channels and the given size."""

    @abstractmethod
    def add_operation(self, net: NetworkBuilder, x: int, operation: int, filters: int, stride: int) -> int:
        """Write the operation on state x; returns x itself where it changes nothing."""

    def as_written(self, cells: Cells) -> Cells:
        """The same cells, of operations that `add_operation` writes alike only one."""
        return cells

    @abstractmethod
    def add_head(self, net: NetworkBuilder, x: int, task: Task) -> int: ...

    @abstractmethod
    def auxiliary_after(self, imagenet: bool) -> int:
        """The cell (by position among the slots) whose output the auxiliary head reads."""

    @abstractmethod
    def drops(self, operation: int, stride: int) -> bool:
        """Whether drop-path may leave out an operation."""

    # Genes

    @property
    def genes_per_block(self) -> int:
        return 4 + (len(self.combinations) > 1)

    @cached_property
    def _block_of(self) -> tuple[tuple[int, int], ...]:
        """(block, kind) in the order of the genes."""
        return tuple(product(range(self.blocks), range(len(self.kinds))))

    def _block_choices(self, block: int) -> tuple[int, ...]:
        ops, states = len(self.operations), INPUTS + block
        return (states, states, ops, ops, len(self.combinations))[: self.genes_per_block]

    @property
    def choices(self) -> tuple[int, ...]:
        return tuple(size for block, _ in self._block_of for size in self._block_choices(block))

    def _pairs(self, block: int) -> NDArray[np.int64]:
        """(pairs, 2) all inputs that a block may have."""
        states = range(INPUTS + block)
        return np.array(list(combinations(states, 2) if self.distinct_inputs else product(states, repeat=2)))

    def _ways(self, block: int) -> int:
        """How many blocks may stand at this place."""
        return len(self._pairs(block)) * len(self.operations) ** 2 * len(self.combinations)

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        """How many rows have each number of blocks, from one of each kind to all."""
        running = 1
        sizes = []
        for block, _ in self._block_of:
            running *= self._ways(block)
            sizes.append(running)
        return tuple(sizes[len(self.kinds) - 1 :])

    @property
    def cardinality(self) -> int:
        return sum(self._sizes)

    def _as_blocks(self, population: Population) -> Population:
        """(n, genes) -> (n, blocks of all kinds, genes of a block)."""
        return population.reshape(len(population), len(self._block_of), self.genes_per_block)

    def n_blocks(self, population: Population) -> NDArray[np.int64]:
        """(n, genes) -> (n,) blocks of all kinds together."""
        return np.asarray((self._as_blocks(population)[:, :, 0] >= 0).sum(axis=1))

    def is_valid(self, population: Population) -> NDArray[np.bool_]:
        blocks = self._as_blocks(population)
        used = blocks >= 0
        whole = (used == used[:, :, :1]).all(axis=2) & ((blocks == -1) | used).all(axis=2)
        present = used[:, :, 0]
        valid = whole.all(axis=1) & present[:, : len(self.kinds)].all(axis=1)
        valid &= (present[:, 1:] <= present[:, :-1]).all(axis=1)  # none after a missing one
        valid &= (population < np.array(self.choices)).all(axis=1)
        if self.distinct_inputs:
            valid &= ((blocks[:, :, 0] < blocks[:, :, 1]) | ~present).all(axis=1)
        return np.asarray(valid, dtype=np.bool_)

    def why_invalid(self, row: NDArray[np.int64]) -> str:
        present = self._as_blocks(np.asarray(row)[None])[0] >= 0
        last = np.flatnonzero(present.any(axis=1)).max(initial=len(self.kinds) - 1)
        names = ("first input", "second input", "first operation", "second operation", "combination")
        for gene, (value, size) in enumerate(zip(row, self.choices, strict=True)):
            turn, part = divmod(gene, self.genes_per_block)
            block, kind = self._block_of[turn]
            where = f"gene {gene} ({names[part]} of block {block + 1}, {self.kinds[kind]})"
            if turn > last:
                break
            if value == -1:
                return f"{where} is missing"
            if part < INPUTS and value >= size:
                return f"{where} must be an earlier state, 0..{size - 1}, got {value}"
            if not 0 <= value < size:
                return f"{where} must be in 0..{size - 1}, got {value}"
            if part == 1 and self.distinct_inputs and value <= row[gene - 1]:
                return f"{where} must be a later state than the first input, {row[gene - 1]}; got {value}"
        return "the genes do not go together"

    def sample(self, n: int, rng: np.random.Generator) -> Population:
        rows = self._random_rows(n, rng)
        shares = np.array([size / self.cardinality for size in self._sizes])
        lengths = len(self.kinds) + rng.choice(len(shares), size=n, p=shares / shares.sum())
        return self._cut(rows, lengths)

    def _random_rows(self, n: int, rng: np.random.Generator) -> Population:
        """n rows with all blocks, uniform."""
        blocks = []
        for block, _ in self._block_of:
            pairs, sizes = self._pairs(block), self._block_choices(block)[INPUTS:]
            blocks += [pairs[rng.integers(len(pairs), size=n)], rng.integers(0, sizes, size=(n, len(sizes)))]
        return np.concatenate(blocks, axis=1).astype(np.int64)

    def _cut(self, rows: Population, n_blocks: NDArray[np.int64]) -> Population:
        """The rows with as many blocks as given, all later genes unused."""
        used = np.arange(rows.shape[1]) // self.genes_per_block < n_blocks[:, None]
        return np.asarray(np.where(used, rows, -1))

    def _mutate_once(self, parents: Population, rng: np.random.Generator, rate: Rate | None) -> Population:
        """Where a block's inputs must be distinct, both are one gene: a pair may change where neither could alone."""
        if not self.distinct_inputs:
            return super()._mutate_once(parents, rng, rate)
        blocks = self._as_blocks(parents)
        units = blocks[:, :, 1:].copy()
        units[:, :, 0] = np.where(blocks[:, :, 0] < 0, -1, _pair_number(blocks[:, :, 0], blocks[:, :, 1]))
        sizes = [
            size for block, _ in self._block_of for size in (len(self._pairs(block)), *self._block_choices(block)[2:])
        ]
        drawn = change_genes(units.reshape(len(parents), -1), sizes, rng, rate).reshape(units.shape)
        pairs = self._pairs(self.blocks - 1)
        pairs = pairs[np.argsort(_pair_number(pairs[:, 0], pairs[:, 1]))]
        inputs = np.where(drawn[:, :, :1] < 0, -1, pairs[drawn[:, :, 0]])
        return np.concatenate([inputs, drawn[:, :, 1:]], axis=2).reshape(parents.shape)

    def _cross_once(self, mothers: Population, fathers: Population, rng: np.random.Generator) -> Population:
        """Genes that both parents use come from either; the number of blocks comes from one of them."""
        from_mother = (fathers < 0) | ((mothers >= 0) & (rng.random(mothers.shape) < 0.5))
        drawn = np.where(from_mother, mothers, fathers)
        lengths = np.where(rng.random(len(mothers)) < 0.5, self.n_blocks(mothers), self.n_blocks(fathers))
        return self._cut(drawn, lengths)

    def simplest(self, k: int, rng: np.random.Generator) -> Population:
        """k different networks, those of fewest blocks; which ones of the most blocks is drawn.

        Uniformly from the distinct ones where the rows of as many blocks can be listed, else from the rows.
        """
        found = np.empty((0, len(self.choices)), dtype=np.int64)
        for n_blocks in range(len(self.kinds), len(self._block_of) + 1):
            if len(found) < k:
                found = np.concatenate([found, self._different(k - len(found), n_blocks, rng)])
        return found

    def _different(self, k: int, n_blocks: int, rng: np.random.Generator) -> Population:
        """Up to k different networks of as many blocks of all kinds together."""
        if self._sizes[n_blocks - len(self.kinds)] <= MOST_LISTED:
            return rng.permutation(self._distinct(self._all_rows(n_blocks)))[:k]
        rows = np.empty((0, len(self.choices)), dtype=np.int64)
        for _ in range(MAX_REJECTION_ROUNDS):
            if len(rows) < k:
                more = self._random_rows(2 * (k - len(rows)), rng)
                rows = self._distinct(np.concatenate([rows, self._cut(more, np.full(len(more), n_blocks))]))
        return rows[:k]

    def _distinct(self, rows: Population) -> Population:
        """The first row of each network, in order."""
        first = np.unique(self.canonical(rows), axis=0, return_index=True)[1]
        return rows[np.sort(first)]

    def _all_rows(self, n_blocks: int) -> Population:
        """Every row of as many blocks of all kinds together."""
        rows = np.full((1, len(self.choices)), -1, dtype=np.int64)
        for _ in range(n_blocks):
            rows = self.grow(rows)
        return rows

    def complexity(self, population: Population) -> NDArray[np.int64]:
        """(n, genes) -> (n,) blocks of all kinds together."""
        return self.n_blocks(population)

    def grow(self, population: Population) -> Population:
        """All rows with one block more, parents in order; rows that have all blocks have no children.

        Where a row describes two cells they grow by turns, the first one first.

        Source: 1712.00559, section 4.1.
        """
        n_blocks = self.n_blocks(population)
        origins, children = [np.empty(0, dtype=np.int64)], [population[:0]]
        for length in np.unique(n_blocks[n_blocks < len(self._block_of)]):
            parents = np.flatnonzero(n_blocks == length)
            more = self._all_blocks(self._block_of[length][0])
            grown = np.repeat(population[parents], len(more), axis=0)
            genes = slice(length * self.genes_per_block, (length + 1) * self.genes_per_block)
            grown[:, genes] = np.tile(more, (len(parents), 1))
            origins.append(np.repeat(parents, len(more)))
            children.append(grown)
        return np.asarray(np.concatenate(children)[np.argsort(np.concatenate(origins), kind="stable")])

    def _all_blocks(self, block: int) -> NDArray[np.int64]:
        """(ways, genes of a block) everything that may stand as this block."""
        pairs = self._pairs(block)
        rest = np.array(list(product(*map(range, self._block_choices(block)[INPUTS:]))))
        return np.concatenate([np.repeat(pairs, len(rest), axis=0), np.tile(rest, (len(pairs), 1))], axis=1)

    # Cells

    def cells(self, population: Population) -> Cells:
        """What valid rows say, by kind of cell."""
        shape = (len(population), self.blocks, len(self.kinds), self.genes_per_block)
        genes = population.reshape(shape).transpose(0, 2, 1, 3)
        present = genes[..., 0] >= 0
        genes = np.where(present[..., None], genes, 0)
        inputs, operations, rest = np.split(genes, (INPUTS, 2 * INPUTS), axis=3)
        chosen = rest[..., 0] if rest.shape[3] else np.zeros(present.shape, dtype=np.int64)
        return Cells(inputs, operations, chosen, present, self.kept[None])

    def imagenet(self, task: Task) -> bool:
        """Whether the network for a task has the ImageNet form: by the text, else by the resolution.

        It has where that leaves a last map of at least 4 pixels: above 96 pixels.
        """
        if self.imagenet_form is not None:
            return self.imagenet_form
        return task.resolution > IMAGENET_STRIDE * (SMALLEST_LAST_MAP - 1)

    def layers(self, arch: Arch, task: Task) -> Network:
        return self._write(arch, task)[0]

    def auxiliary(self, arch: Arch, task: Task) -> AuxiliaryHead:
        """The head at two thirds of the depth that helps in training; the papers weigh its loss by 0.4.

        Where nothing reads the cell that it should stand on, it stands on the last one before that is read.

        Source: 1707.07012, appendix A.7, and the released code; 1806.09055, appendix A.2.
        """
        network, maps = self._write(arch, task)
        imagenet = self.imagenet(task)
        reads = maps[max(number for number in maps if number <= self.auxiliary_after(imagenet))]
        channels, *size = network[reads].shape
        net = NetworkBuilder((channels, *size), block="auxiliary")
        kernel = (min(5, size[0]), min(5, size[1]))
        x = net.pool(net.relu(0), kind="avg_pool", kernel=kernel, stride=self.auxiliary_stride(imagenet), padded=False)
        x = net.conv(x, 128, activation="relu")
        _, height, width = net.shape(x)
        x = net.conv(x, 768, kernel=(height, width), activation="relu", padded=False)
        net.classifier(x, classes=task.classes)
        return AuxiliaryHead(reads, net.network)

    def auxiliary_stride(self, imagenet: bool) -> int:
        """Of the pooling in front of the auxiliary head."""
        del imagenet
        return 3

    def _write(self, arch: Arch, task: Task) -> tuple[Network, dict[int, int]]:
        """The records, and the layer at which each map (numbered as in `Slot`) stands; dead cells are left out."""
        cells = self.cells(self.row(arch)[None])
        imagenet = self.imagenet(task)
        slots = self.slots(imagenet)
        net = NetworkBuilder(task.input_shape, block="stem")
        live = self.live(slots, cells.reads[0])
        maps = {number: x for number, x in enumerate_stem(self.write_stem(net, imagenet)) if number in live}
        net.cut_after(max(maps.values()))
        sizes = self.map_sizes(task)
        for number, slot in enumerate(slots):
            if number in live:
                net.block = f"{number + 1} {self.kinds[slot.kind]}"
                maps[number] = self._add_cell(net, slot, maps, sizes, cells)
        net.block = "head"
        self.add_head(net, maps[len(slots) - 1], task)
        return net.network, maps

    @staticmethod
    def live(slots: Sequence[Slot], reads: NDArray[np.bool_]) -> frozenset[int]:
        """The maps (numbered as in `Slot`) that the output depends on.

        Args:
            reads: (kinds, 2), which of its inputs each kind of cell reads.
        """
        live = {len(slots) - 1}
        for number in reversed(range(len(slots))):
            slot = slots[number]
            sources = (slot.last if slot.before is None else slot.before, slot.last)
            if number in live:
                live |= {source for source, is_read in zip(sources, reads[slot.kind], strict=True) if is_read}
        return frozenset(live)

    def map_sizes(self, task: Task) -> dict[int, Size]:
        """Height and width of every map, numbered as in `Slot`."""
        imagenet = self.imagenet(task)
        net = NetworkBuilder(task.input_shape)
        sizes = {number: net.shape(x)[1:] for number, x in enumerate_stem(self.write_stem(net, imagenet))}
        for number, slot in enumerate(self.slots(imagenet)):
            sizes[number] = self.size_after(sizes[slot.last], slot.stride)
        return sizes

    @staticmethod
    def size_after(size: Size, stride: int) -> Size:
        return tuple(-(-pixels // stride) for pixels in size)

    def write_stem(self, net: NetworkBuilder, imagenet: bool) -> tuple[int, ...]:
        """`add_stem`, where it can stand.

        Raises:
            InputError: if the images are too small for it, or the filters too few.
        """
        try:
            return self.add_stem(net, imagenet)
        except InputError:
            raise
        except ValueError as error:  # a window larger than the image
            raise InputError(
                f"the ImageNet form of {self.name} needs images of at least 3 pixels, got {net.shape(0)[1]}",
                hint="larger images, or the CIFAR form (the option cifar in the name of the space)",
            ) from error

    def _add_cell(
        self, net: NetworkBuilder, slot: Slot, maps: Mapping[int, int], sizes: Mapping[int, Size], cells: Cells
    ) -> int:
        kind, filters = slot.kind, slot.filters
        states = []
        for state, source in enumerate((slot.before, slot.last)):
            x = maps.get(slot.last if source is None else source, -1)  # -1 is never read: then nor is the state
            if source is not None and cells.reads[0, kind, state]:
                x = self.add_input(net, x, state, sizes[slot.last], filters)
            states.append(x)
        for block in np.flatnonzero(cells.present[0, kind]):
            made = []
            for state, operation in zip(cells.inputs[0, kind, block], cells.operations[0, kind, block], strict=True):
                stride = slot.stride if state < INPUTS else 1
                x = self.add_operation(net, states[state], int(operation), filters, stride)
                made.append(net.droppable(x, slot.drop) if self.drops(int(operation), stride) else x)
            states.append(add_combination(net, made, int(cells.combinations[0, kind, block])))
        size = self.size_after(sizes[slot.last], slot.stride)
        parts = [
            add_fitted(net, states[state], size, filters) if state < INPUTS else states[state]
            for state in np.flatnonzero(cells.outputs[0, kind])
        ]
        return parts[0] if len(parts) == 1 else net.concat(parts)

    def counts(self, population: Population, task: Task) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        prices = CellPrices(self, task)
        parts = [
            prices.of(self.cells(population[start : start + ROWS_AT_ONCE]))
            for start in range(0, len(population), ROWS_AT_ONCE)
        ]
        flops, params = np.concatenate([np.zeros((0, 2), dtype=np.int64), *parts]).T
        return flops, params

    def tally(self, task: Task) -> Tally:
        is_plain = not self._marks_kept and not self.kept[:, :INPUTS].any()
        return CellTally(self, task) if is_plain else super().tally(task)

    # What is the same

    @cached_property
    def _marks_kept(self) -> bool:
        """Whether two cells with equal blocks may differ in which of them are joined to the output."""
        blocks = self.kept[:, INPUTS:]
        return bool((blocks.any(axis=1) & ~blocks.all(axis=1)).any())

    def canonical(self, population: Population) -> Population:
        """Valid rows with the blocks of each cell in one order for all that are isomorphic, inputs sorted.

        Channels of a concatenation and of a sum have no order, so neither have the states they are made of. A
        cell that no output depends on, in any form that the network may take, counts as nothing. Where the space
        keeps some states by number, columns follow that say which blocks are kept: only then the order of blocks
        matters, and the first columns need not be rows of the same network.
        """
        ordered, kept = self._ordered(population)
        return np.concatenate([ordered, kept.reshape(len(kept), -1)], axis=1) if self._marks_kept else ordered

    def _ordered(self, population: Population) -> tuple[Population, NDArray[np.bool_]]:
        """Canonical rows, and (n, kinds, blocks) which of their blocks are joined to the output though read."""
        rows, kept = np.empty_like(population), np.zeros((len(population), len(self.kinds), self.blocks), dtype=bool)
        for start in range(0, len(population), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            rows[part], kept[part] = self._order_some(population[part])
        return rows, kept

    def _order_some(self, population: Population) -> tuple[Population, NDArray[np.bool_]]:
        cells = self.as_written(self.cells(population))
        n, kinds = len(population), len(self.kinds)
        filters = self._most_filters(cells.reads)
        layer_norm, instance_norm = map(COMBINATIONS.index, ("add and layer norm", "add and instance norm"))
        alike = (filters == 1)[..., None] & (cells.combinations == instance_norm)  # of one channel both are the same
        combinations = np.where(alike, layer_norm, cells.combinations)
        marked = (cells.used & cells.kept)[..., INPUTS:] & cells.present
        genes = np.full((n, self.blocks, kinds, self.genes_per_block), -1, dtype=np.int64)
        kept = np.zeros(marked.shape, dtype=bool)
        for kind in range(kinds):
            codes, places = canonical_blocks(
                cells.inputs[:, kind],
                cells.operations[:, kind],
                2 * combinations[:, kind] + marked[:, kind],
                cells.present[:, kind].sum(axis=1),
                len(self.operations),
            )
            genes[:, :, kind, : INPUTS + 2] = places
            if self.genes_per_block > INPUTS + 2:
                genes[:, :, kind, -1] = np.where(codes < 0, -1, codes // 2)
            kept[:, kind] = (codes >= 0) & (codes % 2 == 1)
        for kind, dead in enumerate((filters == 0).T):
            as_many = cells.present[:, 0] & dead[:, None]  # as blocks of the living cell, all genes 0
            genes[dead, :, kind] = np.where(as_many[dead][..., None], 0, -1)
            kept[dead, kind] = False
        return genes.reshape(n, -1), kept

    def _most_filters(self, reads: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(n, kinds, 2) -> (n, kinds): filters of the widest cell that the output depends on, in any form; else 0."""
        patterns, which = np.unique(reads.reshape(len(reads), -1), axis=0, return_inverse=True)
        most = np.zeros((len(patterns), len(self.kinds)), dtype=np.int64)
        for pattern, row in zip(patterns.reshape(-1, len(self.kinds), INPUTS), most, strict=True):
            for imagenet in (False, True) if self.imagenet_form is None else (self.imagenet_form,):
                slots = self.slots(imagenet)
                if all(slot.filters for slot in slots):  # else the skeleton is too small for this form
                    for number in self.live(slots, pattern):
                        if number >= 0:
                            row[slots[number].kind] = max(row[slots[number].kind], slots[number].filters)
        return np.asarray(most[which.ravel()])

    def graphs(self, population: Population) -> GraphBatch:
        """Both cells side by side: states 0 and 1, the two operations and the combination of every block, the output.

        Equal networks have equal graphs. Attributes of a node: its kind of cell, one-hot, where there are several.
        """
        ordered, kept_blocks = self._ordered(population)
        cells = self.cells(ordered)
        kept = np.broadcast_to(cells.kept, cells.used.shape).copy()
        kept[..., INPUTS:] = kept_blocks
        return cell_graphs(replace(cells, kept=kept), len(self.operations), len(self.combinations))


def _pair_number(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... for the pairs of states (0, 1), (0, 2), (1, 2), ...: those of fewer states have the lower numbers."""
    return np.asarray(second * (second - 1) // 2 + first)


def enumerate_stem(maps: Sequence[int]) -> list[tuple[int, int]]:
    """The stem's maps with their numbers: -1 for the last one, -2 for the one before."""
    return [(number - len(maps), x) for number, x in enumerate(maps)]
