"""Published networks against other descriptions of them, and as they are built; figures stand in test_facts.py."""

import json
import math

import pytest
import torch
from outside import NETWORKS, needs, other_counts
from torchvision.models import mobilenet_v2

from spaces import PUBLISHED, Layer, Network, Task, get_space

IMAGENET = Task(resolution=224, classes=1000)
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


@pytest.mark.parametrize("name", sorted(name for name, known in PUBLISHED.items() if known.arch))
def test_counts_of_a_population_are_those_of_the_records(name):
    known = PUBLISHED[name]
    space = get_space(known.arch.space)
    records = space.layers(known.arch, known.task)
    flops, params = space.counts(space.row(known.arch)[None], known.task)
    assert flops.tolist() == [sum(layer.flops for layer in records)]
    assert params.tolist() == [sum(layer.params for layer in records)]


@pytest.mark.parametrize("name", ["mobilenet-v2", "proxyless-cpu", "proxyless-gpu", "proxyless-mobile"])
def test_exact_figures_hold_for_the_network_that_is_built(name):
    known = PUBLISHED[name]
    model = get_space(known.arch.space).build(known.arch, IMAGENET)
    assert sum(parameter.numel() for parameter in model.parameters()) == known.params
    assert other_counts(model, IMAGENET) == (known.flops, 2 * known.flops)


def test_darts_v1_of_which_no_figures_are_stated_stays_what_it_is():
    for name, expected in (("darts-v1@20x36", (500_987_520, 3_169_414)), ("darts-v1@14x48", (505_864_704, 4_510_432))):
        known = PUBLISHED[name]
        space = get_space(known.arch.space)
        flops, params = space.counts(space.row(known.arch)[None], known.task)
        assert (int(flops[0]), int(params[0])) == expected


def test_other_operations_do_not_make_up_what_darts_counts_too_few():
    """574 M multiply-adds are printed; batch norm, relu and pooling add about 9 M to our 530 M."""
    known = PUBLISHED["darts-v2@14x48"]
    records = get_space(known.arch.space).layers(known.arch, known.task)
    others = sum(
        math.prod(layer.shape) * (layer.batch_norm + (layer.op == "relu" or layer.activation == "relu"))
        + math.prod(layer.shape) * 9 * (layer.op in ("max_pool", "avg_pool"))
        for layer in records
    )
    assert sum(layer.flops for layer in records) + others < 0.95 * known.flops


def test_nasnet_b_and_c_stand_with_their_figures_only():
    for name in ("nasnet-b@4x1536", "nasnet-b@4x1152", "nasnet-c@3x960", "nasnet-c@4x640"):
        assert PUBLISHED[name].arch is None
        assert PUBLISHED[name].params
    assert all(known.arch for name, known in PUBLISHED.items() if not name.startswith(("nasnet-b", "nasnet-c")))


def test_mobilenet_v2_is_as_its_paper_prints_it():
    published = PUBLISHED["mobilenet-v2"]
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
    if not NETWORKS.exists():
        return []
    rows = [json.loads(line) for line in NETWORKS.read_text().splitlines()]
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


@needs(NETWORKS)
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


@needs(NETWORKS)
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
