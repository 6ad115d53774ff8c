"""Equal keys if and only if the networks, written out layer by layer, are the same."""

import numpy as np
import pytest

from spaces import Task, get_space

SMALL = [
    "8,8x1,8x3s2,16",  # zeros in one stage
    "8,8x1,8x2s2,8x2,16",  # two stages that nothing tells apart: their layers make one row of blocks
    "8,8x1,8x2,16x2s2,8",  # the first stage looks like the second, but its block is of another kind
    "8,8x1,8x2,8x2,8",  # all three
    "8,8x1s2,16x2,24x2,8",
    "8,8x1,8x1s2,8x1,8x2,8",  # three stages joined, two of them of one layer
    "8,8x1,8x2s2,8x2s2,8",  # equal widths, but a stride between
]


def numbered(keys) -> list[int]:
    numbers: dict = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


@pytest.mark.parametrize("skeleton", SMALL)
def test_keys_are_equal_if_and_only_if_the_networks_are(skeleton, all_rows, record_key):
    space = get_space(f"proxyless@{skeleton}")
    rows = all_rows(space)
    rows = rows[rows[:, 0] != 1]  # two of the three first kernels are enough
    keys = space.canonical(rows)
    networks = numbered(record_key(space, row, Task(224, 2)) for row in rows)
    assert numbered(map(tuple, keys.tolist())) == networks  # both number in the order of first appearance


@pytest.mark.parametrize("skeleton", SMALL)
def test_keys_are_valid_rows_of_the_same_network(skeleton, all_rows, record_key):
    space = get_space(f"proxyless@{skeleton}")
    rows = all_rows(space)
    keys = space.canonical(rows)
    assert space.is_valid(keys).all()
    assert np.array_equal(space.canonical(keys), keys)
    for row, key in zip(rows[::37], keys[::37], strict=True):
        assert record_key(space, row, Task(64, 2)) == record_key(space, key, Task(64, 2))


@pytest.mark.parametrize("name", ["proxyless", "proxyless@w0.25", "proxyless@mobile", "proxyless@w0.5"])
@pytest.mark.parametrize("resolution", [32, 224])
def test_keys_on_random_pairs_of_real_skeletons(name, resolution, record_key):
    """Pairs that are often equal: rows with many zeros, the layers of each half shuffled, or one gene changed."""
    space, task, rng = get_space(name), Task(resolution, 10), np.random.default_rng(11)
    rows = space.sample(150, rng)
    sparse = (rng.random(rows.shape) < 0.5) & space.allowed[:, 6]
    rows[sparse] = 6
    others = rows.copy()
    for other in others:
        for stage in space.stages:
            genes = np.arange(stage.start + 1, stage.stop)
            other[genes] = other[rng.permutation(genes)]
        if rng.random() < 0.5:  # move a layer between two neighbouring stages
            other[[12, 14]] = other[[14, 12]]
    same_key = (space.canonical(rows) == space.canonical(others)).all(axis=1)
    same_network = [record_key(space, a, task) == record_key(space, b, task) for a, b in zip(rows, others, strict=True)]
    assert same_key.tolist() == same_network
    assert 5 < same_key.sum() < 145  # both answers occur


def test_at_a_quarter_of_the_width_two_stages_become_one(record_key):
    """w0.25 rounds 80 and 96 channels to 24, and no stride stands between: a layer may stand in either stage."""
    space, task = get_space("proxyless@w0.25"), Task(224, 10)
    rows = np.zeros((3, 22), dtype=np.int64)
    rows[0, 9:17] = 0, 1, 6, 6, 2, 3, 6, 6
    rows[1, 9:17] = 0, 1, 2, 6, 3, 6, 6, 6
    rows[2, 9:17] = 0, 1, 3, 6, 2, 6, 6, 6
    first, second, third = (record_key(space, row, task) for row in rows)
    assert first == second != third
    keys = space.canonical(rows)
    assert np.array_equal(keys[0], keys[1])
    assert not np.array_equal(keys[0], keys[2])
    standard = get_space("proxyless").canonical(rows)  # 80 and 96 channels: there they differ
    assert not np.array_equal(standard[0], standard[1])


def test_canonical_leaves_its_argument_alone():
    space = get_space("proxyless")
    rows = space.sample(50, np.random.default_rng(0))
    before = rows.copy()
    space.canonical(rows)
    assert np.array_equal(rows, before)
    assert space.canonical(rows[:0]).shape == (0, 22)


def test_distinct_networks_of_one_stage_by_the_records_themselves(all_rows, record_key):
    space = get_space("proxyless@8,8x1,8x4s2,8")
    rows = all_rows(space)
    assert len(rows) == 3 * 6 * 7**3 == space.cardinality
    networks = {record_key(space, row, Task(16, 2)) for row in rows[rows[:, 0] == 1]}
    assert len(networks) == 6 * 259
    assert len(np.unique(space.canonical(rows), axis=0)) == 3 * 6 * 259
