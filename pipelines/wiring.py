"""How the parts of a network are wired, each drawn as a small graph: one more reader of the layer records."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spaces import Layer, Network
from spaces.derived import kind_of

from .drawing import INK, MUTED, describe, shade, text

ROW, BOX, GAP, MARGIN = 40.0, 20.0, 12.0, 8.0
LETTER = 6.3  # width of a letter at the size that labels have
TWICE = 5.0
SWEEPS = 12
NAMES = {
    "depthwise": "depthwise",
    "max_pool": "max pool",
    "avg_pool": "mean pool",
    "global_avg_pool": "global mean",
    "add": "+",
    "batch_norm": "batch norm",
}


@dataclass(frozen=True)
class Part:
    """A part of a network, and where it occurs.

    Attributes:
        names: of all blocks that are wired like this one, in order.
        network: the records of the first of them; what it reads from outside are `input` records that carry the name
            of the block it comes from.
    """

    names: tuple[str, ...]
    network: Network


def parts_of(network: Network) -> tuple[Part, ...]:
    """The parts that are no mere rows of operations, those that differ in nothing but sizes taken together."""
    blocks: dict[str, list[int]] = {}
    for position, layer in enumerate(network):
        if layer.op != "input":
            blocks.setdefault(layer.block, []).append(position)
    found: dict[tuple[object, ...], Part] = {}
    for name, positions in blocks.items():
        part = _cut_out(network, positions)
        if _is_row(part):
            continue
        like = found.setdefault(tuple(map(_wiring, part)), Part((), part))
        found[tuple(map(_wiring, part))] = replace(like, names=(*like.names, name))
    return tuple(found.values())


def _cut_out(network: Network, positions: Sequence[int]) -> Network:
    """The records at some positions as a network of their own."""
    inside = set(positions)
    outside = sorted({x for position in positions for x in network[position].inputs} - inside)
    place = {position: i for i, position in enumerate([*outside, *positions])}
    inputs = [Layer("input", (), network[x].shape, block=network[x].block or "image") for x in outside]
    records = [replace(network[p], inputs=tuple(place[x] for x in network[p].inputs)) for p in positions]
    return (*inputs, *records)


def _is_row(network: Network) -> bool:
    """Whether every record reads one other, and none is read twice."""
    reads = Counter(x for layer in network for x in layer.inputs)
    return all(len(layer.inputs) <= 1 for layer in network) and max(reads.values(), default=0) <= 1


def _wiring(layer: Layer) -> tuple[object, ...]:
    """What is the same in equal parts at different depths of a network."""
    return kind_of(layer), layer.inputs, layer.kernel, layer.stride, layer.dilation, layer.activation


def draw_graph(network: Network, label: str) -> str:
    """An SVG element: one box for each record, from inputs down to outputs, and one line for each input of a record.

    The deeper in colour, the larger a box's share of the multiply-adds.
    """
    layout = _Layout(network, [LETTER * len(_name(layer)) + 14 for layer in network])
    left = float((layout.x - layout.width / 2).min()) - MARGIN
    right = float((layout.x + layout.width / 2).max()) + MARGIN
    height = ROW * (layout.rank.max() + 1) + 2 * MARGIN - (ROW - BOX)
    root = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"{left:.1f} 0 {right - left:.1f} {height:.1f}",
            "style": f"max-width: {right - left:.0f}px",
            "class": "wiring",
            "role": "img",
            "aria-label": label,
            "font-size": "11.5",
            "font-family": "system-ui, sans-serif",
        },
    )
    drawn: Counter[tuple[int, int]] = Counter()
    for path in layout.paths:
        aside = TWICE * drawn[path[0], path[-1]]  # a record that reads another twice has two lines to be seen
        drawn[path[0], path[-1]] += 1
        points = [(layout.x[v] + aside, MARGIN + ROW * layout.rank[v]) for v in path]
        ET.SubElement(root, "path", {"class": "edge", "d": _curve(points), "fill": "none", "stroke": MUTED})
    most_flops = max((layer.flops for layer in network), default=0) or 1
    for v, layer in enumerate(network):
        top = MARGIN + ROW * float(layout.rank[v])
        _box(root, layer, float(layout.x[v]), top, float(layout.width[v]), layer.flops / most_flops)
    return ET.tostring(root, encoding="unicode")


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """From the lower edge of the first box through the rows between to the upper edge of the last box."""
    (x, y), *others = points
    y += BOX
    steps = [f"M{x:.1f},{y:.1f}"]
    for i, (to_x, to_y) in enumerate(others):
        middle = (y + to_y) / 2
        steps.append(f"C{x:.1f},{middle:.1f} {to_x:.1f},{middle:.1f} {to_x:.1f},{to_y:.1f}")
        x, y = to_x, to_y
        if i < len(others) - 1:  # past the boxes of this row
            y += BOX
            steps.append(f"V{y:.1f}")
    return " ".join(steps)


def _box(root: ET.Element, layer: Layer, x: float, top: float, width: float, depth: float) -> None:
    is_input = layer.op == "input"
    group = ET.SubElement(root, "g", {"class": "op input" if is_input else "op"})
    size = " × ".join(map(str, layer.shape))
    ET.SubElement(group, "title").text = f"{_name(layer) if is_input else describe(layer)}: {size}"
    rect = {"x": f"{x - width / 2:.1f}", "y": f"{top:.1f}", "width": f"{width:.1f}", "height": f"{BOX:.0f}", "rx": "3"}
    dark = depth > 0.6
    look = {"fill": shade(depth) if layer.flops else "#fff", "stroke": "#5b6b79", "stroke-width": "0.8"}
    ET.SubElement(group, "rect", {**rect, **look, **({"stroke-dasharray": "3 2"} if is_input else {})})
    text(group, x, top + BOX / 2 + 4, _name(layer), anchor="middle", fill="#fff" if dark else INK)


def _name(layer: Layer) -> str:
    kind = kind_of(layer)
    if kind == "input":
        return f"from {layer.block}" if layer.block else "input"
    name = NAMES.get(kind, kind)
    if kind in {"conv", "depthwise", "max_pool", "avg_pool"}:
        name += f" {layer.kernel[0]}×{layer.kernel[1]}"
    return name + (f" /{max(layer.stride)}" if max(layer.stride) > 1 else "")


class _Layout:
    """Where the boxes stand: in rows, every record below all that it reads, with few crossings.

    Attributes:
        rank: (nodes,) row from the top. After the records come the points at which long lines pass a row.
        x, width: (nodes,) centre, and how wide; points at which lines pass have no width.
        paths: of every input of every record, the nodes that its line passes, ends included.

    Source: the layered drawing of Sugiyama, Tagawa and Toda (1981): longest paths, barycentres, then x as near to the
    mean of the neighbours as the order in the row allows.
    """

    def __init__(self, network: Network, widths: Sequence[float]) -> None:
        ranks = self._ranks(network)
        self.paths: list[list[int]] = []
        for v, layer in enumerate(network):
            for u in layer.inputs:
                path = [u]
                for rank in range(ranks[u] + 1, ranks[v]):
                    path.append(len(ranks))
                    ranks.append(rank)
                self.paths.append([*path, v])
        self.rank = np.array(ranks)
        self.width = np.array([*widths, *[0.0] * (len(ranks) - len(widths))])
        self.x = self._place([np.flatnonzero(self.rank == rank) for rank in range(max(ranks) + 1)])

    @staticmethod
    def _ranks(network: Network) -> list[int]:
        ranks: list[int] = []
        for layer in network:
            ranks.append(1 + max((ranks[u] for u in layer.inputs), default=-1))
        for u, layer in enumerate(network):
            below = [ranks[v] for v, reader in enumerate(network) if u in reader.inputs]
            if layer.op == "input" and below:  # as near to its readers as it can be
                ranks[u] = min(below) - 1
        return ranks

    def _place(self, rows: list[NDArray[np.int64]]) -> NDArray[np.float64]:
        neighbours: list[list[list[int]]] = [[[], []] for _ in self.rank]  # above, below
        for path in self.paths:
            for u, v in itertools.pairwise(path):
                neighbours[v][0].append(u)
                neighbours[u][1].append(v)
        x = np.zeros(len(self.rank))
        for row in rows:
            x[row] = self._offsets(row) - self._offsets(row)[-1] / 2
        for sweep in range(SWEEPS):
            side = sweep % 2
            for row in rows if side == 0 else rows[::-1]:
                wanted = np.array([np.mean(x[neighbours[v][side]]) if neighbours[v][side] else x[v] for v in row])
                order = np.argsort(wanted, kind="stable")
                x[row[order]] = _apart(wanted[order], self._offsets(row[order]))
        return x

    def _offsets(self, row: NDArray[np.int64]) -> NDArray[np.float64]:
        """The centres of boxes that stand as close together as they may, the first at 0."""
        width = self.width[row]
        return np.concatenate([[0.0], np.cumsum((width[1:] + width[:-1]) / 2 + GAP)])


def _apart(wanted: NDArray[np.float64], offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """The places nearest to the wanted ones, in least squares, that are no closer than the offsets; `wanted` ascends.

    Less the offsets that is the nearest ascending sequence, found by joining neighbours that pass each other.
    """
    joined: list[tuple[float, int]] = []  # mean, how many
    for value in wanted - offsets:
        mean, number = float(value), 1
        while joined and joined[-1][0] >= mean:
            before, many = joined.pop()
            mean, number = (before * many + mean * number) / (many + number), many + number
        joined.append((mean, number))
    means, numbers = zip(*joined, strict=True)
    return np.asarray(np.repeat(means, numbers) + offsets)
