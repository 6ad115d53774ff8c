"""Which rows are networks, which texts name them, and what is said of those that do not."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models._utils import _make_divisible

from spaces import SPACES, Arch, InputError, Task, get_space, parse_arch
from spaces.proxyless import STANDARD, ProxylessSpace, Skeleton, Stage, parse_skeleton

SPACE = get_space("proxyless")
GOOD = [0] * 22
STARTS = (1, 5, 9, 13, 17, 21)


def changed(**genes: int) -> list[int]:
    row = list(GOOD)
    for name, value in genes.items():
        row[int(name[1:])] = value
    return row


INVALID = [
    (changed(g0=3), ("gene 0 ", "0..2", "got 3")),
    (changed(g0=6), ("gene 0 ", "0..2", "got 6")),
    (changed(g2=7), ("gene 2 ", "0..6", "got 7")),
    (changed(g7=123_456), ("gene 7 ", "got 123456")),
    *((changed(**{f"g{start}": 6}), (f"gene {start} ", "zero", "first layer of its stage")) for start in STARTS),
    (changed(g21=7), ("gene 21 ", "got 7")),
    (GOOD[:-1], ("gene 21 ", "missing")),
    (GOOD[:3], ("gene 3 ", "missing")),
    ([*GOOD, 0], ("22 genes", "got 23")),
]


@given(st.lists(st.integers(-2, 8), min_size=22, max_size=22))
def test_validity_by_its_definition(row):
    expected = row[0] in (0, 1, 2) and all(
        gene in range(6) or (gene == 6 and position not in STARTS) for position, gene in enumerate(row) if position
    )
    assert SPACE.is_valid(np.array([row])).tolist() == [expected]


@given(st.lists(st.integers(0, 21), max_size=3), st.integers(0, 2**32))
def test_validity_near_the_border(positions, seed):
    rng = np.random.default_rng(seed)
    row = SPACE.sample(1, rng)[0]
    for position in positions:
        row[position] = rng.choice([-1, 3, 6, 7])
    expected = row[0] in (0, 1, 2) and all(0 <= g <= (5 if i in STARTS else 6) for i, g in enumerate(row) if i)
    assert SPACE.is_valid(row[None])[0] == expected


def test_validity_of_nobody():
    assert SPACE.is_valid(np.empty((0, 22), dtype=np.int64)).shape == (0,)


@pytest.mark.parametrize(("genes", "words"), INVALID)
def test_what_is_said_of_an_invalid_architecture(genes, words):
    text = "proxyless:" + "-".join(map(str, genes))
    for attempt in (
        lambda: SPACE.parse(text),
        lambda: SPACE.row(Arch("proxyless", tuple(genes))),
        lambda: SPACE.layers(Arch("proxyless", tuple(genes)), Task(32, 10)),
    ):
        with pytest.raises(InputError) as caught:
            attempt()
        assert all(word in str(caught.value) for word in words), caught.value
        assert text in str(caught.value)


def test_an_architecture_of_another_space_says_which():
    text = "proxyless@w0.5:" + "-".join("0" * 22)
    with pytest.raises(InputError, match=r"'proxyless@w0\.5', not of 'proxyless'") as caught:
        SPACE.parse(text)
    assert "--space proxyless@w0.5" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "proxyless",
        "proxyless:",
        ":0-0",
        "proxyless:0-",
        "proxyless:-0",
        "proxyless:0--0",
        "proxyless:0-x",
        "proxyless:0 - 0",
        "proxyless:0.0-1",
        "proxyless:0,0",
        "proxyless:0-+1",
        "proxyless:0-²",
        "proxyless:0-٣",
        "proxyless:" + "-".join(["9" * 30] * 22),
        "proxyless:" + "9" * 5000,
    ],
)
def test_malformed_architectures(text):
    with pytest.raises(InputError, match="SPACE:GENES") as caught:
        SPACE.parse(text)
    assert caught.value.hint
    parse_arch(caught.value.hint.removeprefix("for example "))  # what it advises is well-formed


@given(st.integers(0, 2**32), st.sampled_from(["", "w0.5", "gpu", "8,8x1,8x3s2,16", "8,8x1s2,16x2,8x3,64"]))
def test_text_and_row_round_trip(seed, skeleton):
    space = ProxylessSpace(skeleton)
    row = space.sample(1, np.random.default_rng(seed))[0]
    text = space.format(row)
    arch = space.parse(f" {text}\n")
    assert str(arch) == text
    assert np.array_equal(space.row(arch), row)
    assert arch == space.arch(row) == parse_arch(text)
    assert get_space(arch.space) == space


@given(st.text(max_size=12), st.lists(st.integers(-3, 30), min_size=1, max_size=24))
def test_any_text_is_an_architecture_or_a_clean_error(name, genes):
    for text in (name, f"{name}:{'-'.join(map(str, genes))}", f"proxyless:{'-'.join(map(str, genes))}"):
        with suppress(InputError):  # and no other error
            assert SPACE.is_valid(SPACE.row(SPACE.parse(text))[None])[0]


WIDTHS = {  # written out by hand from the rule of the MobileNet papers: to 8s, at least 8, down by at most 10 %
    "": "32,16x1,24x4s2,40x4s2,80x4s2,96x4,192x4s2,320x1,1280",
    "w1": "32,16x1,24x4s2,40x4s2,80x4s2,96x4,192x4s2,320x1,1280",
    "w0.5": "16,8x1,16x4s2,24x4s2,40x4s2,48x4,96x4s2,160x1,1280",
    "w0.25": "8,8x1,8x4s2,16x4s2,24x4s2,24x4,48x4s2,80x1,1280",
    "w1.4": "48,24x1,32x4s2,56x4s2,112x4s2,136x4,272x4s2,448x1,1792",
    "mobile": "32,16x1,32x4s2,40x4s2,80x4s2,96x4,192x4s2,320x1,1280",
    "cpu": "40,24x1,32x4s2,48x4s2,88x4s2,104x4,216x4s2,360x1,1432",
    "gpu": "40,24x1,32x4s2,56x4s2,112x4s2,128x4,256x4s2,432x1,1728",
}


@pytest.mark.parametrize("text", sorted(WIDTHS))
def test_skeletons_by_name_and_factor(text):
    assert str(parse_skeleton(text)) == WIDTHS[text]
    assert parse_skeleton(WIDTHS[text]) == parse_skeleton(text)


def test_widths_are_scaled_as_torchvision_scales_them():
    for factor in np.arange(0.05, 3, 0.05):
        scaled = STANDARD.scaled(float(factor))
        assert scaled.stem == _make_divisible(32 * factor, 8)
        assert [s.width for s in scaled.stages] == [_make_divisible(s.width * factor, 8) for s in STANDARD.stages]
        assert scaled.head == _make_divisible(1280 * max(1.0, factor), 8)


stages = st.builds(Stage, st.integers(1, 99_999), st.integers(1, 9), st.sampled_from([1, 2]))
skeletons = st.builds(
    lambda stem, first, rest, head: Skeleton(stem, (Stage(first.width, 1, first.stride), *rest), head),
    st.integers(1, 999),
    stages,
    st.lists(stages, min_size=1, max_size=6),
    st.integers(1, 9999),
)


@given(skeletons)
def test_skeleton_text_round_trip(skeleton):
    assert parse_skeleton(str(skeleton)) == skeleton
    space = get_space(f"proxyless@{skeleton}")
    assert space.choices == (3, *(6 if i == 0 else 7 for s in skeleton.stages[1:] for i in range(s.layers)))
    assert [len(stage) for stage in space.stages] == [stage.layers for stage in skeleton.stages]
    assert [gene for stage in space.stages for gene in stage] == list(range(len(space.choices)))


@pytest.mark.parametrize(
    "text",
    [
        "w0",
        "w0.049",
        "w8.01",
        "w-1",
        "w",
        "w1e2",
        "w0.5 ",
        "w٠.5",
        "tablet",
        "32",
        "32,1280",
        "32,16x1,1280",  # only the stage of the first block
        "32,16x2,24x2,1280",  # two first blocks
        "32,16x1,24x0,1280",
        "32,16x1,0x2,1280",
        "0,16x1,24x2,1280",
        "32,16x1,24x2,0",
        "32,16x1,24x2",
        "16x1,24x2,1280",
        "32,16x1,24x2s3,1280",
        "32,16x1,24x2s1,1280",
        "32,16x1,24,1280",
        "32,16x1,24x2,,1280",
        "32,16x1, 24x2,1280",
        "32,16x1,24x2,1280\n",
        "-32,16x1,24x2,1280",
        "32,16x1,24x2.5,1280",
        "３２,16x1,24x2,1280",
        "9" * 5000 + ",16x1,24x2,1280",
        "32,16x1,24x" + "9" * 13 + ",1280",  # would not fit in memory
    ],
)
def test_malformed_skeletons(text):
    with pytest.raises(InputError, match="skeleton of proxyless") as caught:
        get_space(f"proxyless@{text}")
    assert repr(text) in str(caught.value)
    assert "proxyless@w0.5" in caught.value.hint


def test_an_unknown_space_names_those_that_exist():
    with pytest.raises(InputError, match="'proxyles'") as caught:
        get_space("proxyles@w0.5")
    assert all(name in caught.value.hint for name in SPACES)


@pytest.mark.parametrize(
    ("values", "words"), [((0, 10), "resolution"), ((32, 1), "classes"), ((32, 10, 0), "channels"), ((-3, 2), "-3")]
)
def test_impossible_tasks(values, words):
    with pytest.raises(InputError, match=words):
        Task(*values)
