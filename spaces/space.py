"""The one interface of a search space, and the two values that name a network: `Arch` and `Task`."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .derived import graphs_of, network_key
from .errors import InputError
from .graph import GraphBatch
from .layers import AuxiliaryHead, Network
from .tally import Tally, TallyOneByOne

if TYPE_CHECKING:
    from torch import nn

Population = NDArray[np.int64]  # (n, genes)
Rate = float | NDArray[np.float64]  # the chance that a gene changes: one for all, or (genes,)

MAX_REJECTION_ROUNDS = 1000
MAX_ENUMERATED = 100_000  # rows that are looked at one and all to count the valid ones
_GENES = re.compile("[0-9]{1,9}(-[0-9]{1,9})*")


@dataclass(frozen=True, slots=True)
class Task:
    """What a network is for: square images of `resolution` pixels with `channels`, to tell `classes` apart."""

    resolution: int
    classes: int
    channels: int = 3

    def __post_init__(self) -> None:
        for name, least in (("resolution", 1), ("classes", 2), ("channels", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.channels, self.resolution, self.resolution


KEY_TASK = Task(resolution=224, classes=10)  # whose networks are compared and drawn as graphs where no task is given


@dataclass(frozen=True, slots=True)
class Arch:
    """One architecture: the genes of a row, and the full name of the space that gives them meaning."""

    space: str
    genes: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.space}:{'-'.join(map(str, self.genes))}"


class SearchSpace(ABC):
    """What can be built: rows of small integers, and what each row means.

    A space gives `name`, `choices`, `is_valid` and `layers`; all else is derived, and may be replaced by
    something faster: what is derived from layer records looks at one network after another. Rows shorter than the
    longest have -1 in the unused genes, at the end.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The full name, skeleton included, so that `name:genes` names one network."""

    @property
    @abstractmethod
    def choices(self) -> tuple[int, ...]:
        """The number of values of each gene; gene i lies in [0, choices[i])."""

    @abstractmethod
    def is_valid(self, population: Population) -> NDArray[np.bool_]:
        """(n, genes) -> (n,): which rows stand for a network."""

    @abstractmethod
    def layers(self, arch: Arch, task: Task) -> Network:
        """The layer records of one architecture.

        Raises:
            InputError: if the architecture is of another space or not valid.
        """

    def auxiliary(self, arch: Arch, task: Task) -> AuxiliaryHead | None:
        """A second classifier to train beside the network's own, for spaces whose papers have one."""
        del arch, task
        return None

    def in_range(self, population: Population) -> NDArray[np.bool_]:
        """(n, genes) -> (n,): which rows have a value of its own range in every gene, as `is_valid` must ask."""
        inside = (population >= 0) & (population < np.asarray(self.choices))
        return np.asarray(inside.all(axis=1), dtype=np.bool_)

    @property
    def cardinality(self) -> int | None:
        """The number of valid rows: counted one by one where few rows are to be looked at, else None."""
        sizes = [math.prod(self.choices[:length]) for length in range(1, len(self.choices) + 1)]
        if sum(sizes) > MAX_ENUMERATED:
            return None
        found = 0
        for length, size in enumerate(sizes, start=1):
            rows = np.full((size, len(self.choices)), -1, dtype=np.int64)
            rows[:, :length] = np.stack(np.unravel_index(np.arange(size), self.choices[:length]), axis=1)
            found += int(self.is_valid(rows).sum())
        return found

    def sample(self, n: int, rng: np.random.Generator) -> Population:
        """n rows, uniform over the valid ones, with repeats."""
        genes = len(self.choices)
        # How many rows there are of each length, valid or not, as shares of those of full length.
        shares = np.cumprod([1.0, *(1 / np.array(self.choices[:0:-1]))])[::-1]
        kept = np.empty((0, genes), dtype=np.int64)
        for _ in range(MAX_REJECTION_ROUNDS):
            many = max(64, 2 * (n - len(kept)))
            rows = rng.integers(0, self.choices, size=(many, genes))
            lengths = rng.choice(genes, p=shares / shares.sum(), size=many) + 1
            rows[np.arange(genes) >= lengths[:, None]] = -1
            kept = np.concatenate([kept, rows[self.is_valid(rows)]])
            if len(kept) >= n:
                return kept[:n]
        raise InputError(
            f"{self.name}: {len(kept)} of {MAX_REJECTION_ROUNDS} rounds of random rows were valid, {n} are needed",
            hint="give the space a sample() of its own",
        )

    def mutate(self, population: Population, rng: np.random.Generator, *, rate: Rate | None = None) -> Population:
        """Children that differ from their parents in at least one gene and are valid.

        Each gene changes to another of its values with probability `rate` (default: one over the number of
        genes), and one gene always does. A child that is not valid is drawn again; a parent with no valid
        neighbour raises InputError.
        """
        children = population.copy()
        open_rows = np.arange(len(population))
        for _ in range(MAX_REJECTION_ROUNDS):
            if not len(open_rows):
                return children
            drawn = self._mutate_once(population[open_rows], rng, rate)
            good = self.is_valid(drawn) & (drawn != population[open_rows]).any(axis=1)  # the gene drawn may be unused
            children[open_rows[good]] = drawn[good]
            open_rows = open_rows[~good]
        raise InputError(f"{self.name}: no valid mutant of {self.format(population[open_rows[0]])} was found")

    def _mutate_once(self, parents: Population, rng: np.random.Generator, rate: Rate | None) -> Population:
        return change_genes(parents, self.choices, rng, rate)

    def repair(self, vectors: Population) -> Population:
        """Rows of vectors that have a value in every gene, as optimisers write them; they may still not be valid."""
        return vectors

    def crossover(self, mothers: Population, fathers: Population, rng: np.random.Generator) -> Population:
        """Uniform crossover of paired rows; a child that is not valid is drawn again, at last its mother."""
        children = mothers.copy()
        open_rows = np.arange(len(mothers))
        for _ in range(MAX_REJECTION_ROUNDS):
            if not len(open_rows):
                break
            drawn = self._cross_once(mothers[open_rows], fathers[open_rows], rng)
            good = self.is_valid(drawn)
            children[open_rows[good]] = drawn[good]
            open_rows = open_rows[~good]
        return children

    def _cross_once(self, mothers: Population, fathers: Population, rng: np.random.Generator) -> Population:
        return np.where(rng.random(mothers.shape) < 0.5, mothers, fathers)

    def canonical(self, population: Population) -> Population:
        """(n, genes) -> (n, k): rows that are equal if and only if the networks are isomorphic.

        Derived: two columns, `derived.network_key` of each network for images of 224 px.
        """
        rows, places = np.unique(population, axis=0, return_inverse=True)
        keys = np.array([network_key(network) for network in self._networks(rows)], dtype=np.int64)
        return keys.reshape(-1, 2)[places.ravel()]

    def graphs(self, population: Population) -> GraphBatch:
        """The architectures as graphs, for predictors; equal where the networks are isomorphic.

        Derived: `derived.graphs_of` the networks for images of 224 px.
        """
        rows, places = np.unique(population, axis=0, return_inverse=True)
        return graphs_of(self._networks(rows))[places.ravel()]

    def _networks(self, population: Population) -> Iterator[Network]:
        return (self.layers(self.arch(row), KEY_TASK) for row in population)

    def simplest(self, k: int, rng: np.random.Generator) -> Population:
        """Up to k of the simplest rows, for searches that begin there.

        Raises:
            InputError: if the space does not say which ones those are.
        """
        raise InputError(
            f"{self.name} must give simplest() and grow(), which PNAS and EPNAS need, and does not give simplest()",
            hint="write them, or take another strategy",
        )

    def grow(self, population: Population) -> Population:
        """All rows that are one step more complex than one of the rows given.

        Raises:
            InputError: if the space does not say what a step is.
        """
        raise InputError(
            f"{self.name} must give simplest() and grow(), which PNAS and EPNAS need, and does not give grow()",
            hint="write them, or take another strategy",
        )

    def complexity(self, population: Population) -> NDArray[np.int64]:
        """(n, genes) -> (n,): a whole number that every step of growth raises, which tells levels apart.

        Derived: how many genes a row uses. A space whose rows grow without using more genes gives its own.
        """
        return np.asarray((population >= 0).sum(axis=1), dtype=np.int64)

    def counts(self, population: Population, task: Task) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Exact flops (multiply-adds) and parameters of every row, each (n,)."""
        sums = [
            (sum(layer.flops for layer in network), sum(layer.params for layer in network))
            for network in (self.layers(self.arch(row), task) for row in population)
        ]
        flops, params = np.array(sums, dtype=np.int64).reshape(-1, 2).T
        return flops, params

    def tally(self, task: Task) -> Tally:
        """Counts the layers of many networks for a task, by what they do.

        Derived: from layer records, one network after another.
        """
        return TallyOneByOne(self, task)

    def build(self, arch: Arch, task: Task) -> nn.Module:
        """The torch module, with torch's own default weights."""
        from .torch_network import TorchNetwork  # noqa: PLC0415  torch only where networks are built

        return TorchNetwork(self.layers(arch, task))

    def arch(self, row: NDArray[np.int64] | Sequence[int]) -> Arch:
        """The architecture of one row, unused genes left out."""
        return Arch(self.name, tuple(int(gene) for gene in row if gene >= 0))

    def row(self, arch: Arch) -> NDArray[np.int64]:
        """The row of one architecture.

        Raises:
            InputError: if it is of another space, too long, or not valid.
        """
        if arch.space != self.name:
            raise InputError(
                f"this text is of the space {arch.space!r}, not of {self.name!r}: {arch}",
                hint=f"give --space {arch.space}, or an architecture of {self.name}",
            )
        if len(arch.genes) > len(self.choices):
            raise InputError(f"{self.name} has {len(self.choices)} genes, got {len(arch.genes)}: {arch}")
        row = np.full(len(self.choices), -1, dtype=np.int64)
        row[: len(arch.genes)] = arch.genes
        if not self.is_valid(row[None])[0]:
            raise InputError(f"{arch} is not valid: {self.why_invalid(row)}")
        return row

    def why_invalid(self, row: NDArray[np.int64]) -> str:
        """The gene that is wrong in an invalid row and the reason, in words."""
        for gene, (value, size) in enumerate(zip(row, self.choices, strict=True)):
            if value == -1:
                return f"gene {gene} must be in 0..{size - 1}, but is missing"
            if not 0 <= value < size:
                return f"gene {gene} must be in 0..{size - 1}, got {value}"
        return "the genes do not go together"

    def format(self, row: NDArray[np.int64] | Sequence[int]) -> str:
        """The text of one row: the full name of the space, a colon, genes joined by hyphens."""
        return str(self.arch(row))

    def parse(self, text: str) -> Arch:
        """The architecture of a text that `format` wrote.

        Raises:
            InputError: if the text is malformed, of another space, or of no valid architecture.
        """
        arch = parse_arch(text)
        self.row(arch)
        return arch


