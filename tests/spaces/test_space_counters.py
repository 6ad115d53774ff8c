"""Our multiply-adds and parameters against fvcore, torch's flop counter and the module itself."""

import numpy as np
import pytest
from outside import other_counts

from spaces import Task, get_space
from spaces.layers import NetworkBuilder
from spaces.torch_network import TorchNetwork

CASES = [
    ("proxyless@w0.25", Task(8, 10), 4),
    ("proxyless@w0.25", Task(32, 10, channels=1), 4),
    ("proxyless@w0.5", Task(32, 7), 4),
    ("proxyless@w0.5", Task(45, 10, channels=1), 2),
    ("proxyless@w0.25", Task(96, 100), 3),
    ("proxyless", Task(64, 10, channels=1), 2),
    ("proxyless", Task(224, 1000), 2),
    ("proxyless@gpu", Task(32, 10), 2),
    ("proxyless@12,20x1s2,28x3,28x2,36x2s2,100", Task(33, 3), 4),
    ("proxyless@8,8x1,8x2s2,8x1s2,8x1s2,8x1s2,16", Task(8, 2, channels=1), 25),
    ("nasbench101@2x1x9", Task(9, 10), 48),
    ("nasbench101", Task(8, 10), 2),
    ("nasbench_macro@8x64", Task(15, 7), 48),
    ("nasbench_macro", Task(32, 10), 2),
]


@pytest.mark.parametrize(("name", "task", "n"), CASES)
def test_flops_agree_with_other_counters(name, task, n):
    space = get_space(name)
    population = space.sample(n, np.random.default_rng(n + task.resolution))
    flops, params = space.counts(population, task)
    for row, expected_flops, expected_params in zip(population, flops, params, strict=True):
        model = space.build(space.arch(row), task).eval()
        fvcore, torch_counter = other_counts(model, task)
        assert fvcore == expected_flops
        assert torch_counter == 2 * expected_flops
        assert sum(parameter.numel() for parameter in model.parameters()) == expected_params


def test_flops_of_layers_that_no_chain_has():
    """Groups, dilation, oblong kernels, bias without batch norm, two readers of one map."""
    net = NetworkBuilder((4, 17, 17))
    x = net.conv(0, 12, kernel=(1, 7), stride=2, groups=2, bias=True, batch_norm=False)
    a = net.conv(net.relu(x), 12, kernel=3, dilation=2, groups=4)
    b = net.batch_norm(net.pool(x, kind="avg_pool"))
    x = net.concat([net.add([a, b, x]), net.depthwise(x, kernel=5)])
    net.classifier(x, classes=5)
    model = TorchNetwork(net.network).eval()
    ours = sum(layer.flops for layer in net.network)
    fvcore, torch_counter = other_counts(model, Task(17, 5, channels=4))
    assert ours == fvcore
    assert 2 * ours == torch_counter
    assert sum(layer.params for layer in net.network) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "name", ["proxyless", "proxyless@w0.25", "proxyless@cpu", "proxyless@8,8x1s2,16x3,16x2,8x2s2,9"]
)
@pytest.mark.parametrize("task", [Task(8, 2), Task(32, 10, channels=1), Task(224, 1000)], ids=str)
def test_counts_of_a_population_are_sums_over_its_records(name, task):
    space = get_space(name)
    population = space.sample(40, np.random.default_rng(5))
    flops, params = space.counts(population, task)
    networks = [space.layers(space.arch(row), task) for row in population]
    assert flops.tolist() == [sum(layer.flops for layer in network) for network in networks]
    assert params.tolist() == [sum(layer.params for layer in network) for network in networks]
    assert flops.dtype == params.dtype == np.int64


def test_counts_of_nobody():
    space = get_space("proxyless")
    assert [len(values) for values in space.counts(np.empty((0, 22), dtype=np.int64), Task(32, 10))] == [0, 0]


@pytest.mark.parametrize("name", ["proxyless", "proxyless@w0.25"])
def test_fragments_put_together_are_the_network(name, record_key):
    space, task = get_space(name), Task(32, 10)
    pieces = space.fragments(task)
    for row in space.sample(10, np.random.default_rng(2)):
        net = NetworkBuilder(task.input_shape)
        x = net.extend(0, pieces.stem)
        for blocks, choice in zip(pieces.blocks, row, strict=True):
            if blocks[choice] is not None:
                x = net.extend(x, blocks[choice])
        net.extend(x, pieces.head)
        assert net.network == space.layers(space.arch(row), task)
