"""NAS-Bench-Macro chains: texts, and what a network computes, written out in torch's functions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from outside import MACRO, column, macro_rows, needs

from spaces import InputError, Task, get_space


@pytest.mark.parametrize("text", ["32", "32x", "0x64", "32x0", "x64", "32x1280x2", " 32x1280", "32x1280\n", "٣x64"])
def test_malformed_skeletons_of_macro(text):
    with pytest.raises(InputError, match="STEMxHEAD") as caught:
        get_space(f"nasbench_macro@{text}")
    assert "nasbench_macro@8x64" in caught.value.hint


def test_texts_of_macro():
    space = get_space("nasbench_macro@8x64")
    for row in space.sample(20, np.random.default_rng(5)):
        assert np.array_equal(space.row(space.parse(space.format(row))), row)
    for genes, words in (("0-0-0-3-0-0-0-0", "gene 3 must be in 0..2, got 3"), ("0-0", "gene 2 .*missing")):
        with pytest.raises(InputError, match=words):
            space.parse(f"nasbench_macro@8x64:{genes}")
    task, arch = Task(32, 10), "0-1-2-0-1-2-0-1"
    benchmark, named = get_space("nasbench_macro"), get_space("nasbench_macro@32x1280")
    assert named.layers(named.parse(f"{named.name}:{arch}"), task) == benchmark.layers(
        benchmark.parse(f"nasbench_macro:{arch}"), task
    )


def test_a_chain_computes_what_the_released_model_does():
    """Both blocks and the identity, first in a stage and not; batch norms at their start only divide."""
    space = get_space("nasbench_macro@4x16")
    arch = space.parse("nasbench_macro@4x16:0-1-1-0-2-2-0-0")
    model = space.build(arch, Task(13, 3)).eval()
    weights = iter([weight for weight in model.parameters() if weight.dim() == 4])
    images = torch.randn(2, 3, 13, 13, generator=torch.Generator().manual_seed(0))

    def conv(x, channels, kernel=1, stride=1, *, depthwise=False, relu=True):
        weight = next(weights)
        assert weight.shape == (channels, 1 if depthwise else x.shape[1], kernel, kernel)
        y = nnf.conv2d(x, weight, None, stride, kernel // 2, groups=channels if depthwise else 1) / np.sqrt(1 + 1e-5)
        return nnf.relu(y) if relu else y

    def bottleneck(x, channels, kernel, expansion, stride):
        middle = expansion * x.shape[1]
        y = conv(conv(x, middle), middle, kernel, stride, depthwise=True)
        return conv(y, channels, relu=False)

    x = conv(images, 4, 3)
    x = conv(x, 8, stride=2, relu=False)
    x = x + bottleneck(x, 8, 3, 3, 1)
    x = bottleneck(x, 16, 3, 3, 2)
    x = x + bottleneck(x, 16, 5, 6, 1)
    x = bottleneck(x, 32, 5, 6, 2)
    assert x.shape == (2, 32, 2, 2)
    x = conv(x, 16)
    scores = x.mean(dim=(2, 3)) @ model.steps[-1].weight.T + model.steps[-1].bias
    with torch.no_grad():
        torch.testing.assert_close(model(images), scores, rtol=1e-4, atol=1e-5)
    assert next(weights, None) is None


def test_distinct_networks_by_the_records_themselves(all_rows, record_key):
    space = get_space("nasbench_macro")
    assert len({record_key(space, row, Task(32, 10)) for row in all_rows(space)}) == 3_969


@needs(MACRO)
def test_equal_networks_of_the_macro_table_have_equal_accuracies():
    runs = np.stack(column(MACRO, *(f"test_acc_run{i}" for i in range(3))), axis=1)
    keys = get_space("nasbench_macro").canonical(macro_rows())
    _, first, key = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    assert np.array_equal(runs, runs[first][key])
    assert len(np.unique(runs, axis=0)) == 3_969
