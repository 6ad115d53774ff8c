"""The published Pixel 1 table of the ProxylessNAS space, read as an additive cost: DESIGN section 5."""

from pathlib import Path

import numpy as np
import pytest

from spaces import Network, Task, get_space
from spaces.additive import AdditiveCost, AdditiveSampler, Interval, extremes

TABLE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "tables" / "latency_lut.parquet"
TASK = Task(resolution=224, classes=1000)


def key(piece: Network) -> str:
    """What the table calls a piece of a network: maps as height x width x channels."""

    def of(shape):
        return "x".join(map(str, (*shape[1:], shape[0])))

    ends = f"input:{of(piece[0].shape)}-output:{of(piece[-1].shape)}"
    convs = [layer for layer in piece if layer.op == "conv"]
    depthwise = next((layer for layer in convs if layer.groups > 1), None)
    if depthwise is None:
        return f"Conv-{ends}"
    expand = depthwise.in_features // piece[0].shape[0]
    skip = int(piece[-1].op == "add")
    kernel, stride = depthwise.kernel[0], depthwise.stride[0]
    return f"expanded_conv-{ends}-expand:{expand}-kernel:{kernel}-stride:{stride}-idskip:{skip}"


@pytest.fixture(scope="module")
def pixel1() -> AdditiveCost:
    if not TABLE.exists():
        pytest.skip(f"{TABLE} is not here")
    from pyarrow import parquet

    rows = parquet.read_table(TABLE, filters=[("lut", "==", "proxylessnas_mobile_trim_pixel1")]).to_pylist()
    ms = {row["key"]: row["mean_ms"] for row in rows}
    assert len(ms) == 72

    def cost(piece: Network) -> float:
        if piece[-1].op == "linear":  # the head stands in the table as two
            return ms["Conv_1-input:7x7x320-output:7x7x1280"] + ms["Logits-input:7x7x1280-output:1000"]
        return ms[key(piece)]  # a block that the table lacks is an error, never 0

    return get_space("proxyless").fragments(TASK).additive(cost)


def test_networks_of_75_to_85_ms_are_rare_and_the_least_is_under_30(pixel1):
    space = get_space("proxyless")
    uniform = pixel1.of(space.sample(400_000, np.random.default_rng(0)))
    share = np.mean((uniform >= 75) & (uniform <= 85))
    assert share == pytest.approx(0.008, abs=0.0005)  # 0.8 %
    assert uniform.min() > 50  # by drawing, 50 ms looks infeasible
    (least, _), (most, _) = extremes(pixel1, space.allowed)
    assert least < 30
    assert most > uniform.max()


@pytest.mark.parametrize(("low", "high"), [(75, 85), (30, 50), (29, 32)])
def test_sampling_under_the_table_does_not_starve(pixel1, low, high):
    space = get_space("proxyless")
    rows = AdditiveSampler(space.allowed, [Interval(pixel1, low, high)]).sample(2000, np.random.default_rng(0))
    assert len(rows) == 2000
    assert space.is_valid(rows).all()
    assert low <= pixel1.of(rows).min() <= pixel1.of(rows).max() <= high


def test_drawing_under_the_table_and_drawing_until_it_fits_agree(pixel1):
    """Two ways to the uniform distribution over 75 to 85 ms: how often each value of each gene comes."""
    space, rng = get_space("proxyless"), np.random.default_rng(1)
    rows = space.sample(2_000_000, rng)
    ms = pixel1.of(rows)
    rejected = rows[(ms >= 75) & (ms <= 85)]
    direct = AdditiveSampler(space.allowed, [Interval(pixel1, 75, 85)]).sample(len(rejected), rng)
    assert len(rejected) > 10_000
    for gene, size in enumerate(space.choices):
        shares = [np.bincount(part[:, gene], minlength=size) / len(part) for part in (rejected, direct)]
        # Five standard errors of a difference of two shares; 22 genes of up to 7 values.
        assert np.abs(shares[0] - shares[1]).max() < 5 * np.sqrt(2 * 0.25 / len(rejected))
