"""Networks of cells: counts against records and other counters, torch, ONNX, auxiliary heads and drop-path."""

import math
import re

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as nnf
from outside import other_counts

from latency import build_onnx, export_onnx
from latency.onnx_graph import INPUT, OUTPUT
from spaces import PUBLISHED, InputError, Task, get_space
from spaces.layers import NetworkBuilder, last_uses
from spaces.torch_network import DropPath, TorchNetwork, TrainingNetwork, initialise

NAMES = [
    "pnas@1x4",
    "pnas@2x6,b3,stem10,keep03",
    "nasnet@1x96",
    "nasnet@2x96,b4,norms,stem7,skip",
    "nasnet@1x144,b2,narrow,imagenet,keepn0r2",
    "darts@4x4",
    "darts@7x6,repeats",
]
TASKS = [Task(32, 10), Task(33, 3, channels=1), Task(128, 5), Task(9, 2)]


def rows_of(space, n: int, seed: int) -> np.ndarray:
    """Random rows, some of them with fewer blocks, some whose blocks read only one of the inputs."""
    rng = np.random.default_rng(seed)
    rows = space.sample(n, rng)
    lengths = rng.integers(len(space.kinds), len(rows[0]) // space.genes_per_block + 1, size=n)
    used = np.arange(rows.shape[1]) // space.genes_per_block < lengths[:, None]
    rows[::2] = np.where(used, rows, -1)[::2]
    lonely = rows.copy()
    inputs = np.arange(rows.shape[1]) % space.genes_per_block < 2
    lonely[:, inputs & (np.arange(rows.shape[1]) % 3 > 0)] //= 2
    lonely[::3, inputs] = np.where(lonely[::3, inputs] < 2, 0, lonely[::3, inputs])
    lonely = np.where(rows < 0, -1, lonely)
    return np.where(space.is_valid(lonely)[:, None], lonely, rows)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("task", TASKS, ids=str)
def test_counts_of_a_population_are_sums_over_its_records(name, task):
    space = get_space(name)
    rows = rows_of(space, 50, task.resolution)
    flops, params = space.counts(rows, task)
    networks = [space.layers(space.arch(row), task) for row in rows]
    assert flops.tolist() == [sum(layer.flops for layer in network) for network in networks]
    assert params.tolist() == [sum(layer.params for layer in network) for network in networks]
    assert flops.dtype == params.dtype == np.int64


def test_counts_of_nobody_and_of_more_rows_than_are_counted_at_once():
    space = get_space("pnas@1x4,b1")
    assert [len(values) for values in space.counts(np.empty((0, 4), dtype=np.int64), Task(32, 10))] == [0, 0]
    rows = space.sample(70_000, np.random.default_rng(0))
    flops, params = space.counts(rows, Task(32, 10))
    few = rows[[0, 65_535, 65_536, 69_999]]
    again = space.counts(few, Task(32, 10))
    assert np.array_equal(flops[[0, 65_535, 65_536, 69_999]], again[0])
    assert np.array_equal(params[[0, 65_535, 65_536, 69_999]], again[1])


@pytest.mark.parametrize("name", NAMES)
def test_records_agree_with_fvcore_and_torch(name):
    space = get_space(name)
    for task, row in zip([TASKS[0], TASKS[1], Task(97, 4)], rows_of(space, 3, 1), strict=True):
        model = space.build(space.arch(row), task)
        flops, params = space.counts(row[None], task)
        assert sum(parameter.numel() for parameter in model.parameters()) == params[0]
        assert other_counts(model, task) == (flops[0], 2 * flops[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pnas@1x4", "nasnet@1x96", "darts@4x4"])
def test_fifty_networks_agree_with_fvcore_and_torch(name):
    space, task = get_space(name), Task(32, 10)
    rows = rows_of(space, 50, 2)
    for row, flops, params in zip(rows, *space.counts(rows, task), strict=True):
        model = space.build(space.arch(row), task)
        assert sum(parameter.numel() for parameter in model.parameters()) == params
        assert other_counts(model, task) == (flops, 2 * flops)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("task", TASKS, ids=str)
def test_every_layer_is_read_and_has_the_shape_of_its_record(name, task):
    """Nothing is written that the output does not depend on, and torch gives each layer the shape that is said."""
    space = get_space(name)
    for row in rows_of(space, 4, 5):
        network = space.layers(space.arch(row), task)
        last = last_uses(network)
        assert all(last[position] > position for position in range(len(network) - 1))
        model, seen = TorchNetwork(network).eval(), {}
        with torch.no_grad():
            outputs = model.run(torch.zeros(2, *task.input_shape), also=range(len(network)))
        seen = {position: tuple(output.shape[1:]) for position, output in outputs.items()}
        assert seen == {position: layer.shape for position, layer in enumerate(network)}


def test_separable_convolutions_are_applied_twice_with_relu_in_front():
    space = get_space("pnas@1x4,b1,cifar")
    network = space.layers(space.arch([1, 1, 1, 4]), Task(8, 2))  # separable 5x5, identity
    cell = [layer for layer in network if layer.block == "1 cell"]
    assert [(layer.op, layer.kernel, layer.groups, layer.batch_norm, layer.activation) for layer in cell] == [
        ("relu", (1, 1), 1, False, ""),
        ("conv", (1, 1), 1, True, ""),
        ("relu", (1, 1), 1, False, ""),
        ("conv", (5, 5), 4, False, ""),
        ("conv", (1, 1), 1, True, ""),
        ("relu", (1, 1), 1, False, ""),
        ("conv", (5, 5), 4, False, ""),
        ("conv", (1, 1), 1, True, ""),
        ("add", (1, 1), 1, False, ""),
    ]


def test_strides_act_on_the_inputs_of_reduction_cells_only():
    space = get_space("nasnet@1x96,b2,cifar")
    normal = [[0, 1, 5, 5, 0], [2, 2, 5, 5, 0]]
    reduction = [[0, 1, 5, 8, 0], [2, 1, 6, 7, 0]]
    row = [gene for blocks in zip(normal, reduction, strict=True) for block in blocks for gene in block]
    network = space.layers(space.arch(row), Task(16, 2))
    pools = [
        (layer.kernel[0], layer.stride[0]) for layer in network if layer.block == "2 reduction" and "pool" in layer.op
    ]
    assert pools == [(3, 2), (5, 1), (7, 2)]
    assert all(layer.stride == (1, 1) for layer in network if layer.block.endswith("normal") and "pool" in layer.op)


@pytest.mark.parametrize(
    ("name", "resolution", "maps"),
    [
        ("nasnet@2x96", 32, [32, 32, 16, 16, 16, 8, 8, 8]),
        ("nasnet@2x96", 224, [56, 28, 28, 28, 14, 14, 14, 7, 7, 7]),
        ("nasnet@1x96", 331, [83, 42, 42, 21, 21, 11, 11]),
        ("nasnet@1x96,imagenet", 32, [8, 4, 4, 2, 2, 1, 1]),
        ("pnas@2x8", 32, [32, 32, 16, 16, 8, 8]),
        ("pnas@2x8", 331, [83, 42, 42, 42, 21, 21, 11, 11]),
        ("pnas@2x8,cifar", 224, [224, 224, 112, 112, 56, 56]),
        ("darts@6x8", 32, [32, 32, 16, 16, 8, 8]),
        ("darts@6x8", 224, [28, 28, 14, 14, 7, 7]),
    ],
)
def test_sizes_of_the_cells_of_each_form(name, resolution, maps):
    space, task = get_space(name), Task(resolution, 10)
    row = space.sample(1, np.random.default_rng(0))[0]
    row = np.where(np.arange(len(row)) % space.genes_per_block == 1, 1, row)  # every cell reads the last one
    row = np.where((np.arange(len(row)) % space.genes_per_block == 0) & ("darts" in name), 0, row)
    network = space.layers(space.arch(row), task)
    blocks = dict.fromkeys(layer.block for layer in network if layer.block[:1].isdigit())
    assert [[layer for layer in network if layer.block == block][-1].shape[1] for block in blocks] == maps


def test_the_resolution_decides_on_the_form_where_the_text_does_not():
    space = get_space("pnas@1x4,b1")
    convolutions = [space.layers(space.arch([1, 1, 4, 4]), Task(size, 2))[1] for size in (96, 97)]
    assert [(layer.stride, layer.padded, layer.shape[0]) for layer in convolutions] == [
        ((1, 1), True, 12),
        ((2, 2), False, 32),
    ]


def test_images_too_small_for_a_form_are_refused():
    space = get_space("nasnet@1x96,imagenet")
    row = space.sample(1, np.random.default_rng(0))
    for attempt in (lambda: space.counts(row, Task(2, 2)), lambda: space.layers(space.arch(row[0]), Task(2, 2))):
        with pytest.raises(InputError, match="at least 3 pixels"):
            attempt()
    assert space.counts(row, Task(3, 2))[0] > 0


def randomised(network) -> TorchNetwork:
    """Weights and running statistics that leave no term at its default, and keep the numbers near one."""
    model = TorchNetwork(network)
    generator = torch.Generator().manual_seed(5)
    initialise(model, generator)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean") or (name.endswith("bias") and value.dim() == 1):
            value.uniform_(-0.3, 0.3, generator=generator)
        elif name.endswith("running_var") or (name.endswith("weight") and value.dim() == 1):
            value.uniform_(0.7, 1.3, generator=generator)
        elif value.dim() == 2:
            value.normal_(0, 0.3, generator=generator)
    return model.eval()


@pytest.mark.parametrize("name", ["pnas@1x4,b2", "nasnet@1x96,b2,norms", "darts@4x4"])
def test_exported_networks_compute_what_torch_computes(name, tmp_path):
    """`export_onnx` checks the logits and predictions of all images itself; here also that they are no constants."""
    space, task = get_space(name), Task(17, 5)
    row = space.sample(1, np.random.default_rng(3))[0]
    if "norms" in name:
        row = np.where(np.arange(len(row)) % 5 == 4, np.arange(len(row)) // 5 % 4, row)
        assert set(row[4::5]) == {0, 1, 2, 3}
    if "darts" in name:
        row[16:] = -1  # two nodes a cell are enough
    model = randomised(space.layers(space.arch(row), task))
    images = np.random.default_rng(1).standard_normal((70, *task.input_shape)).astype(np.float32)
    parity = export_onnx(model, tmp_path / "model.onnx", images, metadata={})
    assert (parity.images, parity.agreement) == (70, 1.0)
    assert model(torch.from_numpy(images)).std(dim=0).min() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_graphs_for_profiling_run(name):
    space = get_space(name)
    for task, row in zip([Task(32, 4), Task(100, 4)], rows_of(space, 2, 8), strict=True):
        model = build_onnx(space.layers(space.arch(row), task), np.random.default_rng(0))
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        image = np.random.default_rng(1).random((1, *task.input_shape), dtype=np.float32)
        (scores,) = session.run([OUTPUT], {INPUT: image})
        assert scores.shape == (1, 4)
        assert np.isfinite(scores).all()


def test_new_records_in_torch_and_onnx():
    """shift, group norm and windows without padding, against numpy."""
    net = NetworkBuilder((4, 6, 7))
    x = net.shift(0)
    x = net.group_norm(x, groups=2)
    x = net.pool(x, kind="avg_pool", kernel=(4, 3), stride=2, padded=False)
    assert net.shape(x) == (4, 2, 3)
    net.linear(net.global_avg_pool(x), 3)
    images = np.random.default_rng(0).standard_normal((1, 4, 6, 7)).astype(np.float32)
    model = TorchNetwork(net.network).eval()
    with torch.no_grad():
        got = {i: value.numpy() for i, value in model.run(torch.from_numpy(images), also=range(4)).items()}
    shifted = np.zeros_like(images)
    shifted[:, :, :-1, :-1] = images[:, :, 1:, 1:]
    np.testing.assert_array_equal(got[1], shifted)
    groups = shifted.reshape(1, 2, -1)
    normed = (groups - groups.mean(axis=2, keepdims=True)) / np.sqrt(groups.var(axis=2, keepdims=True) + 1e-5)
    np.testing.assert_allclose(got[2], normed.reshape(images.shape), rtol=1e-4, atol=1e-5)
    pooled = nnf.avg_pool2d(torch.from_numpy(normed.reshape(images.shape)), (4, 3), 2).numpy()
    np.testing.assert_allclose(got[3], pooled, rtol=1e-4, atol=1e-5)
    onnx_model = build_onnx(net.network, np.random.default_rng(1), dynamic_batch=True)
    session = onnxruntime.InferenceSession(onnx_model, providers=["CPUExecutionProvider"])
    from onnx import load_from_string, numpy_helper

    weight, bias = (numpy_helper.to_array(w) for w in load_from_string(onnx_model).graph.initializer[-2:])
    expected = (pooled + 0.1).mean(axis=(2, 3)) @ weight.T + bias  # the graph's norms shift by 0.1
    np.testing.assert_allclose(session.run([OUTPUT], {INPUT: images})[0], expected, rtol=1e-4, atol=1e-4)


def test_factorized_reduction_sees_every_pixel():
    """Half of the channels from the even pixels, half from the odd ones; at odd sizes the last ones are zeros."""
    space = get_space("darts@4x4,cifar")
    row = [0, 1, 2, 2] * 2 + [-1] * 24
    network = space.layers(space.arch(row), Task(9, 2))
    shift = next(i for i, layer in enumerate(network) if layer.op == "shift")
    halves = network[shift + 1 : shift + 3]
    assert [half.stride for half in halves] == [(2, 2), (2, 2)]
    assert halves[0].inputs == network[shift].inputs
    assert halves[0].shape == halves[1].shape == (4, 5, 5)
    assert network[shift + 3].op == "concat"
    assert network[shift + 3].inputs == (shift + 1, shift + 2)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_where_ours_differ_from_what_is_printed_the_source_says_so(name):
    """By more than two hundredths, with what is counted; and where nothing is printed."""
    known = PUBLISHED[name]
    if known.arch is None:
        return
    space = get_space(known.arch.space)
    flops, params = (int(value[0]) for value in space.counts(space.row(known.arch)[None], known.task))
    explained = []
    if known.params is None:
        explained.append("no figures, as ")
    elif abs(params / known.params - 1) > 0.02:
        explained.append(f"ours has {params / 1e6:.2f} M parameters")
    if known.flops is not None and abs(flops / known.flops - 1) > 0.02:
        explained.append(f"ours has {flops / 1e6:.1f} M multiply-adds")
    assert all(re.search(text, known.source) for text in explained), (explained, known.source)
    assert bool(explained) == bool(re.search("ours has|no figures", known.source))


# Training


@pytest.mark.parametrize("name", ["pnas@2x4", "nasnet@2x96", "darts@7x4"])
@pytest.mark.parametrize("resolution", [32, 128])
def test_the_auxiliary_head_reads_the_cell_at_two_thirds(name, resolution):
    space, task = get_space(name), Task(resolution, 6)
    arch = space.arch(space.sample(1, np.random.default_rng(4))[0])
    network, head = space.layers(arch, task), space.auxiliary(arch, task)
    cells = len(space.slots(space.imagenet(task)))
    expected = {"pnas": cells - 2, "nasnet": cells - 3, "darts": 5}[name.partition("@")[0]]
    block = network[head.reads].block
    assert block.partition(" ")[0] == str(expected)
    assert all(layer.block != block for layer in network[head.reads + 1 :])  # the last of its cell
    assert head.network[0].shape == network[head.reads].shape
    ops = [layer.op for layer in head.network]
    assert ops == ["input", "relu", "avg_pool", "conv", "conv", "global_avg_pool", "linear"]
    assert [head.network[i].shape[0] for i in (3, 4, 6)] == [128, 768, 6]
    assert head.network[4].kernel == head.network[3].shape[1:]


def test_the_auxiliary_heads_of_the_released_code():
    """2x2 windows after the pooling on CIFAR-10 and for DARTS, 4x4 for NASNet on ImageNet."""
    for name, size, kernel in (
        ("nasnet-a@6x768", 16, (4, 4)),
        ("nasnet-a@4x1056", 14, (4, 4)),
        ("darts-v2@20x36", 8, (2, 2)),
        ("darts-v2@14x48", 7, (2, 2)),
    ):
        known = PUBLISHED[name]
        head = get_space(known.arch.space).auxiliary(known.arch, known.task)
        assert head.network[0].shape[1] == size
        assert head.network[4].kernel == kernel


def test_training_with_an_auxiliary_head_leaves_the_network_what_it_is():
    space, task = get_space("darts@4x4"), Task(16, 3)
    arch = space.arch(space.sample(1, np.random.default_rng(0))[0])
    network = TorchNetwork(space.layers(arch, task))
    both = TrainingNetwork(network, space.auxiliary(arch, task))
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    scores, auxiliary = both.eval()(images)
    torch.testing.assert_close(scores, network(images))
    position = space.auxiliary(arch, task).reads
    torch.testing.assert_close(auxiliary, both.head(network.run(images, also=[position])[position]))
    both.train()
    scores, auxiliary = both(images)
    (scores.sum() + 0.4 * auxiliary.sum()).backward()
    assert all(parameter.grad is not None for parameter in both.parameters())
    assert sum(p.numel() for p in network.parameters()) == space.counts(space.row(arch)[None], task)[1][0]
    alone = TrainingNetwork(network, None).eval()(images)
    assert alone[1] is None
    torch.testing.assert_close(alone[0], network.eval()(images))


@pytest.mark.parametrize("name", ["pnas@2x4,cifar", "nasnet@2x96,imagenet", "darts@6x4"])
def test_paths_that_may_be_dropped_are_the_operations(name):
    """All but identities; NASNet's and PNAS's share grows linearly with the depth (released code), DARTS's is 1."""
    space, task = get_space(name), Task(32, 10)
    row = rows_of(space, 1, 3)[0]
    network = space.layers(space.arch(row), task)
    into_sums = {x for layer in network if layer.op in ("add", "concat") for x in layer.inputs}
    assert any(layer.drop > 0 for layer in network)
    cells = len(space.slots(space.imagenet(task)))
    for position, layer in enumerate(network):
        if layer.drop > 0:
            assert position in into_sums
            number = int(layer.block.partition(" ")[0])
            assert layer.drop == pytest.approx(1.0 if "darts" in name else number / cells)
        elif layer.op in ("max_pool", "avg_pool") and layer.block[:1].isdigit():
            readers = [other for other in network if position in other.inputs]
            assert all(other.op == "conv" and other.drop > 0 for other in readers)  # fitted to the width first


def test_drop_path_leaves_out_whole_images_and_keeps_the_mean():
    net = NetworkBuilder((2, 4, 4))
    x = net.droppable(net.pool(0, kind="max_pool", kernel=3), 0.5)
    net.add((x, x))
    model = TorchNetwork(net.network).train()
    images = torch.rand(20_000, 2, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    plain = model(images)
    dropped = model.run(images, drop_path=DropPath(0.4, torch.Generator().manual_seed(1)))[2]
    ratio = (dropped / plain).reshape(len(images), -1)
    values = ratio[:, 0]
    torch.testing.assert_close(ratio, values[:, None].expand_as(ratio))  # the whole image or nothing of it
    keep = 1 - 0.4 * 0.5
    assert {round(v, 4) for v in values.unique().tolist()} == {0.0, round(1 / keep, 4)}
    assert values.mean().item() == pytest.approx(1.0, abs=4 * math.sqrt(0.25 / 20_000))


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_paths_cannot_all_be_left_out(probability):
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        DropPath(probability, torch.Generator())


def test_chains_have_no_auxiliary_head():
    space = get_space("proxyless")
    assert space.auxiliary(space.arch([0] * 22), Task(32, 10)) is None


def test_drop_path_is_decided_by_its_generator_and_only_in_training():
    space, task = get_space("pnas@1x4,cifar"), Task(8, 3)
    model = space.build(space.arch(space.sample(1, np.random.default_rng(1))[0]), task)
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    last = len(model.network) - 1

    def run(seed: int, probability: float = 0.5) -> torch.Tensor:
        with torch.no_grad():
            return model.run(images, drop_path=DropPath(probability, torch.Generator().manual_seed(seed)))[last]

    model.train()
    before = torch.get_rng_state()
    first = run(1)
    assert torch.equal(first, run(1))
    assert not torch.equal(first, run(2))
    torch.testing.assert_close(run(3, 0.0), model(images))
    assert torch.equal(torch.get_rng_state(), before)
    model.eval()
    assert torch.equal(run(1), model(images))
