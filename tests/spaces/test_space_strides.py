"""Small images: which strides are taken away, and what that leaves."""

import numpy as np
import pytest

from spaces import Task, get_space

SKELETONS = ["", "w0.25", "8,8x1,8x2s2,16", "8,8x1s2,16x2,24x2s2,8", "8,8x1,8x1s2,8x1s2,8x1s2,8x1s2,8x1s2,8"]


def last_map(resolution: int, strides) -> int:
    for stride in strides:
        resolution = -(-resolution // stride)
    return resolution


@pytest.mark.parametrize("skeleton", SKELETONS)
@pytest.mark.parametrize("resolution", [1, 3, 4, 8, 16, 28, 32, 64, 96, 128, 224])
def test_the_fewest_strides_are_taken_away_from_the_stem_on(skeleton, resolution):
    space = get_space(f"proxyless@{skeleton}")
    nominal = [2, *(stage.stride for stage in space.shape.stages)]
    twos = [i for i, stride in enumerate(nominal) if stride == 2]
    prefixes = [[1 if i in twos[:k] else stride for i, stride in enumerate(nominal)] for k in range(len(twos) + 1)]
    enough = [strides for strides in prefixes if last_map(resolution, strides) >= 4]
    expected = enough[0] if enough else prefixes[-1]  # the prefixes take away more and more
    assert list(space.strides(resolution)) == expected
    task = Task(resolution, 2)
    network = space.layers(space.arch(space.sample(1, np.random.default_rng(0))[0]), task)
    pooled = next(layer for layer in network if layer.op == "global_avg_pool")
    side = network[pooled.inputs[0]].shape[1:]
    assert side == 2 * (last_map(resolution, expected),)


@pytest.mark.parametrize(
    ("resolution", "strides"),
    [
        (8, (1, 1, 1, 1, 1, 1, 2, 1)),
        (16, (1, 1, 1, 1, 2, 1, 2, 1)),
        (28, (1, 1, 1, 2, 2, 1, 2, 1)),
        (32, (1, 1, 1, 2, 2, 1, 2, 1)),
        (64, (1, 1, 2, 2, 2, 1, 2, 1)),
        (96, (1, 1, 2, 2, 2, 1, 2, 1)),
        (128, (2, 1, 2, 2, 2, 1, 2, 1)),
        (224, (2, 1, 2, 2, 2, 1, 2, 1)),
    ],
)
def test_strides_of_the_standard_skeleton(resolution, strides):
    assert get_space("proxyless").strides(resolution) == strides
