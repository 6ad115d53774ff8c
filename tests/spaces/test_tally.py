"""Layers counted by form: by hand, and at array speed as one network after another."""

from collections import Counter

import numpy as np
import pytest

from spaces import Task, get_space
from spaces.layers import NetworkBuilder
from spaces.tally import TallyOneByOne, forms_of

FAST = (  # every way in which a space counts faster than one by one, with the skeletons that change what is shared
    ("proxyless@w0.25", 32),
    ("nasbench_macro", 32),
    ("nasbench101@3x2x16", 32),
    ("nasbench101@2x1x13", 16),  # widths that do not divide
    ("darts@8x16", 32),
    ("darts@5x8,repeats", 128),  # the stem's own relu is one that cells read too
    ("nasnet@2x192", 32),
    ("nasnet@1x96,b3,norms,skip", 16),
    ("nasnet@1x192,narrow", 128),
    ("pnas@1x8", 32),
)


@pytest.mark.parametrize(("name", "resolution"), FAST)
def test_array_speed_counts_what_the_records_say(name, resolution):
    space, task, rng = get_space(name), Task(resolution, 10), np.random.default_rng(0)
    rows = np.concatenate([space.sample(40, rng), space.simplest(10, rng)])
    fast = space.tally(task)
    assert not isinstance(fast, TallyOneByOne)
    found = [Counter({form: k for form, k in zip(fast.forms, row, strict=True) if k}) for row in fast(rows)]
    assert found == [forms_of(space.layers(space.arch(row), task)) for row in rows]
    np.testing.assert_array_equal(fast(rows[::-1]), fast(rows)[::-1])


def test_where_a_cell_keeps_what_is_read_records_are_counted_one_by_one():
    space = get_space("nasnet@1x96,keepn0r3")
    tally = space.tally(Task(32, 10))
    assert isinstance(tally, TallyOneByOne)
    rows = space.sample(3, np.random.default_rng(0))
    flops = tally(rows) @ [form.flops for form in tally.forms]
    np.testing.assert_array_equal(flops, space.counts(rows, Task(32, 10))[0])


def test_forms_by_hand():
    net = NetworkBuilder((4, 8, 8))
    x = net.conv(0, 8)
    y = net.depthwise(net.relu(x), kernel=3, stride=2)
    z = net.conv(net.relu(y), 8, kernel=3)
    w = net.conv(net.relu(y), 8, groups=2)
    net.classifier(net.concat((net.add((z, w, w)), z)), classes=10)
    large, small = 8 * 8 * 8, 8 * 4 * 4
    found = {
        (form.kind, form.in_shape, form.shape): (k, form.launches, form.flops, form.elements)
        for form, k in forms_of(net.network).items()
    }
    assert found == {
        # The relu of x alone reads it, and so is part of that convolution.
        ("conv1x1", (4, 8, 8), (8, 8, 8)): (1, 1, 64 * 32, 4 * 64 + large + 32 + 8),
        ("depthwise", (8, 8, 8), (8, 4, 4)): (1, 1, 16 * 72, large + small + 72 + 8),
        ("conv", (8, 4, 4), (8, 4, 4)): (1, 1, 16 * 576, 2 * small + 576 + 8),
        ("grouped", (8, 4, 4), (8, 4, 4)): (1, 1, 16 * 32, 2 * small + 32 + 8),
        ("add", (8, 4, 4), (8, 4, 4)): (1, 2, 0, 6 * small),
        ("concat", (16, 4, 4), (16, 4, 4)): (1, 1, 0, 4 * small),
        ("global_avg_pool", (16, 4, 4), (16,)): (1, 1, 0, 2 * small + 16),
        ("linear", (16,), (10,)): (1, 1, 160, 16 + 10 + 170),
    }


def test_a_relu_that_is_not_alone_stands_for_itself():
    net = NetworkBuilder((4, 8, 8))
    x = net.conv(0, 4)
    net.add((net.relu(x), x))
    assert Counter(form.kind for form in forms_of(net.network)) == {"conv1x1": 1, "relu": 1, "add": 1}
