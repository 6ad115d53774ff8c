"""A network drawn block by block as one SVG picture: one more reader of the layer records."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from spaces import Arch, Network, SearchSpace, Task
from spaces.chain import ChainSpace
from spaces.layers import Layer

WIDTH = 440
ROW, BOX, STRIDE_GAP, TOP = 23, 17, 17, 24
SPINE, WIDEST, NARROWEST = 200, 164, 5  # where the boxes are centred, and how wide they may be
SHAPE_X, SHARE_X = 366, WIDTH - 2  # right ends of the columns of numbers
LONGEST_NAME = 16
PALE, DEEP = (233, 240, 246), (31, 95, 145)  # fill of the least and the most flops
INK, MUTED, RULE = "#1b1f24", "#667079", "#c9d0d6"


@dataclass(frozen=True)
class Block:
    """One part of a network as a reader would name it; without layers where the architecture leaves it out."""

    name: str
    layers: Network

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layers[-1].shape

    @property
    def stride(self) -> int:
        return max((max(layer.stride) for layer in self.layers), default=1)

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers)

    @property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)


def blocks_of(space: SearchSpace, arch: Arch, task: Task) -> tuple[Block, ...]:
    """The blocks of an architecture in order, those of a chain that add nothing included."""
    network = space.layers(arch, task)
    layers: dict[str, list[Layer]] = {}
    for layer in network:
        if layer.op != "input":
            layers.setdefault(layer.block, []).append(layer)
    names = list(layers)
    if isinstance(space, ChainSpace):
        # Zero blocks write no layers, so the records do not name them.
        genes = (f"{i + 1} {space.block_name(i, int(choice))}" for i, choice in enumerate(space.row(arch)))
        names = ["stem", *genes, "head"]
    return tuple(Block(name, tuple(layers.get(name, ()))) for name in names)


def draw_blocks(blocks: tuple[Block, ...]) -> str:
    """An SVG element: one box a block, from the image down to the class scores.

    A box is as wide as its block has output channels and as deep in colour as its share of the flops; a dashed box
    is a block that the architecture leaves out. Strides are written where they happen.
    """
    whole = max(sum(block.flops for block in blocks), 1)
    most_flops = max((block.flops for block in blocks), default=0) or 1
    # The head ends in class scores, which are no channels: they take no part in the scale.
    most_channels = max((b.shape[0] for b in blocks if b.layers and len(b.shape) == 3), default=1)
    height = TOP + sum(ROW + (STRIDE_GAP if block.stride > 1 else 0) for block in blocks) + 2
    root = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {WIDTH} {height}",
            "class": "network",
            "role": "img",
            "aria-label": f"The chosen network in {len(blocks)} blocks",
            "font-size": "11.5",
            "font-family": "system-ui, sans-serif",
        },
    )
    for x, anchor, title in (
        (0, "start", "block"),
        (SPINE, "middle", "output channels"),
        (SHAPE_X, "end", "output"),
        (SHARE_X, "end", "mult-adds"),
    ):
        text(root, x, 11, title, anchor=anchor, fill=MUTED, size="10")
    line = {"x1": str(SPINE), "x2": str(SPINE), "y1": str(TOP), "y2": str(height - ROW / 2), "stroke": RULE}
    ET.SubElement(root, "line", line)
    y, channels = float(TOP), NARROWEST
    for block in blocks:
        if block.stride > 1:
            _stride_mark(root, y, block.stride)
            y += STRIDE_GAP
        if block.layers:
            channels = block.shape[0]
        width = max(NARROWEST, WIDEST * min(channels / most_channels, 1.0))
        _row(root, y, block, width=width, depth=block.flops / most_flops, share=block.flops / whole)
        y += ROW
    return ET.tostring(root, encoding="unicode")


def _row(root: ET.Element, y: float, block: Block, *, width: float, depth: float, share: float) -> None:
    group = ET.SubElement(root, "g", {"class": "block" if block.layers else "block absent"})
    ET.SubElement(group, "title").text = _description(block, share)
    # Nothing to see, but the whole row shows its description, not the letters alone.
    row = {"x": "0", "y": f"{y:.1f}", "width": str(WIDTH), "height": str(ROW), "fill": "#fff", "fill-opacity": "0"}
    ET.SubElement(group, "rect", {"class": "row", **row})
    look = {"fill": shade(depth), "stroke": "#5b6b79"} if block.layers else {"fill": "#fff", "stroke": "#9aa3ab"}
    ET.SubElement(
        group,
        "rect",
        {
            "class": "box",
            "x": f"{SPINE - width / 2:.1f}",
            "y": f"{y + (ROW - BOX) / 2:.1f}",
            "width": f"{width:.1f}",
            "height": str(BOX),
            "rx": "2",
            "stroke-width": "0.8",
            **({} if block.layers else {"stroke-dasharray": "3 2"}),
            **look,
        },
    )
    middle = y + ROW / 2 + 4
    name = block.name or "network"
    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    text(group, 0, middle, short, fill=INK if block.layers else MUTED)
    if block.layers:
        text(group, SHAPE_X, middle, " × ".join(map(str, block.shape)), anchor="end", role="shape")
        text(group, SHARE_X, middle, f"{100 * share:.1f} %", anchor="end", role="share")


def _stride_mark(root: ET.Element, y: float, stride: int) -> None:
    middle = y + STRIDE_GAP / 2
    for x1, x2 in ((52, SPINE - 5), (SPINE + 5, WIDTH)):
        line = {"x1": str(x1), "x2": str(x2), "y1": f"{middle:.1f}", "y2": f"{middle:.1f}", "stroke": RULE}
        ET.SubElement(root, "line", {**line, "stroke-dasharray": "1 2"})
    arrow = f"M{SPINE - 4},{middle - 2:.1f} L{SPINE},{middle + 3:.1f} L{SPINE + 4},{middle - 2:.1f}"
    ET.SubElement(root, "path", {"d": arrow, "fill": "none", "stroke": MUTED})
    text(root, 0, middle + 3.5, f"stride {stride}", fill=MUTED, size="10", role="stride")


def text(
    parent: ET.Element,
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    fill: str = INK,
    size: str = "",
    role: str = "",
) -> None:
    """Add a line of text."""
    given = {"class": role, "text-anchor": anchor if anchor != "start" else "", "font-size": size}
    where = {"x": f"{x:g}", "y": f"{y:g}", "fill": fill}
    ET.SubElement(parent, "text", {**where, **{key: value for key, value in given.items() if value}}).text = words


def shade(depth: float) -> str:
    """The colour of a share of the multiply-adds, from 0 to 1."""
    return "#" + "".join(f"{round(a + (b - a) * depth):02x}" for a, b in zip(PALE, DEEP, strict=True))


def _description(block: Block, share: float) -> str:
    if not block.layers:
        return f"{block.name}: left out, the map goes on as it is"
    return (
        f"{block.name}: output {' × '.join(map(str, block.shape))}; {block.flops:,} multiply-adds "
        f"({100 * share:.1f} %), {block.params:,} parameters; {', '.join(map(describe, block.layers))}"
    )


def describe(layer: Layer) -> str:
    """An operation in words."""
    if layer.op == "linear":
        return f"linear to {layer.shape[0]}"
    if layer.op not in {"conv", "max_pool", "avg_pool"}:
        return {"global_avg_pool": "mean over the map", "add": "sum"}.get(layer.op, layer.op.replace("_", " "))
    depthwise = layer.op == "conv" and layer.groups == layer.in_features > 1
    name = "depthwise conv" if depthwise else layer.op.replace("_", " ")
    stride = f" stride {max(layer.stride)}" if max(layer.stride) > 1 else ""
    return f"{name} {layer.kernel[0]}x{layer.kernel[1]}{stride} to {layer.shape[0]}"