def change_genes(
    rows: Population, sizes: Sequence[int], rng: np.random.Generator, rate: Rate | None
) -> NDArray[np.int64]:
    """Rows in which every used gene that has `sizes` 2 or more changed with probability `rate`, one for certain.

    The one may be an unused gene, so that nothing changes. The default rate is one over the number of such genes.
    """
    choices = np.asarray(sizes)
    free = np.flatnonzero(choices > 1)
    change = rng.random(rows.shape) < (1 / len(free) if rate is None else rate)
    change[np.arange(len(rows)), rng.choice(free, size=len(rows))] = True
    change &= (choices > 1) & (rows >= 0)
    shift = 1 + rng.integers(0, np.maximum(choices - 1, 1), size=rows.shape)
    return np.where(change, (rows + shift) % choices, rows)


def parse_arch(text: str) -> Arch:
    """Split `SPACE:GENES`, without asking the space whether the genes are valid.

    Raises:
        InputError: if the text does not have that form.
    """
    name, _, genes = text.strip().rpartition(":")
    if not name or not _GENES.fullmatch(genes):
        raise InputError(
            "an architecture is written SPACE:GENES, with whole numbers below a billion joined by hyphens; "
            f"got {text!r}",
            hint="for example proxyless:0-0-6-6-6-0-6-6-6-0-6-6-6-0-6-6-6-0-6-6-6-0",
        )
    return Arch(name, tuple(map(int, genes.split("-"))))
