"""DESIGN section 6 for the spaces of cells: what papers print, and beside it what our layer records count."""

import math

import numpy as np
import pytest

from spaces import PUBLISHED, get_space

M, B = 1e6, 1e9

# name, parameters as printed and their last digit, multiply-adds as printed and their last digit
PRINTED = [
    ("nasnet-a@4x1056", 5.3 * M, 0.1 * M, 564 * M, 1 * M),
    ("nasnet-a@6x4032", 88.9 * M, 0.1 * M, 23.8 * B, 0.1 * B),
    ("nasnet-a@6x768", 3.3 * M, 0.1 * M, None, None),
    ("pnasnet-5@3x54", 5.1 * M, 0.1 * M, 588 * M, 1 * M),
    ("pnasnet-5@4x216", 86.1 * M, 0.1 * M, 25.0 * B, 0.1 * B),
    ("pnasnet-5@3x48", 3.2 * M, 0.1 * M, None, None),
    ("darts-v2@20x36", 3.349 * M, 0.001 * M, None, None),
    ("darts-v2@14x48", 4.719 * M, 0.001 * M, None, None),  # its multiply-adds: see below
    ("amoebanet-a@6x32", 2.6 * M, 0.1 * M, None, None),
    ("amoebanet-a@6x36", 3.2 * M, 0.1 * M, None, None),
    ("amoebanet-a@4x50", 5.1 * M, 0.1 * M, 555 * M, 1 * M),
    ("amoebanet-a@6x190", 86.7 * M, 0.1 * M, 23.1 * B, 0.1 * B),
    ("amoebanet-a@6x448", 469 * M, 1 * M, 104 * B, 1 * B),
]
# Measured here, to the unit, so that no change of a skeleton passes unseen: parameters, multiply-adds.
MEASURED = {
    "nasnet-a@4x1056": (5_289_978, 563_638_816),
    "nasnet-a@6x4032": (88_753_150, 23_783_414_658),
    "nasnet-a@6x768": (3_346_538, 544_333_312),
    "nasnet-a@7x2304": (32_590_954, 5_151_250_944),
    "pnasnet-5@3x54": (5_064_487, 587_293_200),
    "pnasnet-5@4x216": (86_057_668, 24_937_395_792),
    "pnasnet-5@3x48": (3_189_082, 574_891_392),
    "darts-v1@20x36": (3_169_414, 500_987_520),
    "darts-v1@14x48": (4_510_432, 505_864_704),
    "darts-v2@20x36": (3_349_342, 528_359_040),
    "darts-v2@14x48": (4_718_752, 529_911_552),
    "amoebanet-a@6x32": (2_567_754, 407_671_808),
    "amoebanet-a@6x36": (3_218_266, 509_668_992),
    "amoebanet-a@4x50": (5_086_930, 554_687_204),
    "amoebanet-a@6x190": (86_718_797, 23_133_663_507),
    "amoebanet-a@6x448": (468_151_184, 103_887_693_968),
}


def measured(name: str) -> tuple[int, int]:
    """Parameters and multiply-adds of a published network's layer records."""
    known = PUBLISHED[name]
    records = get_space(known.arch.space).layers(known.arch, known.task)
    return sum(layer.params for layer in records), sum(layer.flops for layer in records)


@pytest.mark.parametrize(("name", "params", "last_of_params", "flops", "last_of_flops"), PRINTED)
def test_published_figures(name, params, last_of_params, flops, last_of_flops):
    ours, known = measured(name), PUBLISHED[name]
    assert known.params == round(params)
    assert abs(ours[0] - params) <= max(0.005 * params, last_of_params / 2)
    if flops is not None:
        assert known.flops == round(flops)
        assert abs(ours[1] - flops) <= max(0.005 * flops, last_of_flops / 2)


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_figures_to_the_unit(name):
    known = PUBLISHED[name]
    space = get_space(known.arch.space)
    flops, params = space.counts(space.row(known.arch)[None], known.task)
    assert (int(params[0]), int(flops[0])) == measured(name) == MEASURED[name]


def test_keras_counts_the_same_trained_parameters():
    """Of keras.applications: 5,326,716 and 88,949,818 in all, of which 36,738 and 196,668 are moving averages."""
    assert measured("nasnet-a@4x1056")[0] == 5_326_716 - 36_738
    assert measured("nasnet-a@6x4032")[0] == 88_949_818 - 196_668


