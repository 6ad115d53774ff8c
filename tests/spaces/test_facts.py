"""The facts that this floor must reproduce: what papers, tables and released code print, and beside it what we count.

Read `FACTS` as a table. `python -m pytest tests/spaces/test_facts.py -rA` prints it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from itertools import product

import numpy as np
import pytest
from outside import CELLS, MACRO, cells_of_the_table, column, distinct, macro_rows, other_counts

from spaces import PUBLISHED, SPACES, Task, get_space

CIFAR10 = Task(resolution=32, classes=10)
EXACT = "to the unit"
PRINTED = "the larger of 0.5 % and half the last printed digit"
NOT_MET = "outside of that, for the reason given"
NOT_CHECKED = "cannot be checked, for the reason given"
UNITS = {"": 1, "M": 10**6, "B": 10**9}


@dataclass(frozen=True)
class Fact:
    """One row of the table.

    Attributes:
        published: a whole number, or a text with as many digits as the source prints, such as "5.3 M".
        measured_by: counts it here.
        measured: what that must give, to the unit, so that no change of a space passes unseen.
        reason: why a figure is not met.
    """

    what: str
    published: int | str
    measured_by: Callable[[], int] | None
    tolerance: str
    measured: int | None = None
    reason: str = ""

    def __str__(self) -> str:
        published = f"{self.published:,}" if isinstance(self.published, int) else self.published
        measured = f" | measured {self.measured:,}" if self.measured is not None else ""
        marked = {EXACT: " | to the unit", NOT_MET: " | NOT MET", NOT_CHECKED: " | NOT CHECKED"}.get(self.tolerance, "")
        return f"{self.what} | published {published}{measured}{marked}"

    @property
    def value(self) -> Decimal:
        digits, unit = f"{self.published} ".split(" ")[:2]
        return Decimal(digits) * UNITS[unit]

    def is_met_by(self, count: int) -> bool:
        if isinstance(self.published, int):
            return count == self.published
        digits, unit = self.published.split()
        last_digit = UNITS[unit] * Decimal(1).scaleb(Decimal(digits).as_tuple().exponent)
        return abs(count - self.value) <= max(Decimal("0.005") * self.value, last_digit / 2)


# How each is measured


@cache
def counted(name: str) -> tuple[int, int]:
    """Parameters and multiply-adds of a published network, from its layer records."""
    known = PUBLISHED[name]
    records = get_space(known.arch.space).layers(known.arch, known.task)
    return sum(layer.params for layer in records), sum(layer.flops for layer in records)


@dataclass(frozen=True)
class Params:
    name: str

    def __call__(self) -> int:
        return counted(self.name)[0]


@dataclass(frozen=True)
class Flops:
    """Multiply-adds of convolutions and linear layers, one for each."""

    name: str

    def __call__(self) -> int:
        return counted(self.name)[1]


def params_of_nasnet_a_6_at_2304() -> int:
    known, space = PUBLISHED["nasnet-a@7x2304"], get_space("nasnet@6x2304,keepn0r3")
    return int(space.counts(np.array(known.arch.genes)[None], known.task)[1][0])


def rows_of_proxyless() -> int:
    """The product of the values that `is_valid` allows each gene, alone."""
    space, ways = get_space("proxyless"), 1
    for gene, size in enumerate(space.choices):
        rows = np.zeros((size, len(space.choices)), dtype=np.int64)
        rows[:, gene] = range(size)
        ways *= int(space.is_valid(rows).sum())
    assert space.cardinality == ways
    return ways


def networks_of_proxyless() -> int:
    """Each stage in all its ways, the other genes drawn and so kept; the product of the stages is what there is."""
    space, networks = get_space("proxyless"), 1
    stages = [slice(0, 1), *(slice(start, start + 4) for start in range(1, 21, 4)), slice(21, 22)]
    for number, genes in enumerate(stages):
        ways = np.array(list(product(*map(range, space.choices[genes]))))
        rows = space.sample(len(ways), np.random.default_rng(number))
        others = np.delete(space.canonical(rows), genes, axis=1)
        rows[:, genes] = ways
        keys = space.canonical(rows)
        assert np.array_equal(np.delete(keys, genes, axis=1), others)
        networks *= len(np.unique(keys[:, genes], axis=0))
    return networks


def pnas_cells_of_one_block() -> int:
    space = get_space("pnas")
    return len(np.unique(space.canonical(space.grow(np.full((1, 20), -1))), axis=0))


def pnas_rows_of_five_blocks() -> int:
    return get_space("pnas").cardinality - get_space("pnas@2x24,b4").cardinality


@cache
def nasbench101_cells_of(vertices: int) -> int:
    space = get_space("nasbench101")
    return distinct(space.canonical(space.of_size(vertices)))


def nasbench101_cells_to(vertices: int) -> Callable[[], int]:
    return lambda: sum(nasbench101_cells_of(size) for size in range(2, vertices + 1))


def like_table(name: str, which: str) -> Callable[[], int]:
    """In how many rows the column of a table is what the space counts."""

    def rows_that_agree() -> int:
        table, rows = (CELLS, cells_of_the_table) if name == "nasbench101" else (MACRO, macro_rows)
        (theirs,) = column(table, which)
        flops, params = get_space(name).counts(rows(), CIFAR10)
        return int((theirs == (params if which == "params" else flops)).sum())

    return rows_that_agree


def networks_of_macro() -> int:
    space = get_space("nasbench_macro")
    rows = np.stack(np.unravel_index(np.arange(3**8), space.choices), axis=1)
    assert space.is_valid(rows).all()
    assert space.cardinality == len(rows) == 6_561
    return distinct(space.canonical(rows))


def same_flops(name: str) -> Callable[[], int]:
    """Of four networks, how many have our flops by fvcore and twice as many by torch."""

    def networks_that_agree() -> int:
        space, task = get_space(name), Task(17, 7)
        rows = space.sample(4, np.random.default_rng(0))
        return sum(
            other_counts(space.build(space.arch(row), task), task) == (flops, 2 * flops)
            for row, flops in zip(rows, space.counts(rows, task)[0], strict=True)
        )

    return networks_that_agree


# The table

N_WAS_4_OR_6 = """Section 4.1 of the paper says that N was 4 or 6 on CIFAR-10. 27.6 M are 8.36 times the 3.3 M of
6 @ 768: about what three times the filters make (8.43), and not a seventh cell in each stage as well (9.74)."""
TWO_PERCENT = "The same row of the paper with N = 6; of the 2.2 % that stay the paper gives no account."
DARTS_FLOPS = """The parameters agree to the thousand. Others counted 523 M and 545 M in the released code
(quark0/darts, issue 46); what was counted for the paper is not known."""
NO_GENES = "the genes of the nine architectures of table 2 are in no source at hand, so nothing can be summed"

FACTS = [
    # what | published | measured by | tolerance | measured
    Fact("proxyless: valid rows", 3 * 6**6 * 7**15, rows_of_proxyless, EXACT),
    Fact("proxyless: distinct networks", 3 * 6**6 * 259**5, networks_of_proxyless, EXACT),
    Fact("PNAS: distinct cells of one block", 136, pnas_cells_of_one_block, EXACT),
    Fact(
        "PNAS: raw cells of five blocks", math.prod(n**2 * 8**2 for n in range(2, 7)), pnas_rows_of_five_blocks, EXACT
    ),
    Fact("NAS-Bench-101: distinct cells, at most 3 vertices", 7, nasbench101_cells_to(3), EXACT),
    Fact("NAS-Bench-101: distinct cells, at most 4 vertices", 91, nasbench101_cells_to(4), EXACT),
    Fact("NAS-Bench-101: distinct cells, at most 5 vertices", 2_532, nasbench101_cells_to(5), EXACT),
    Fact("NAS-Bench-101: distinct cells, at most 6 vertices", 64_542, nasbench101_cells_to(6), EXACT),
    Fact("NAS-Bench-101: distinct cells, at most 7 vertices", 423_624, nasbench101_cells_to(7), EXACT),
    Fact(
        "NAS-Bench-101: of 30,001 rows of the table, same params",
        30_001,
        like_table("nasbench101", "params"),
        EXACT,
    ),
    Fact("NAS-Bench-101: of 30,001 rows of the table, same flops", 30_001, like_table("nasbench101", "macs"), EXACT),
    Fact(
        "NAS-Bench-Macro: of 6,561 rows of the table, same params",
        6_561,
        like_table("nasbench_macro", "params"),
        EXACT,
    ),
    Fact(
        "NAS-Bench-Macro: of 6,561 rows of the table, same flops",
        6_561,
        like_table("nasbench_macro", "flops"),
        EXACT,
    ),
    Fact("NAS-Bench-Macro: distinct networks of 6,561", 3_969, networks_of_macro, EXACT),
    Fact("NASNet-A 4@1056, 224 px: params", "5.3 M", Params("nasnet-a@4x1056"), PRINTED, 5_289_978),
    Fact("NASNet-A 4@1056, 224 px: flops", "564 M", Flops("nasnet-a@4x1056"), PRINTED, 563_638_816),
    Fact("NASNet-A 4@1056, keras: trained params", 5_326_716 - 36_738, Params("nasnet-a@4x1056"), EXACT),
    Fact("NASNet-A 6@4032, 331 px: params", "88.9 M", Params("nasnet-a@6x4032"), PRINTED, 88_753_150),
    Fact("NASNet-A 6@4032, 331 px: flops", "23.8 B", Flops("nasnet-a@6x4032"), PRINTED, 23_783_414_658),
    Fact("NASNet-A 6@4032, timm: params", "88.75 M", Params("nasnet-a@6x4032"), PRINTED, 88_753_150),
    Fact("NASNet-A 6@4032, timm: flops", "23.89 B", Flops("nasnet-a@6x4032"), PRINTED, 23_783_414_658),
    Fact("NASNet-A 6@4032, keras: trained params", 88_949_818 - 196_668, Params("nasnet-a@6x4032"), EXACT),
    Fact("NASNet-A 6@768, CIFAR-10: params", "3.3 M", Params("nasnet-a@6x768"), PRINTED, 3_346_538),
    Fact("NASNet-A 7@2304, CIFAR-10: params", "27.6 M", Params("nasnet-a@7x2304"), NOT_MET, 32_590_954, N_WAS_4_OR_6),
    Fact("NASNet-A 6@2304, CIFAR-10: params", "27.6 M", params_of_nasnet_a_6_at_2304, NOT_MET, 28_213_546, TWO_PERCENT),
    Fact("PNASNet-5 3@54, 224 px: params", "5.1 M", Params("pnasnet-5@3x54"), PRINTED, 5_064_487),
    Fact("PNASNet-5 3@54, 224 px: flops", "588 M", Flops("pnasnet-5@3x54"), PRINTED, 587_293_200),
    Fact("PNASNet-5 4@216, 331 px: params", "86.1 M", Params("pnasnet-5@4x216"), PRINTED, 86_057_668),
    Fact("PNASNet-5 4@216, 331 px: flops", "25.0 B", Flops("pnasnet-5@4x216"), PRINTED, 24_937_395_792),
    Fact("PNASNet-5 4@216, timm: params", "86.06 M", Params("pnasnet-5@4x216"), PRINTED, 86_057_668),
    Fact("PNASNet-5 4@216, timm: flops", "25.04 B", Flops("pnasnet-5@4x216"), PRINTED, 24_937_395_792),
    Fact("ProxylessNAS mobile: params", 4_080_512, Params("proxyless-mobile"), EXACT),
    Fact("ProxylessNAS mobile: flops", 320_427_584, Flops("proxyless-mobile"), EXACT),
    Fact("ProxylessNAS cpu: params", 4_361_648, Params("proxyless-cpu"), EXACT),
    Fact("ProxylessNAS cpu: flops", 439_243_864, Flops("proxyless-cpu"), EXACT),
    Fact("ProxylessNAS gpu: params", 7_119_848, Params("proxyless-gpu"), EXACT),
    Fact("ProxylessNAS gpu: flops", 465_260_160, Flops("proxyless-gpu"), EXACT),
    Fact("MobileNetV2: params", "3.5 M", Params("mobilenet-v2"), PRINTED, 3_504_872),
    Fact("MobileNetV2: flops", "300 M", Flops("mobilenet-v2"), PRINTED, 300_774_272),
    Fact("MobileNetV2, torchvision: params", 3_504_872, Params("mobilenet-v2"), EXACT),
    Fact("MobileNetV2, torchvision: flops", 300_774_272, Flops("mobilenet-v2"), EXACT),
    Fact(
        "Neural Predictor, table 2, sums of the Pixel 1 table", "75.05 to 84.95 ms", None, NOT_CHECKED, reason=NO_GENES
    ),
    Fact("proxyless: of 4 networks, same flops in fvcore and torch", 4, same_flops("proxyless@w0.25"), EXACT),
    Fact("nasnet: of 4 networks, same flops in fvcore and torch", 4, same_flops("nasnet@1x96"), EXACT),
    Fact("pnas: of 4 networks, same flops in fvcore and torch", 4, same_flops("pnas@1x4"), EXACT),
    Fact("darts: of 4 networks, same flops in fvcore and torch", 4, same_flops("darts@4x4"), EXACT),
    Fact("nasbench101: of 4 networks, same flops in fvcore and torch", 4, same_flops("nasbench101@2x1x9"), EXACT),
    Fact(
        "nasbench_macro: of 4 networks, same flops in fvcore and torch",
        4,
        same_flops("nasbench_macro@8x64"),
        EXACT,
    ),
    # further networks of the same papers
    Fact("PNASNet-5 3@48, CIFAR-10: params", "3.2 M", Params("pnasnet-5@3x48"), PRINTED, 3_189_082),
    Fact("DARTS v2 20x36, CIFAR-10: params", "3.349 M", Params("darts-v2@20x36"), PRINTED, 3_349_342),
    Fact("DARTS v2 14x48, 224 px: params", "4.719 M", Params("darts-v2@14x48"), PRINTED, 4_718_752),
    Fact("DARTS v2 14x48, 224 px: flops", "574 M", Flops("darts-v2@14x48"), NOT_MET, 529_911_552, DARTS_FLOPS),
    Fact("AmoebaNet-A 6x32, CIFAR-10: params", "2.6 M", Params("amoebanet-a@6x32"), PRINTED, 2_567_754),
    Fact("AmoebaNet-A 6x36, CIFAR-10: params", "3.2 M", Params("amoebanet-a@6x36"), PRINTED, 3_218_266),
    Fact("AmoebaNet-A 4x50, 224 px: params", "5.1 M", Params("amoebanet-a@4x50"), PRINTED, 5_086_930),
    Fact("AmoebaNet-A 4x50, 224 px: flops", "555 M", Flops("amoebanet-a@4x50"), PRINTED, 554_687_204),
    Fact("AmoebaNet-A 6x190, 331 px: params", "86.7 M", Params("amoebanet-a@6x190"), PRINTED, 86_718_797),
    Fact("AmoebaNet-A 6x190, 331 px: flops", "23.1 B", Flops("amoebanet-a@6x190"), PRINTED, 23_133_663_507),
    Fact("AmoebaNet-A 6x448, 299 px: params", "469 M", Params("amoebanet-a@6x448"), PRINTED, 468_151_184),
    Fact("AmoebaNet-A 6x448, 299 px: flops", "104 B", Flops("amoebanet-a@6x448"), PRINTED, 103_887_693_968),
]


@pytest.mark.parametrize("fact", FACTS, ids=str)
def test_fact(fact):
    if fact.measured_by is None:
        assert fact.tolerance == NOT_CHECKED
        pytest.skip(fact.reason)
    found = fact.measured_by()
    beside = f"{fact.what}: published {fact.published}, measured {found:,}"
    if fact.measured is not None:
        assert found == fact.measured, f"{beside}, where it was {fact.measured:,}"
    if fact.tolerance == NOT_MET:
        assert fact.reason
        assert not fact.is_met_by(found), f"{beside}: it is met now, so say so in the table"
    else:
        assert fact.is_met_by(found), f"{beside}; they must agree: {fact.tolerance}"


@pytest.mark.parametrize(
    ("published", "least", "most"),
    [
        (136, 136, 136),
        ("5.3 M", 5_250_000, 5_350_000),  # half of the last digit
        ("3.349 M", 3_332_255, 3_365_745),  # 0.5 %
        ("104 B", 103_480_000_000, 104_520_000_000),
    ],
)
def test_what_is_near_enough(published, least, most):
    fact = Fact("", published, None, PRINTED)
    assert [fact.is_met_by(count) for count in (least - 1, least, most, most + 1)] == [False, True, True, False]


def test_the_table_has_every_figure_that_the_catalogue_states_and_every_space():
    stated = {(fact.measured_by, fact.value) for fact in FACTS if isinstance(fact.measured_by, Params | Flops)}
    for name, known in PUBLISHED.items():
        for count, figure in ((Params(name), known.params), (Flops(name), known.flops)):
            assert known.arch is None or figure is None or (count, figure) in stated, (count, figure)
    assert sorted(fact.what.partition(":")[0] for fact in FACTS if "in fvcore and torch" in fact.what) == sorted(SPACES)
