"""DESIGN section 6, as far as it exists: figures from papers, released code and other counters, to the unit."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torchvision.models import mobilenet_v2

from spaces import PUBLISHED, Layer, Network, Task, get_space

IMAGENET = Task(resolution=224, classes=1000)
TABLE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "tables" / "published_networks.jsonl"
# Of table 4 of 1801.04381: expansion, width, layers, stride of every row of bottlenecks.
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
FIGURES = {
    "proxyless-mobile": (4_080_512, 320_427_584),
    "proxyless-cpu": (4_361_648, 439_243_864),
    "proxyless-gpu": (7_119_848, 465_260_160),
    "mobilenet-v2": (3_504_872, 300_774_272),
}


def fvcore_flops(model: torch.nn.Module, task: Task) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit, by which fvcore traces, warns of its own end
        analysis = FlopCountAnalysis(model.eval(), torch.zeros(1, *task.input_shape))
        entries = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
    return int(entries["conv"] + entries["linear"])


def bottlenecks(network: Network) -> list[tuple[int, ...]]:
    """(in, out, kernel, stride, channels in the middle, adds its input) of every block that the records hold."""
    found = []
    for position, layer in enumerate(network):
        if layer.op == "conv" and layer.groups > 1:
            before, after = network[layer.inputs[0]], network[position + 1]
            expands = before.kernel == (1, 1) and before.activation == "relu6"
            enters = before.in_features if expands else layer.in_features
            adds = position + 2 < len(network) and network[position + 2].op == "add"
            found.append((enters, after.shape[0], layer.kernel[0], layer.stride[0], layer.in_features, int(adds)))
    return found


# proxyless valid rows; distinct networks | 3 x 6^6 x 7^15; 3 x 6^6 x 259^5


def test_valid_rows_of_proxyless():
    space = get_space("proxyless")
    assert space.cardinality == 3 * 6**6 * 7**15
    assert f"{space.cardinality:.3g}" == "6.65e+17"  # DESIGN cuts it to 6.64
    assert math.prod(int(row.sum()) for row in space.allowed) == space.cardinality
    assert space.choices == (3, *5 * (6, 7, 7, 7), 6)


@pytest.mark.parametrize("stage", range(5))
def test_distinct_rows_of_each_stage_of_proxyless(stage):
    """One stage in all its ways, the others drawn: the product of the stages is then the number of networks."""
    space = get_space("proxyless")
    start = 1 + 4 * stage
    genes = slice(start, start + 4)
    ways = np.stack(np.meshgrid(range(6), *3 * [range(7)], indexing="ij"), axis=-1).reshape(-1, 4)
    assert len(ways) == 6 * 7**3
    rows = space.sample(len(ways), np.random.default_rng(stage))
    others = rows.copy()
    rows[:, genes] = ways
    keys = space.canonical(rows)
    assert len(np.unique(keys[:, genes], axis=0)) == 6 * 259
    outside = np.delete(np.arange(22), np.arange(22)[genes])
    assert np.array_equal(keys[:, outside], space.canonical(others)[:, outside])


def test_distinct_networks_of_one_stage_by_the_records_themselves(all_rows, record_key):
    space = get_space("proxyless@8,8x1,8x4s2,8")
    rows = all_rows(space)
    assert len(rows) == 3 * 6 * 7**3 == space.cardinality
    networks = {record_key(space, row, Task(16, 2)) for row in rows[rows[:, 0] == 1]}
    assert len(networks) == 6 * 259
    assert len(np.unique(space.canonical(rows), axis=0)) == 3 * 6 * 259


def test_distinct_networks_of_a_whole_small_space(all_rows, record_key):
    space = get_space("proxyless@8,8x1,8x2s2,16x2s2,8x1,8")
    rows = all_rows(space)
    networks = {record_key(space, row, Task(32, 2)) for row in rows[rows[:, 0] == 0]}
    assert len(networks) == (6 * 7) * (6 * 7) * 6  # layers of two: the only zero stands last already
    assert len(np.unique(space.canonical(rows), axis=0)) == 3 * len(networks)


# ProxylessNAS mobile / cpu / gpu and MobileNetV2, to the unit


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_parameters_and_multiply_adds_of_published_networks(name):
    published, (params, flops) = PUBLISHED[name], FIGURES[name]
    assert (published.params, published.flops) == (params, flops)
    space = get_space(published.arch.space)
    records = space.layers(published.arch, IMAGENET)
    assert (sum(layer.params for layer in records), sum(layer.flops for layer in records)) == (params, flops)
    counted = space.counts(space.row(published.arch)[None], IMAGENET)
    assert [int(values[0]) for values in counted] == [flops, params]
    model = space.build(published.arch, IMAGENET)
    assert sum(parameter.numel() for parameter in model.parameters()) == params
    assert fvcore_flops(model, IMAGENET) == flops


def test_mobilenet_v2_is_as_its_paper_prints_it():
    published = PUBLISHED["mobilenet-v2"]
    assert round(published.params / 1e6, 1) == 3.5
    assert round(published.flops / 1e6) == 301  # "300M" in the paper; 300.774 M exactly
    expected, channels = [], 32
    for expansion, width, layers, stride in MOBILENET_V2:
        for layer in range(layers):
            step = stride if layer == 0 else 1
            adds = int(step == 1 and channels == width)
            expected.append((channels, width, 3, step, expansion * channels, adds))
            channels = width
    records = get_space(published.arch.space).layers(published.arch, IMAGENET)
    assert bottlenecks(records) == expected


def test_mobilenet_v2_computes_what_torchvision_computes():
    """Every weight has the shape of torchvision's at the same place, and with its weights the outputs are equal."""
    published = PUBLISHED["mobilenet-v2"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        theirs = mobilenet_v2(weights=None).eval()
        for part in theirs.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(part.weight, 0.5, 1.5)
                torch.nn.init.uniform_(part.bias, -0.5, 0.5)
                torch.nn.init.uniform_(part.running_mean, -0.5, 0.5)
                torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
        images = torch.randn(2, 3, 96, 96)
    ours = get_space(published.arch.space).build(published.arch, Task(224, 1000)).eval()
    mine, yours = ours.state_dict(), theirs.state_dict()
    assert [value.shape for value in mine.values()] == [value.shape for value in yours.values()]
    assert sum(p.numel() for p in theirs.parameters()) == published.params
    ours.load_state_dict(dict(zip(mine, yours.values(), strict=True)))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def proxyless_rows() -> list[dict]:
    if not TABLE.exists():
        return []
    rows = [json.loads(line) for line in TABLE.read_text().splitlines()]
    return [row for row in rows if row["family"] == "ProxylessNAS"]


def as_text(row: dict) -> str:
    """The name and genes of a network of the table: widths, strides and blocks are read off its layers."""
    stem, _, head, _ = row["head"]
    blocks = [(3, 3), (5, 3), (7, 3), (3, 6), (5, 6), (7, 6)]
    stages, genes = [], []
    for layer, size in zip(row["layers"], [1, *5 * [4, 0, 0, 0], 1], strict=True):
        if size:
            stages.append(f"{layer[1]}x{size}" + ("s2" if layer[3] == 2 else ""))
        if layer == ["skip"]:
            genes.append(6)
        else:
            genes.append((3, 5, 7).index(layer[2]) if not genes else blocks.index((layer[2], layer[4])))
    return f"proxyless@{stem},{','.join(stages)},{head}:{'-'.join(map(str, genes))}"


@pytest.mark.skipif(not TABLE.exists(), reason=f"the shared table {TABLE.name} is not beside this checkout")
@pytest.mark.parametrize("row", proxyless_rows(), ids=lambda row: row["name"])
def test_proxyless_networks_of_the_shared_table(row):
    task = Task(row["image_size"], row["head"][-1])
    text = as_text(row)
    space = get_space(text.partition(":")[0])
    arch = space.parse(text)
    flops, params = space.counts(space.row(arch)[None], task)
    assert (int(params[0]), int(flops[0])) == (row["params"], row["macs"])
    records: tuple[Layer, ...] = space.layers(arch, task)
    kept = [layer for layer in row["layers"] if layer != ["skip"]]
    assert bottlenecks(records) == [(a, b, k, s, mid, adds) for a, b, k, s, _, mid, _, _, adds in kept]
    assert sum(p.numel() for p in space.build(arch, task).parameters()) == row["params"]


@pytest.mark.skipif(not TABLE.exists(), reason=f"the shared table {TABLE.name} is not beside this checkout")
def test_the_named_networks_are_those_of_the_shared_table():
    rows = {row["name"]: row for row in proxyless_rows()}
    assert len(rows) == 4
    for device in ("mobile", "cpu", "gpu"):
        row, published = rows[f"proxyless_{device}"], PUBLISHED[f"proxyless-{device}"]
        assert published.figures["top1_pct"] == row["published_top1"]
        by_name = get_space(published.arch.space)
        by_widths = get_space(as_text(row).partition(":")[0])
        assert as_text(row).partition(":")[2] == str(published.arch).partition(":")[2]
        assert by_name.layers(published.arch, IMAGENET) == by_widths.layers(by_widths.parse(as_text(row)), IMAGENET)
