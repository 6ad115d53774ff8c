"""Which layers networks are made of, counted: layers of one form do the same work, wherever they stand."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .layers import Layer, Network, Pair

if TYPE_CHECKING:
    from .space import Population, SearchSpace, Task

MOST_KNOWN = 200_000  # networks whose counts are remembered
ROWS_AT_ONCE = 1 << 14  # bounds the memory of array work

Counts = NDArray[np.float64]  # whole numbers, as floats because they are multiplied by prices


@dataclass(frozen=True, slots=True)
class LayerForm:
    """All that the cost of a layer may depend on, but for what stands around it.

    Attributes:
        kind: the layer's operation; of convolutions `conv`, `conv1x1`, `depthwise` or `grouped`.
        in_shape: of the inputs together: (channels, height, width) or (features,).
        shape: of the output.
        launches: operations that a runtime starts: the sum of k maps is k - 1 of them.
        flops: multiply-adds.
        elements: numbers that are read and written, weights among them.
    """

    kind: str
    in_shape: tuple[int, ...]
    shape: tuple[int, ...]
    kernel: Pair
    dilation: Pair
    launches: int
    flops: int
    elements: int


def forms_of(network: Network) -> Counter[LayerForm]:
    """How many layers of each form a network has.

    Batch norm and activation of a convolution are part of it; so is a relu that alone reads a convolution, since
    runtimes fuse the two.
    """
    readers = Counter(x for layer in network for x in layer.inputs)
    return Counter(
        _form(network, layer) for layer in network if layer.op != "input" and not _is_fused(network, layer, readers)
    )


def _is_fused(network: Network, layer: Layer, readers: Counter[int]) -> bool:
    if layer.op != "relu":
        return False
    (x,) = layer.inputs
    return network[x].op == "conv" and not network[x].activation and readers[x] == 1


def _form(network: Network, layer: Layer) -> LayerForm:
    shapes = [network[x].shape for x in layer.inputs]
    launches = len(shapes) - 1 if layer.op == "add" else 1
    read = sum(map(math.prod, shapes)) + (launches - 1) * math.prod(layer.shape)  # sums between, read again
    channels = sum(shape[0] for shape in shapes) if layer.op == "concat" else shapes[0][0]
    return LayerForm(
        kind=_kind(layer),
        in_shape=(channels, *shapes[0][1:]),
        shape=layer.shape,
        kernel=layer.kernel,
        dilation=layer.dilation,
        launches=launches,
        flops=layer.flops,
        elements=read + launches * math.prod(layer.shape) + layer.folded_weights,
    )


def _kind(layer: Layer) -> str:
    if layer.op != "conv":
        return layer.op
    if layer.groups > 1:
        return "depthwise" if layer.groups == layer.in_features else "grouped"
    return "conv1x1" if layer.kernel == (1, 1) else "conv"


class Tally(ABC):
    """Counts the layers of many networks of one space and task, by form.

    The forms are numbered as they are met, so that there may be more of them after a call than before it.
    """

    def __init__(self) -> None:
        self._number: dict[LayerForm, int] = {}

    @property
    def forms(self) -> tuple[LayerForm, ...]:
        """All forms met so far."""
        return tuple(self._number)

    def __call__(self, population: Population) -> Counts:
        """(n, genes) -> (n, forms): how many layers of each of `forms` the networks have."""
        starts = range(0, len(population), ROWS_AT_ONCE)
        parts = [self._count(population[start : start + ROWS_AT_ONCE]) for start in starts]
        counts = np.zeros((len(population), len(self._number)))
        for start, part in zip(starts, parts, strict=True):
            counts[start : start + len(part), : part.shape[1]] = part
        return counts

    @abstractmethod
    def _count(self, population: Population) -> Counts:
        """The same for few rows; forms met later may be left out."""

    def _numbered(self, forms: Iterable[LayerForm]) -> list[int]:
        return [self._number.setdefault(form, len(self._number)) for form in forms]

    def _vectors(self, pieces: Iterable[Counter[LayerForm]]) -> Counts:
        """Pieces of networks -> (pieces, forms)."""
        places = [(self._numbered(piece), list(piece.values())) for piece in pieces]
        vectors = np.zeros((len(places), len(self._number)))
        for vector, (numbers, times) in zip(vectors, places, strict=True):
            vector[numbers] = times
        return vectors


class TallyOfSums(Tally):
    """For networks that are put together from pieces, one for each value of each gene."""

    def __init__(self, always: Iterable[Network], pieces: Sequence[Sequence[Network | None]]) -> None:
        """
        Args:
            always: what every network has.
            pieces: [gene][value], None where it adds nothing.
        """
        super().__init__()
        always = tuple(always)
        made = [*always, *(piece or () for row in pieces for piece in row)]
        vectors = self._vectors(forms_of(network) for network in made)
        self._constant = vectors[: len(always)].sum(axis=0)
        self._vectors_of_values = vectors[len(always) :]
        self._starts = np.cumsum([0, *map(len, pieces)])

    def _count(self, population: Population) -> Counts:
        is_there = np.zeros((len(population), self._starts[-1]))
        is_there[np.arange(len(population))[:, None], self._starts[:-1] + population] = 1.0
        return np.asarray(self._constant + is_there @ self._vectors_of_values)


class TallyOneByOne(Tally):
    """From layer records, one network after another, each different row once: where nothing faster is known."""

    def __init__(self, space: SearchSpace, task: Task) -> None:
        super().__init__()
        self._space = space
        self._task = task
        self._known: dict[bytes, Counter[LayerForm]] = {}

    def _count(self, population: Population) -> Counts:
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        rows = np.ascontiguousarray(population)
        keys = [row.tobytes() for row in rows]
        for key, row in zip(keys, rows, strict=True):
            if key not in self._known:
                self._known[key] = forms_of(self._space.layers(self._space.arch(row), self._task))
        return self._vectors(self._known[key] for key in keys)
