"""Chains: a stem, one block a gene, a head; what a block costs does not depend on the other genes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .additive import AdditiveCost
from .graph import GraphBatch
from .layers import Network, NetworkBuilder
from .space import Arch, Population, SearchSpace, Task
from .tally import Tally, TallyOfSums


@dataclass(frozen=True)
class Fragments:
    """All pieces that networks of a chain are put together from, each a small network of its own.

    Attributes:
        stem: from the image on.
        blocks: [gene][choice], from the gene's input map on; None where the choice is not allowed or adds nothing.
        head: from the last feature map to the class scores.
    """

    stem: Network
    blocks: tuple[tuple[Network | None, ...], ...]
    head: Network

    def additive(self, cost: Callable[[Network], float]) -> AdditiveCost:
        """The additive cost whose entries are `cost` of each piece (0 for a piece that adds nothing)."""
        table = [[0.0 if block is None else float(cost(block)) for block in row] for row in self.blocks]
        return AdditiveCost(float(cost(self.stem) + cost(self.head)), np.array(table))


class ChainSpace(SearchSpace):
    """A space of chains. A subclass says what stands where; the rest is derived, at array speed."""

    @property
    @abstractmethod
    def allowed(self) -> NDArray[np.bool_]:
        """(genes, choices): which value each gene may have."""

    @property
    @abstractmethod
    def stages(self) -> tuple[range, ...]:
        """The genes of each stage; inside one, all but the first block keep the shape."""

    @property
    @abstractmethod
    def identity(self) -> int:
        """The value that adds nothing where a block keeps the shape."""

    @property
    @abstractmethod
    def steps(self) -> tuple[tuple[int, int], ...]:
        """(value, the value that is one step more complex), of any gene that may have both."""

    @abstractmethod
    def add_stem(self, net: NetworkBuilder, task: Task) -> int: ...

    @abstractmethod
    def add_block(self, net: NetworkBuilder, x: int, gene: int, choice: int, task: Task) -> int:
        """Write the block after layer x; returns x itself where the choice adds nothing."""

    @abstractmethod
    def add_head(self, net: NetworkBuilder, x: int, task: Task) -> int: ...

    @property
    def choices(self) -> tuple[int, ...]:
        return tuple(int(np.flatnonzero(row)[-1]) + 1 for row in self.allowed)

    @property
    def cardinality(self) -> int:
        return math.prod(int(row.sum()) for row in self.allowed)

    def is_valid(self, population: Population) -> NDArray[np.bool_]:
        genes, width = self.allowed.shape
        inside = (population >= 0) & (population < width)
        legal: NDArray[np.bool_] = self.allowed[np.arange(genes), np.where(inside, population, 0)]
        return np.asarray((inside & legal).all(axis=1), dtype=np.bool_)

    def sample(self, n: int, rng: np.random.Generator) -> Population:
        columns = [rng.choice(np.flatnonzero(row), size=n) for row in self.allowed]
        return np.stack(columns, axis=1).astype(np.int64)

    def layers(self, arch: Arch, task: Task) -> Network:
        row = self.row(arch)
        net = NetworkBuilder(task.input_shape, block="stem")
        x = self.add_stem(net, task)
        for gene, choice in enumerate(row):
            net.block = f"{gene + 1} {self.block_name(gene, int(choice))}"
            x = self.add_block(net, x, gene, int(choice), task)
        net.block = "head"
        self.add_head(net, x, task)
        return net.network

    @abstractmethod
    def block_name(self, gene: int, choice: int) -> str:
        """What a drawing writes on the block, such as MB5x5-6."""

    def fragments(self, task: Task) -> Fragments:
        stem = NetworkBuilder(task.input_shape, block="stem")
        shape = stem.shape(self.add_stem(stem, task))
        blocks = []
        for gene, row in enumerate(self.allowed):
            made: list[Network | None] = []
            shape_after = shape
            for choice, is_allowed in enumerate(row):
                net = NetworkBuilder(shape, block=f"{gene + 1} {self.block_name(gene, choice)}" if is_allowed else "")
                x = self.add_block(net, 0, gene, choice, task) if is_allowed else 0
                made.append(net.network if x else None)
                shape_after = net.shape(x) if x else shape_after
            blocks.append(tuple(made))
            shape = shape_after
        head = NetworkBuilder(shape, block="head")
        self.add_head(head, 0, task)
        return Fragments(stem.network, tuple(blocks), head.network)

    def counts(self, population: Population, task: Task) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        pieces = self.fragments(task)
        flops = pieces.additive(lambda network: sum(layer.flops for layer in network))
        params = pieces.additive(lambda network: sum(layer.params for layer in network))
        # Sums of whole numbers below 2^53 are exact in float64.
        return flops.of(population).astype(np.int64), params.of(population).astype(np.int64)

    def tally(self, task: Task) -> Tally:
        pieces = self.fragments(task)
        made = [pieces.stem, *(block for row in pieces.blocks for block in row if block), pieces.head]
        if any(layer.op == "relu" for piece in made for layer in piece):
            return super().tally(task)  # whether a relu is one with a convolution may depend on the block before
        return TallyOfSums((pieces.stem, pieces.head), pieces.blocks)

    @property
    def runs(self) -> tuple[tuple[range, ...], ...]:
        """The stages, those joined whose blocks differ in nothing but the stage that they are written in."""
        return tuple((stage,) for stage in self.stages)

    def canonical(self, population: Population) -> Population:
        """Blocks that add nothing commute with the others of their run: they are moved last. Rows stay valid."""
        moved = population.copy()
        for run in self.runs:
            genes = slice(run[0].start + 1, run[-1].stop)
            adds_nothing = moved[:, genes] == self.identity
            packed = np.take_along_axis(moved[:, genes], np.argsort(adds_nothing, axis=1, kind="stable"), axis=1)
            places = _places(run)[(~adds_nothing).sum(axis=1)]
            moved[:, genes] = np.take_along_axis(packed, places, axis=1)
        return moved

    def simplest(self, k: int, rng: np.random.Generator) -> Population:
        """k different networks, those of fewest steps of growth; which ones of the most steps is drawn."""
        level = self.smallest_row[None]
        found = level
        while len(found) < k and len(level):
            level = np.unique(self.canonical(self.grow(level)), axis=0)
            found = np.concatenate([found, rng.permutation(level)])
        return found[:k]

    def grow(self, population: Population) -> Population:
        """All rows that differ from one of the population by a step of one gene (DESIGN section 5, growth)."""
        children = [population[:0]]
        for before, after in self.steps:
            parent, gene = np.nonzero((population == before) & self.allowed[:, after])
            grown = population[parent]
            grown[np.arange(len(gene)), gene] = after
            children.append(grown)
        return np.concatenate(children)

    def complexity(self, population: Population) -> NDArray[np.int64]:
        """(n, genes) -> (n,): by how many steps each row grows from the smallest."""
        steps = self._steps_to
        return np.asarray(steps[population].sum(axis=1) - steps[self.smallest_row].sum(), dtype=np.int64)

    @cached_property
    def _steps_to(self) -> NDArray[np.int64]:
        """(choices,): how many steps lead to each value from one that none leads to; all ways are as long."""
        steps = np.zeros(self.allowed.shape[1], dtype=np.int64)
        for _ in steps:
            for before, after in self.steps:
                steps[after] = max(steps[after], steps[before] + 1)
        return steps

    @cached_property
    def smallest_row(self) -> NDArray[np.int64]:
        """The row from which all others grow: of each gene the value to which no step leads."""
        is_later = np.zeros_like(self.allowed)
        for before, after in self.steps:
            is_later[:, after] |= self.allowed[:, before]
        return np.asarray((self.allowed & ~is_later).argmax(axis=1), dtype=np.int64)

    @cached_property
    def _stage_of(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.stages)), [len(stage) for stage in self.stages])

    @abstractmethod
    def operation_ids(self) -> tuple[NDArray[np.int64], int]:
        """(genes, choices) kinds of node, numbered from 0, and how many kinds there are."""

    def graphs(self, population: Population) -> GraphBatch:
        """A path: input, one node a gene, output; equal networks have equal graphs.

        Attributes of a node: its stage, one-hot (input and output have none).
        """
        n, genes = population.shape
        ids, kinds = self.operation_ids()
        operations = np.empty((n, genes + 2), dtype=np.int64)
        operations[:, 0], operations[:, -1] = kinds, kinds + 1
        operations[:, 1:-1] = ids[np.arange(genes), self.canonical(population)]
        path = np.eye(genes + 2, k=1, dtype=np.bool_)
        attributes = np.zeros((genes + 2, len(self.stages)), dtype=np.float32)
        attributes[np.arange(1, genes + 1), self._stage_of] = 1.0
        return GraphBatch(
            operations,
            np.broadcast_to(path, (n, *path.shape)),
            np.broadcast_to(attributes, (n, *attributes.shape)),
            kinds + 2,
        )


def _places(run: tuple[range, ...]) -> NDArray[np.int64]:
    """(k + 1, k) for the k genes of a run after its first: [b, i] is which of b blocks stands at gene i, b for none.

    The first gene of each stage is taken first, since it may not be empty; then the others from the left.
    """
    starts = [stage.start for stage in run[1:]]
    genes = range(run[0].start + 1, run[-1].stop)
    order = np.array([*starts, *(gene for gene in genes if gene not in starts)], dtype=np.int64) - genes.start
    places = np.repeat(np.arange(len(genes) + 1)[:, None], len(genes), axis=1)
    for blocks in range(1, len(genes) + 1):
        places[blocks, np.sort(order[:blocks])] = np.arange(blocks)
    return places
