"""What loading and running a network adds to a process."""

import sys

import numpy as np
import pytest

from hwnas.execution import WorkerPool
from latency import build_onnx
from latency.memory import peak_resident_bytes
from spaces.layers import NetworkBuilder


def wide(channels):
    net = NetworkBuilder((3, 32, 32))
    net.classifier(net.conv(net.conv(0, channels, kernel=3), channels, kernel=3), classes=2)
    return build_onnx(net.network, np.random.default_rng(0))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_network_needs_its_weights_at_least_and_no_hundred_times_as_much():
    needed = []
    for channels in (64, 768):
        model = wide(channels)
        with WorkerPool(1) as pool:
            needed.append(pool.submit(peak_resident_bytes, model).result())
        assert len(model) <= needed[-1] + 2**20
    weights = 4 * 9 * 768 * 768
    assert weights < needed[1] - needed[0] < 10 * weights
