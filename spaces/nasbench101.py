"""NAS-Bench-101: cells of up to 7 vertices and 9 edges, stacked on a skeleton of their own.

Source: Ying et al., NAS-Bench-101, 1902.09635; skeleton and channel rules as the released code
(google-research/nasbench, `model_builder.py`) has them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .graph import GraphBatch
from .layers import Network, NetworkBuilder
from .space import Arch, Population, Rate, SearchSpace, Task
from .subgraphs import LargerCells
from .tally import Tally
from .vertex_tally import VertexTally

OPERATIONS = ("conv3x3", "conv1x1", "maxpool3x3")  # convolutions are followed by batch norm and ReLU
CONV3X3, CONV1X1, _ = range(len(OPERATIONS))
INTERIOR = 5  # most vertices between input and output
OUTPUT = INTERIOR + 1  # the output's place in adjacency matrices, however few vertices stand before it
MAX_EDGES = 9
NARROWEST_STEM = 4  # vertices share a cell's channels, and a fifth beside four at the output would be a tenth edge
CHUNK = 2048  # rows whose 120 orders are compared at once, small enough for the cache


def _genes() -> list[tuple[int, tuple[int, int] | None]]:
    """For each gene the vertex that it belongs to, and its edge (None where it is the vertex's operation)."""
    genes: list[tuple[int, tuple[int, int] | None]] = [(0, (0, OUTPUT))]
    for v in range(1, OUTPUT):
        genes += [(v, None), *((v, (u, v)) for u in range(v)), (v, (v, OUTPUT))]
    return genes


_VERTEX = np.array([vertex for vertex, _ in _genes()])
_IS_OPERATION = np.array([edge is None for _, edge in _genes()])
_OPERATION_GENES, _EDGE_GENES = np.flatnonzero(_IS_OPERATION), np.flatnonzero(~_IS_OPERATION)
_SOURCES, _TARGETS = np.array([edge for _, edge in _genes() if edge is not None]).T
# Chances of a change of each gene in the evolution that NAS-Bench-101 was released with (its notebook, `mutate_spec`).
RELEASED_RATES = np.where(_IS_OPERATION, 1 / INTERIOR, 1 / (OUTPUT + 1))
_LENGTHS = np.searchsorted(_VERTEX, np.arange(OUTPUT), side="right")  # genes of a cell with 0, 1, ... vertices inside
_OUT_GENES = _LENGTHS - 1  # the edge to the output of the input and of each vertex inside


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Stacks, cells in each, and channels of the stem; each stack after the first halves the map and doubles them."""

    stacks: int = 3
    cells: int = 3
    stem: int = 128


def parse_skeleton(text: str) -> Skeleton:
    """`""` (the paper's 3x3x128) or `STACKSxCELLSxSTEM`.

    Raises:
        InputError: if it is neither.
    """
    if not text:
        return Skeleton()
    match = re.fullmatch("([1-9])x([1-9][0-9]?)x([1-9][0-9]{0,3})", text)
    if not match or int(match.group(3)) < NARROWEST_STEM:
        raise InputError(
            "a skeleton of nasbench101 is STACKSxCELLSxSTEM: 1 to 9 stacks, 1 to 99 cells in each, "
            f"{NARROWEST_STEM} to 9999 channels of the stem; got {text!r}",
            hint="for example nasbench101@3x3x128, which is the paper's, or nasbench101@2x1x16",
        )
    return Skeleton(*map(int, match.groups()))


@dataclass(frozen=True)
class NASBench101Space(SearchSpace):
    """Rows: the edge from input to output; then, vertex by vertex, an operation and the vertex's edges.

    The genes of interior vertex v are its operation (an index of `OPERATIONS`), its edges from the input and from
    vertices 1 to v - 1, and its edge to the output; an edge is 0 or 1. Cells of 2 to 7 vertices so have 1, 4, 8, 13,
    19 or 26 genes, and -1 in the others.

    A row is valid if it has at most 9 edges and is minimal: every vertex lies on a path from input to output. What
    does not is dead for the output; `pruned` takes it away. `canonical` does too: its keys are the same for a row with
    dead vertices and without them. They are valid rows, those that the released table lists: of all orders of the
    vertices the one whose edges, then operations, come first when the released generator counts through them. The
    order decides which vertices get the channels that are left when a cell's channels do not divide evenly, so
    networks are built from the key: isomorphic rows are one network, as in the table.

    `skeleton` is the text after the @ of the space's name.
    """

    skeleton: str = ""

    def __post_init__(self) -> None:
        parse_skeleton(self.skeleton)

    @cached_property
    def shape(self) -> Skeleton:
        return parse_skeleton(self.skeleton)

    @property
    def name(self) -> str:
        return f"nasbench101@{self.skeleton}" if self.skeleton else "nasbench101"

    @property
    def choices(self) -> tuple[int, ...]:
        return tuple(len(OPERATIONS) if is_operation else 2 for is_operation in _IS_OPERATION)

    @property
    def cardinality(self) -> int:
        return int(_last_numbers()[-1])

    def is_valid(self, population: Population) -> NDArray[np.bool_]:
        used = population >= 0
        length = used.sum(axis=1)
        well_formed = np.isin(length, _LENGTHS) & (used == (np.arange(len(_VERTEX)) < length[:, None])).all(axis=1)
        well_formed &= ((population >= -1) & (population < np.array(self.choices))).all(axis=1)
        edges = _adjacency(population)
        few_edges = edges.sum(axis=(1, 2)) <= MAX_EDGES
        # In an acyclic cell, whoever follows edges back comes to the input, and forth to the output.
        enters, leaves = np.asarray(edges.any(axis=1)), np.asarray(edges.any(axis=2))
        absent = population[:, _OPERATION_GENES] < 0
        alive = ((enters[:, 1:OUTPUT] & leaves[:, 1:OUTPUT]) | absent).all(axis=1) & enters[:, OUTPUT]
        return np.asarray(well_formed & few_edges & alive, dtype=np.bool_)

    def why_invalid(self, row: NDArray[np.int64]) -> str:
        length = int((row >= 0).sum())
        for gene, (value, size) in enumerate(zip(row, self.choices, strict=True)):
            missing = value == -1 and (gene < length or length not in _LENGTHS)
            if missing:
                return f"gene {gene} ({_describe(gene)}) is missing: a cell has {_either(_LENGTHS)} genes, got {length}"
            if not -1 <= value < size:
                return f"gene {gene} ({_describe(gene)}) must be in 0..{size - 1}, got {value}"
        edges = _EDGE_GENES[row[_EDGE_GENES] == 1]
        if len(edges) > MAX_EDGES:
            last = edges[MAX_EDGES]
            return (
                f"a cell has at most {MAX_EDGES} edges, got {len(edges)}: gene {last} ({_describe(last)}) is one more"
            )
        return _why_dead(row)

    def sample(self, n: int, rng: np.random.Generator) -> Population:
        """n rows, uniform over the valid ones, with repeats: a cell is as likely as its vertices have orders."""
        return self.numbered(rng.integers(0, self.cardinality, size=n))

    def numbered(self, numbers: NDArray[np.int64]) -> Population:
        """Rows (n, genes) by number (n,), in [0, cardinality): each valid row has one, smaller cells the lower ones."""
        last = _last_numbers()
        shape = np.searchsorted(last, numbers, side="right")
        rest = numbers - np.concatenate([[0], last])[shape]
        rows = _shapes()[shape]
        digits = rest[:, None] // len(OPERATIONS) ** np.arange(INTERIOR) % len(OPERATIONS)
        present = rows[:, _OPERATION_GENES] >= 0
        rows[:, _OPERATION_GENES] = np.where(present, digits, -1)
        return rows

    def of_size(self, vertices: int) -> Population:
        """All valid rows of cells with exactly so many vertices (2 to 7), input and output counted."""
        ends = np.searchsorted((_shapes() >= 0).sum(axis=1), _LENGTHS[vertices - 2] + np.array([0, 1]))
        first, last = np.concatenate([[0], _last_numbers()])[ends]
        return self.numbered(np.arange(first, last))

    def _mutate_once(self, parents: Population, rng: np.random.Generator, rate: Rate | None) -> Population:
        """Genes of the parent on all 7 vertices change: those that it lacks hang dead on others, at random places."""
        return pruned(super()._mutate_once(_with_dead_vertices(parents, rng), rng, rate))

    def repair(self, vectors: Population) -> Population:
        """Cells of all 7 vertices without what is dead in them."""
        return pruned(vectors)

    def _cross_once(self, mothers: Population, fathers: Population, rng: np.random.Generator) -> Population:
        """A vertex that one parent lacks has, on its side, the other's operation and no edges."""
        lent = np.where(_IS_OPERATION, np.maximum(np.maximum(mothers, fathers), 0), 0)  # read where one has a -1
        mothers, fathers = (np.where(parents >= 0, parents, lent) for parents in (mothers, fathers))
        return pruned(super()._cross_once(mothers, fathers, rng))

    def canonical(self, population: Population) -> Population:
        """Valid rows, equal if and only if the cells are isomorphic once what is dead is taken away."""
        keys = [_least_order(population[i : i + CHUNK]) for i in range(0, len(population), CHUNK)]
        return np.concatenate([population[:0], *keys])

    def simplest(self, k: int, rng: np.random.Generator) -> Population:
        """k different cells, the ones of fewest vertices; which ones of the largest size is drawn."""
        found = np.empty((0, len(_VERTEX)), dtype=np.int64)
        for vertices in range(2, OUTPUT + 2):
            if len(found) < k:
                cells = np.unique(self.canonical(self.of_size(vertices)), axis=0)
                found = np.concatenate([found, rng.permutation(cells)])
        return found[:k]

    def grow(self, population: Population) -> Population:
        """All cells with one vertex more that come last before the output. Largest cells have no children.

        The new vertex reads any of the others; of those that it reads, each that led to the output goes on to do so
        or not. Every valid row so is the child of another, down to the single edge from input to output.
        """
        shapes = _with_another_vertex(population)
        children = np.repeat(shapes, len(OPERATIONS), axis=0)
        newest = _OPERATION_GENES[(children[:, _OPERATION_GENES] >= 0).sum(axis=1) - 1]
        children[np.arange(len(children)), newest] = np.tile(np.arange(len(OPERATIONS)), len(shapes))
        return children

    def complexity(self, population: Population) -> NDArray[np.int64]:
        """(n, genes) -> (n,) vertices, input and output counted."""
        return np.asarray((population[:, _OPERATION_GENES] >= 0).sum(axis=1) + 2, dtype=np.int64)

    def larger(self, rows: Population) -> Callable[[Population], NDArray[np.bool_]]:
        """What tells which of `rows` hold a cell of a population as a subgraph and have one vertex more.

        Growth among few cells: of the children that `grow` gives most would be missing.
        """
        index = LargerCells(*_alive(rows))
        return lambda population: index.find(*_alive(population))

    def graphs(self, population: Population) -> GraphBatch:
        """Input, vertices inside, output, as the canonical row has them; nodes have no attributes."""
        rows = self.canonical(population)
        operations = rows[:, _OPERATION_GENES]
        inside = (operations >= 0).sum(axis=1)
        n, nodes = len(rows), OUTPUT + 1
        whole = np.full((n, nodes), -1, dtype=np.int64)
        whole[:, 0] = len(OPERATIONS)
        whole[:, 1:OUTPUT] = operations
        whole[np.arange(n), inside + 1] = len(OPERATIONS) + 1
        places = np.arange(nodes) - (np.arange(nodes) > inside[:, None] + 1)  # the output moves before absent vertices
        places[np.arange(n), inside + 1] = OUTPUT
        edges = _reordered(_adjacency(rows), places)
        return GraphBatch(whole, edges, np.zeros((n, nodes, 0), dtype=np.float32), len(OPERATIONS) + 2)

    def layers(self, arch: Arch, task: Task) -> Network:
        (row,) = self.canonical(self.row(arch)[None])
        net = NetworkBuilder(task.input_shape, block="stem")
        x = net.conv(0, self.shape.stem, kernel=3, activation="relu")
        for stack in range(self.shape.stacks):
            if stack:
                net.block = f"pool {stack}"
                x = net.pool(x, kind="max_pool", kernel=2, stride=2)
            for cell in range(self.shape.cells):
                net.block = f"stack {stack + 1} cell {cell + 1}"
                x = _add_cell(net, x, row, self.shape.stem << stack)
        net.block = "head"
        net.classifier(x, classes=task.classes)
        return net.network

    def counts(self, population: Population, task: Task) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = self.canonical(population)
        operations, edges = rows[:, _OPERATION_GENES], _adjacency(rows)
        # Cells of one edge are one convolution each, so that network shows what comes into every cell and goes out.
        skeleton = self.layers(self.arch([1]), task)
        ends = [layer for layer in skeleton if layer.block in ("stem", "head")]
        cells = [layer for layer in skeleton if layer.op == "conv" and layer not in ends]
        flops = np.full(len(rows), sum(layer.flops for layer in ends))
        params = np.full(len(rows), sum(layer.params for layer in ends))
        for (enter, leave, pixels), times in Counter(
            (c.in_features, c.shape[0], c.shape[1] * c.shape[2]) for c in cells
        ).items():
            weights, normed = _cell_weights(operations, edges, enter, leave)
            flops += times * pixels * weights
            params += times * (weights + 2 * normed)
        return flops, params

    def tally(self, task: Task) -> Tally:
        skeleton = self.layers(self.arch([1]), task)
        return VertexTally(skeleton, self._cells, vertex_widths, _add_operation)

    def _cells(self, population: Population) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Operations (n, 5), -1 for absent vertices, and edges (n, 7, 7) of the cells as they are built."""
        rows = self.canonical(population)
        return rows[:, _OPERATION_GENES], _adjacency(rows)


def pruned(population: Population) -> Population:
    """Rows without the vertices that lie on no path from input to output; the others keep their order.

    Of a row whose input is not connected to its output nothing is left but the missing edge between them.
    """
    operations, edges = _alive(population)
    dead = operations < 0
    order = np.argsort(dead, axis=1, kind="stable")
    edges = _reordered(edges, _between_ends(order))
    return _rows(np.take_along_axis(operations, order, axis=1), edges[:, _SOURCES, _TARGETS])


def rows_from_bits(adjacency_bits: NDArray[np.int64], op_codes: Sequence[str]) -> Population:
    """Rows of cells as tables list them.

    Args:
        adjacency_bits: (n,) integers; bit x + y (y - 1) / 2 is the edge from vertex x to vertex y, input and output
            counted.
        op_codes: n texts, one digit (an index of `OPERATIONS`) for each vertex inside.
    Raises:
        InputError: if the two do not fit together, or a cell is not valid.
    """
    texts = np.array(op_codes, dtype=f"S{INTERIOR + 1}")
    digits = texts.view(np.uint8).reshape(len(texts), INTERIOR + 1).astype(np.int64) - ord("0")
    operations = np.where(digits == -ord("0"), -1, digits)[:, :INTERIOR]
    inside = np.char.str_len(texts)
    if len(adjacency_bits) != len(texts) or (inside > INTERIOR).any():
        raise InputError(
            f"every cell needs its adjacency bits and at most {INTERIOR} operations, "
            f"got {len(adjacency_bits)} cells and {len(texts)} texts of up to {inside.max(initial=0)} operations"
        )
    to_output = np.where(_TARGETS == OUTPUT, inside[:, None] + 1, _TARGETS)
    edges = adjacency_bits[:, None] >> _bit(_SOURCES, to_output) & 1
    rows = _rows(operations, np.where(inside[:, None] >= _VERTEX[_EDGE_GENES], edges, 0))
    space = NASBench101Space()
    bad = np.flatnonzero(~space.is_valid(rows))
    if len(bad):
        raise InputError(f"cell {bad[0]} is not valid: {space.why_invalid(rows[bad[0]])}")
    return rows


def vertex_widths(edges: NDArray[np.bool_], channels: int) -> NDArray[np.int64]:
    """(n, 7, 7) edges -> (n, 5) channels of the vertices inside a cell that gives `channels`; 0 for absent ones.

    Vertices before the output share its channels, the first of them one more each where they do not divide evenly;
    another vertex has as many as the widest that it leads to.

    Source: `compute_vertex_channels` of the released code.
    """
    to_output = edges[:, 1:OUTPUT, OUTPUT]
    share, left = np.divmod(channels, np.maximum(to_output.sum(axis=1, keepdims=True), 1))
    widths = np.where(to_output, share + (np.cumsum(to_output, axis=1) <= left), 0)
    for v in reversed(range(INTERIOR)):
        widest = (edges[:, 1 + v, 1:OUTPUT] * widths).max(axis=1)
        widths[:, v] = np.where(to_output[:, v], widths[:, v], widest)
    return widths


def _cell_weights(
    operations: NDArray[np.int64], edges: NDArray[np.bool_], enter: int, leave: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n,) weights of all convolutions of a cell, and (n,) channels that go through a batch norm."""
    widths = vertex_widths(edges, leave)
    projected = (edges[:, 0, 1:OUTPUT] * widths).sum(axis=1) + leave * edges[:, 0, OUTPUT]
    area = 9 * (operations == CONV3X3) + (operations == CONV1X1)
    return (area * widths**2).sum(axis=1) + enter * projected, ((area > 0) * widths).sum(axis=1) + projected


def _add_cell(net: NetworkBuilder, x: int, row: NDArray[np.int64], channels: int) -> int:
    """Inputs of a vertex are added, first cut to its channels; the cell's input is projected by a 1x1 convolution."""
    operations, (edges,) = row[_OPERATION_GENES], _adjacency(row[None])
    (widths,) = vertex_widths(edges[None], channels).tolist()
    outputs: dict[int, int] = {}
    for v in range(1, 1 + int((operations >= 0).sum())):
        width, operation = widths[v - 1], operations[v - 1]
        inputs = [net.first_channels(outputs[u], width) for u in range(1, v) if edges[u, v]]
        if edges[0, v]:
            inputs.append(net.conv(x, width, activation="relu"))
        y = net.add(inputs) if len(inputs) > 1 else inputs[0]
        outputs[v] = _add_operation(net, int(operation), width, y)
    last = [y for v, y in outputs.items() if edges[v, OUTPUT]]
    if edges[0, OUTPUT]:
        projection = net.conv(x, channels, activation="relu")
        if not last:
            return projection
        return net.add((net.concat(last) if len(last) > 1 else last[0], projection))
    return net.concat(last) if len(last) > 1 else last[0]


def _add_operation(net: NetworkBuilder, operation: int, width: int, x: int = 0) -> int:
    if operation in (CONV3X3, CONV1X1):
        return net.conv(x, width, kernel=3 if operation == CONV3X3 else 1, activation="relu")
    return net.pool(x, kind="max_pool")


def _adjacency(population: Population) -> NDArray[np.bool_]:
    """(n, genes) -> (n, 7, 7): [i, u, v] is the edge u -> v; the output is vertex 6 in cells of every size."""
    edges = np.zeros((len(population), OUTPUT + 1, OUTPUT + 1), dtype=np.bool_)
    edges[:, _SOURCES, _TARGETS] = population[:, _EDGE_GENES] == 1
    return edges


def _alive(population: Population) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Operations (n, 5), -1 for vertices that are absent or dead, and the edges (n, 7, 7) between the others."""
    edges = _adjacency(population)
    reached, reaches = np.zeros((2, len(population), OUTPUT + 1), dtype=np.bool_)
    reached[:, 0] = reaches[:, OUTPUT] = True
    for v in range(1, OUTPUT + 1):
        reached[:, v] = (reached[:, :v] & edges[:, :v, v]).any(axis=1)
        u = OUTPUT - v
        reaches[:, u] = (reaches[:, u + 1 :] & edges[:, u, u + 1 :]).any(axis=1)
    alive = reached & reaches
    operations = np.where(alive[:, 1:OUTPUT], population[:, _OPERATION_GENES], -1)
    return operations, edges & alive[:, :, None] & alive[:, None, :]


def _rows(operations: NDArray[np.int64], edges: NDArray[np.integer] | NDArray[np.bool_]) -> Population:
    """Operations (n, 5), -1 for absent vertices, and edges (n, 21) in the order of their genes -> (n, genes)."""
    rows = np.empty((len(operations), len(_VERTEX)), dtype=np.int64)
    rows[:, _OPERATION_GENES], rows[:, _EDGE_GENES] = operations, edges
    rows[:, 1:][operations[:, _VERTEX[1:] - 1] < 0] = -1
    return rows


def _between_ends(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 5) order of the vertices inside, counted from 0 -> (n, 7) order of all."""
    return np.pad(order + 1, ((0, 0), (1, 1)), constant_values=((0, 0), (0, OUTPUT)))


def _reordered(edges: NDArray[np.bool_], order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n, 7, 7) edges after the vertices are put in the order (n, 7)."""
    return edges[np.arange(len(edges))[:, None, None], order[:, :, None], order[:, None, :]]


def _bit(source: NDArray[np.int64], target: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of an edge among all edges, as the released generator of cells counts through them."""
    return source + target * (target - 1) // 2


def _least_order(population: Population) -> Population:
    """The order of each row's vertices that codes it by the least number, as a row."""
    operations, edges = _alive(population)
    powers = 1 << np.arange(INTERIOR)
    inside = edges[:, 1:OUTPUT, 1:OUTPUT] @ powers
    value = (operations & 3) + 4 * edges[:, 0, 1:OUTPUT] + 8 * edges[:, 1:OUTPUT, OUTPUT] + 16 * inside
    tables = _code_tables()
    codes = tables[0, value[:, 0]]
    for v in range(1, INTERIOR):
        codes += tables[v, value[:, v]]
    least = codes.min(axis=1)[:, None]
    kinds = least >> _operation_shift(np.arange(INTERIOR)) & 3
    bits = least >> _edge_shift(_SOURCES, _TARGETS) & 1
    bits[:, 0] = edges[:, 0, OUTPUT]
    return _rows(np.where(kinds == 3, -1, kinds), bits)


@cache
def _code_tables() -> NDArray[np.int64]:
    """(5, 512, 120): what each vertex adds to a cell's code, by its operation and edges, in each order of the vertices.

    A code holds, from its highest bits: edges that lead backwards, absent vertices before present ones (the least
    code has neither), the edges, and the operations from the first vertex on.
    """
    places = np.array(list(permutations(range(INTERIOR)))).T  # (5, 120): of each vertex
    value = np.arange(512)[:, None]
    absent = (value & 3) == 3
    tables = np.empty((INTERIOR, 512, places.shape[1]), dtype=np.int64)
    for v, place in enumerate(places):
        tables[v] = ((value & 3) << _operation_shift(place)) + (absent * (INTERIOR - place) << 32)
        tables[v] += (value >> 2 & 1) << _edge_shift(np.zeros_like(place), place + 1)
        tables[v] += (value >> 3 & 1) << _edge_shift(place + 1, np.full_like(place, OUTPUT))
        for w, other in enumerate(places):
            shift = np.where(other > place, _edge_shift(place + 1, np.maximum(other, place) + 1), 40)
            tables[v] += (value >> (4 + w) & 1) << shift
    return tables


def _operation_shift(place: NDArray[np.int64]) -> NDArray[np.int64]:
    return 2 * (INTERIOR - 1 - place)


def _edge_shift(source: NDArray[np.int64], target: NDArray[np.int64]) -> NDArray[np.int64]:
    return 2 * INTERIOR + _bit(source, target)


@cache
def _shapes() -> Population:
    """All valid rows with the first operation everywhere, those of fewer vertices first."""
    sizes = [np.where(_VERTEX == 0, 1, -1)[None]]
    for _ in range(INTERIOR):
        sizes.append(np.unique(_with_another_vertex(sizes[-1]), axis=0))
    return np.concatenate(sizes)


@cache
def _last_numbers() -> NDArray[np.int64]:
    """(shapes,): how many valid rows have this shape or one before it."""
    inside = (_shapes()[:, _OPERATION_GENES] >= 0).sum(axis=1)
    return np.cumsum(len(OPERATIONS) ** inside)


def _with_another_vertex(population: Population) -> Population:
    """See `NASBench101Space.grow`; the new vertex has the first operation."""
    inside = (population[:, _OPERATION_GENES] >= 0).sum(axis=1)
    return np.concatenate([population[:0], *(_appended(population[inside == k], k) for k in range(INTERIOR))])


def _appended(parents: Population, inside: int) -> Population:
    """`_with_another_vertex` for cells that all have `inside` vertices inside."""
    # What each vertex before does: is not read, is read, or is read and no longer leads to the output.
    ways = np.array(list(product(range(3), repeat=inside + 1)))[1:]
    reads, leaves = ways > 0, ways == 2
    out_genes = _OUT_GENES[: inside + 1]
    edges = (parents[:, _EDGE_GENES] == 1).sum(axis=1)[:, None] + 1 + (ways == 1).sum(axis=1)
    can_leave = ((parents[:, None, out_genes] == 1) | ~leaves).all(axis=2)
    parent, way = np.nonzero((edges <= MAX_EDGES) & can_leave)
    children = parents[parent]
    children[:, out_genes] -= leaves[way]
    start, end = _LENGTHS[inside], _LENGTHS[inside + 1]
    children[:, start], children[:, start + 1 : end - 1], children[:, end - 1] = 0, reads[way], 1
    return children


def _with_dead_vertices(population: Population, rng: np.random.Generator) -> Population:
    """Rows of all 7 vertices: each absent one is put at a random place, reads one vertex before it and is not read."""
    operations, edges = _alive(population)
    inside = (operations >= 0).sum(axis=1, keepdims=True)
    is_old = rng.permuted(np.broadcast_to(np.arange(INTERIOR), operations.shape), axis=1) < inside
    order = np.where(is_old, np.cumsum(is_old, axis=1) - 1, inside + np.cumsum(~is_old, axis=1) - 1)
    edges = _reordered(edges, _between_ends(order))
    read = rng.integers(0, np.arange(1, OUTPUT), size=operations.shape)
    row, place = np.nonzero(~is_old)
    edges[row, read[row, place], place + 1] = True
    drawn = rng.integers(0, len(OPERATIONS), size=operations.shape)
    return _rows(np.where(is_old, np.take_along_axis(operations, order, axis=1), drawn), edges[:, _SOURCES, _TARGETS])


def _describe(gene: int) -> str:
    vertex, edge = _genes()[gene]
    if edge is None:
        return f"operation of vertex {vertex}"
    source, target = ("input" if end == 0 else "output" if end == OUTPUT else f"vertex {end}" for end in edge)
    return f"edge from {source} to {target}"


def _either(values: NDArray[np.int64]) -> str:
    return ", ".join(map(str, values[:-1])) + f" or {values[-1]}"


def _why_dead(row: NDArray[np.int64]) -> str:
    (edges,) = _adjacency(row[None])
    for v, gene in enumerate(_OPERATION_GENES, start=1):
        for side, connected in (("to it", edges[:, v].any()), ("from it", edges[v].any())):
            if row[gene] >= 0 and not connected:
                return (
                    f"every vertex must lie on a path from input to output, but vertex {v} "
                    f"(genes {gene} to {_OUT_GENES[v]}) has no edge {side}"
                )
    return "gene 0 (edge from input to output) must be 1 in a cell without other vertices"
