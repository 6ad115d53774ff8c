"""Counts against closed forms, torch's own tensors, and a simulation of memory."""

import math

import numpy as np
import pytest
import torch

from latency import PopulationCosts, count
from latency.counts import COUNTED, peak_activation_bytes
from spaces import Task, get_space
from spaces.layers import NetworkBuilder
from spaces.torch_network import TorchNetwork


def small_network():
    net = NetworkBuilder((3, 8, 8))
    x = net.conv(0, 4, kernel=3, stride=2, activation="relu6")
    y = net.depthwise(x, kernel=5, activation="relu6")
    y = net.conv(y, 4)
    x = net.add((x, y))
    net.classifier(x, classes=10)
    return net.network


def test_counts_of_a_network_that_fits_on_a_page():
    counts = count(small_network())
    first, depthwise, pointwise, linear = 4 * 4 * 4 * 27, 4 * 4 * 4 * 25, 4 * 4 * 4 * 4, 40
    assert counts.flops == first + depthwise + pointwise + linear
    assert counts.params == (108 + 8) + (100 + 8) + (16 + 8) + 50
    weights = (108 + 4) + (100 + 4) + (16 + 4) + 50  # batch norm folded into one bias a channel
    maps = (192 + 64) + (64 + 64) + (64 + 64) + (4 + 10)
    assert counts.weight_bytes == 4 * weights
    assert counts.bytes == 4 * (weights + maps)
    assert counts.intensity == pytest.approx(counts.flops / counts.bytes)
    # Worst: while the image is read into the first map (192 + 64); later at most three maps of 64 are live.
    assert counts.peak_memory_bytes == 4 * (192 + 64) + 4 * weights


def live_bytes_by_simulation(network):
    """Hold every map until nothing later reads it, as an interpreter with reference counts would."""
    readers = [sum(x in layer.inputs for layer in network) for x in range(len(network))]
    left = [max(n, 1) for n in readers]
    held, peak = 0, 0
    for layer in network:
        held += math.prod(layer.shape)
        peak = max(peak, held)
        for x in layer.inputs:
            left[x] -= 1
            if left[x] == 0:
                held -= math.prod(network[x].shape)
    return 4 * peak


@pytest.mark.parametrize("name", ["proxyless@w0.25", "proxyless@gpu", "proxyless@16,8x1,16x3s2,32x2s2,64"])
@pytest.mark.parametrize("resolution", [8, 32, 96])
def test_peak_memory_against_a_simulation(name, resolution):
    space = get_space(name)
    task = Task(resolution, 10)
    for row in space.sample(5, np.random.default_rng(3)):
        network = space.layers(space.arch(row), task)
        assert peak_activation_bytes(network) == live_bytes_by_simulation(network)


@pytest.mark.parametrize("name", ["proxyless@w0.25", "proxyless@cpu", "proxyless@16,8x1,16x3s2,32x2s2,64"])
def test_populations_are_counted_as_their_networks_are(name):
    space = get_space(name)
    task = Task(32, 7, channels=1)
    population = space.sample(20, np.random.default_rng(5))
    costs = PopulationCosts(space, task).of(population)
    assert set(costs) == set(COUNTED)
    for i, row in enumerate(population):
        counts = count(space.layers(space.arch(row), task))
        assert {name: values[i] for name, values in costs.items()} == {
            name: pytest.approx(getattr(counts, name), rel=1e-12) for name in COUNTED
        }


def test_weight_bytes_are_what_a_folded_torch_network_holds():
    space = get_space("proxyless@w0.5")
    arch = space.arch(space.sample(1, np.random.default_rng(0))[0])
    network = space.layers(arch, Task(32, 10))
    module = TorchNetwork(network)
    held = sum(p.numel() for name, p in module.named_parameters())
    norms = sum(p.numel() for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters())
    assert count(network).weight_bytes == 4 * (held - norms + norms // 2)
