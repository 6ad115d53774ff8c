"""The drawing of a graph, read back from its SVG."""

import random
import re
import xml.etree.ElementTree as ET
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipelines.wiring import draw_graph, parts_of
from spaces import NetworkBuilder, Task, get_space
from spaces.derived import network_key

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "my_space.py"
SVG = "{http://www.w3.org/2000/svg}"


def random_network(seed: int, size: int):
    rng, net = random.Random(seed), NetworkBuilder((8, 16, 16), block="stem")
    for i in range(size):
        net.block = f"part {i // 7}"
        last = len(net.layers) - 1
        reads = [rng.randint(max(0, last - 9), last) for _ in range(3)]
        kind = rng.choice(["conv", "depthwise", "add", "pool", "relu", "add"])
        if kind == "conv":
            net.conv(reads[0], 8, kernel=3)
        elif kind == "depthwise":
            net.depthwise(reads[0], kernel=5)
        elif kind == "add":
            net.add(reads[: rng.choice([2, 3])])
        elif kind == "pool":
            net.pool(reads[0], kind="max_pool")
        else:
            net.relu(reads[0])
    net.classifier(net.concat([len(net.layers) - 1, 0]), classes=5)
    return net.network


def boxes_of(root: ET.Element) -> list[tuple[float, float, float, float]]:
    """x, y, width, height of every operation, in the order of the records."""
    rects = [group.find(f"{SVG}rect") for group in root.iter(f"{SVG}g")]
    return [tuple(float(rect.get(key)) for key in ("x", "y", "width", "height")) for rect in rects]


def ends_of(path: str) -> tuple[tuple[float, float], tuple[float, float]]:
    points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", path)
    return tuple(map(float, points[0])), tuple(map(float, points[-1]))


@pytest.mark.parametrize(("seed", "size"), [(0, 5), (1, 12), (2, 30), (3, 60), (4, 90)])
def test_the_picture_holds_each_operation_and_each_input(seed, size):
    network = random_network(seed, size)
    root = ET.fromstring(draw_graph(network, "a <network>"))
    assert root.get("aria-label") == "a <network>"
    boxes = boxes_of(root)
    assert len(boxes) == len(network)
    edges = Counter()
    for path in root.iter(f"{SVG}path"):
        (x0, y0), (x1, y1) = ends_of(path.get("d"))
        assert y0 < y1  # from inputs down
        (start,) = [i for i, (x, y, w, h) in enumerate(boxes) if x <= x0 <= x + w and abs(y + h - y0) < 0.11]
        (end,) = [i for i, (x, y, w, _) in enumerate(boxes) if x <= x1 <= x + w and abs(y - y1) < 0.11]
        edges[start, end] += 1
    assert edges == Counter((x, position) for position, layer in enumerate(network) for x in layer.inputs)


@pytest.mark.parametrize(("seed", "size"), [(0, 5), (2, 30), (4, 90)])
def test_boxes_do_not_overlap_and_lie_inside(seed, size):
    root = ET.fromstring(draw_graph(random_network(seed, size), "network"))
    left, top, width, height = map(float, root.get("viewBox").split())
    rows: dict = {}
    for x, y, w, h in boxes_of(root):
        assert left <= x
        assert x + w <= left + width + 0.2
        assert top <= y
        assert y + h <= top + height
        rows.setdefault(y, []).append((x, x + w))
    for row in rows.values():
        assert all(a[1] < b[0] for a, b in pairwise(sorted(row)))
    points = [
        float(x) for path in root.iter(f"{SVG}path") for x, _ in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path.get("d"))
    ]
    assert left <= min(points) <= max(points) <= left + width


def test_the_words_on_the_boxes():
    net = NetworkBuilder((3, 8, 8))
    x = net.conv(0, 4, kernel=3, stride=2)
    net.classifier(net.add((x, net.depthwise(net.pool(x, kind="avg_pool"), kernel=5))), classes=2)
    root = ET.fromstring(draw_graph(net.network, "network"))
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert words == ["input", "conv 3×3 /2", "mean pool 3×3", "depthwise 5×5", "+", "global mean", "linear"]
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert titles[1] == "conv 3x3 stride 2 to 4: 4 × 4 × 4"


def test_a_sum_of_one_map_with_itself_shows_two_lines():
    net = NetworkBuilder((3, 8, 8))
    net.add((0, 0))
    paths = [path.get("d") for path in ET.fromstring(draw_graph(net.network, "network")).iter(f"{SVG}path")]
    assert len(set(paths)) == 2


def test_parts_of_the_example():
    """Two plain blocks of different width are one picture; stem, halving and head are rows, and have none."""
    space = get_space(f"{EXAMPLE}:MySpace")
    parts = parts_of(space.layers(space.parse("residual:2-1-2-0-0-1-3"), Task(8, 10, 1)))
    assert [part.names for part in parts] == [("block 1", "block 5"), ("block 2",), ("block 6",)]
    assert [layer.op for layer in parts[0].network] == ["input", "conv", "conv", "add", "relu"]
    assert [part.network[0].block for part in parts] == ["stem", "block 1", "block 5"]
    assert parts[0].network[0].shape == (16, 8, 8)
    assert [layer.inputs for layer in parts[0].network] == [(), (0,), (1,), (0, 2), (3,)]


@pytest.mark.parametrize("seed", range(5))
def test_parts_hold_every_record_of_their_blocks(seed):
    network = random_network(seed, 40)
    for part in parts_of(network):
        own = [layer for layer in part.network if layer.op != "input"]
        assert len(own) == sum(layer.block == part.names[0] for layer in network if layer.op != "input")
        assert all(layer.op == "input" or layer.inputs for layer in part.network)
        assert all(x < i for i, layer in enumerate(part.network) for x in layer.inputs)


def test_a_network_without_names_is_one_part():
    net = NetworkBuilder((3, 8, 8))
    x = net.conv(0, 3)
    net.classifier(net.add((x, 0)), classes=2)
    (part,) = parts_of(net.network)
    assert part.names == ("",)
    assert network_key(part.network) == network_key(net.network)
    assert np.array([layer.block == "image" for layer in part.network if layer.op == "input"]).all()