def test_other_implementations_agree():
    """timm's nasnetalarge: 88.75 M and 23.89 G; pnasnet5large: 86.06 M and 25.04 G (huggingface, Apache-2.0)."""
    for name, params, flops in (("nasnet-a@6x4032", 88.75, 23.89), ("pnasnet-5@4x216", 86.06, 25.04)):
        ours = measured(name)
        assert round(ours[0] / M, 2) == params
        assert ours[1] / B == pytest.approx(flops, rel=0.005)


# Figures that are not met


def test_nasnet_a_7_at_2304_has_the_parameters_of_six_cells_a_stage():
    """27.6 M are printed for 7 @ 2304; ours has 32.59 M, and 28.21 M with N = 6.

    Section 4.1 of the paper says that N was 4 or 6 on CIFAR-10, and 27.6 M are 8.36 times the 3.3 M of 6 @ 768: so
    many as three times the filters make (8.43), not also a seventh cell (9.74). The remaining 2 % stay open.
    """
    params, _ = measured("nasnet-a@7x2304")
    assert PUBLISHED["nasnet-a@7x2304"].params == 27_600_000
    assert not abs(params - 27.6 * M) <= 0.005 * 27.6 * M
    space = get_space("nasnet@6x2304,keepn0r3")
    row = np.array(PUBLISHED["nasnet-a@7x2304"].arch.genes)[None]
    with_six = int(space.counts(row, PUBLISHED["nasnet-a@7x2304"].task)[1][0])
    assert with_six == pytest.approx(27.6 * M, rel=0.023)
    assert with_six / measured("nasnet-a@6x768")[0] == pytest.approx(27.6 / 3.3, rel=0.02)
    assert params / measured("nasnet-a@6x768")[0] > 1.15 * 27.6 / 3.3


def test_darts_on_imagenet_has_fewer_multiply_adds_than_are_printed():
    """574 M are printed, 529.9 M counted, though the parameters agree to the thousand.

    Others counted 523 M and 545 M in the released code (quark0/darts, issue 46). Batch norm, relu and pooling add
    about 9 M operations, which does not close the gap either; what was counted is not known.
    """
    known = PUBLISHED["darts-v2@14x48"]
    records = get_space(known.arch.space).layers(known.arch, known.task)
    assert known.flops == 574_000_000
    assert sum(layer.flops for layer in records) == pytest.approx(529.9 * M, abs=0.05 * M)
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


# Sizes of the spaces


def test_distinct_pnas_cells_of_one_block():
    space = get_space("pnas")
    rows = space.grow(np.full((1, 20), -1))
    assert len(rows) == 2**2 * 8**2
    assert len(np.unique(space.canonical(rows), axis=0)) == 136
    assert len(space.simplest(136, np.random.default_rng(0))) == 136


def test_raw_pnas_cells_of_five_blocks():
    by_size = [math.prod(states**2 * 8**2 for states in range(2, 2 + blocks)) for blocks in range(1, 6)]
    assert by_size[-1] == 2**2 * 8**2 * 3**2 * 8**2 * 4**2 * 8**2 * 5**2 * 8**2 * 6**2 * 8**2
    assert f"{by_size[-1]:.1e}" == "5.6e+14"
    assert get_space("pnas").cardinality == sum(by_size)


def test_rows_of_one_darts_cell():
    """8.3e10 where both inputs are drawn independently, 1.04e9 where they are distinct: whole cells, and pairs."""
    independent = math.prod((nodes * 7) ** 2 for nodes in range(2, 6))
    distinct = math.prod(math.comb(nodes, 2) * 7**2 for nodes in range(2, 6))
    assert f"{independent:.1e}" == "8.3e+10"
    assert f"{distinct:.2e}" == "1.04e+09"
    for name, of_one in (("darts@8x16,repeats", lambda n: (n * 7) ** 2), ("darts", lambda n: math.comb(n, 2) * 7**2)):
        ways = [of_one(nodes) for nodes in (2, 2, 3, 3, 4, 4, 5, 5)]
        assert get_space(name).cardinality == sum(math.prod(ways[:size]) for size in range(2, 9))


def test_rows_of_nasnet():
    ways = [(states * 13) ** 2 * 2 for states in (2, 2, 3, 3, 4, 4, 5, 5, 6, 6)]
    assert get_space("nasnet").cardinality == sum(math.prod(ways[:size]) for size in range(2, 11))
    assert len(get_space("nasnet").operations) == 13
    assert len(get_space("pnas").operations) == 8
    assert len(get_space("darts").operations) == 7
