"""Prices of layers and pieces: against Bayesian regression in closed form, on devices of known prices, on real ones."""

import importlib.util
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import approx_fprime

from latency import prices as learning
from latency import table
from latency.prices import NOISE, PARTS, TIMED_PARTS, fit_prices, learned_prices, most_telling, price_pieces
from spaces import Task, get_space

SPACE = get_space("darts@4x8")
TASK = Task(32, 10)
ROOT = Path(__file__).resolve().parents[2]
HELP = ROOT.parent / "shared" / "data" / "tables" / "help_fbnet_latency.parquet"


@pytest.fixture(scope="module")
def counted():
    """(counts, forms) of 400 networks."""
    tally = SPACE.tally(TASK)
    counts = tally(SPACE.sample(400, np.random.default_rng(0)))
    return counts, tally.forms


def known_ms(counts, forms, rng):
    """A device that takes so long for a launch and a multiply-add of each kind and each byte, and adds 30 % by form."""
    kinds = sorted({form.kind for form in forms})
    launch, flop = (dict(zip(kinds, scale * rng.uniform(0.5, 2, len(kinds)), strict=True)) for scale in (2e-3, 5e-8))
    prices = [launch[form.kind] * form.launches + flop[form.kind] * form.flops + 1e-7 * form.elements for form in forms]
    return 0.02 + counts @ (np.array(prices) * rng.uniform(0.85, 1.15, len(forms)))


def bayes(prior, design, targets, noise):
    """Mean and covariance of weights with a Gaussian prior, by weights: the precision of the prior and of the data."""
    precision = np.linalg.inv(prior) + design.T @ design / noise
    covariance = np.linalg.inv(precision)
    return covariance @ design.T @ targets / noise, covariance


def prior_of_weights(prices, forms):
    """Of the constant and the prices of forms, for the learned variances."""
    table = prices._table(forms)
    prior = np.zeros((len(forms) + 1, len(forms) + 1))
    prior[0, 0] = prices.variances[0]
    prior[1:, 1:] = np.tensordot(prices.variances[1:-1], learning._covariances(table, table), 1)
    return prior


@pytest.fixture(scope="module")
def learned(counted):
    counts, forms = counted
    ms = known_ms(counts, forms, np.random.default_rng(1)) * np.exp(0.02 * np.random.default_rng(2).normal(size=400))
    return fit_prices(counts[:30], forms, ms[:30]), ms


def test_estimates_and_intervals_are_those_of_bayesian_regression(counted, learned):
    counts, forms = counted
    prices, ms = learned
    prior = prior_of_weights(prices, forms)
    typical = stats.gmean(ms[:30])
    design = np.concatenate([np.ones((400, 1)), counts], axis=1)
    relative = design[:30] * (typical / ms[:30])[:, None]
    mean, covariance = bayes(prior, relative, np.ones(30), prices.variances[-1])
    np.testing.assert_allclose(prices.estimate(counts, forms), typical * design @ mean, rtol=1e-6)
    share = design @ mean
    std = np.sqrt(((design @ covariance) * design).sum(axis=1) / share**2 + prices.variances[-1])
    low, high = prices.interval(counts, forms)
    reach = np.log(high / low) / 2 / std
    np.testing.assert_allclose(reach, reach[0], rtol=1e-5)
    assert reach[0] >= stats.t.ppf(0.975, 29)  # at least what 95 % of 30 networks needs
    np.testing.assert_allclose(np.sqrt(low * high), typical * share, rtol=1e-6)


def test_each_network_is_left_out_as_if_it_had_not_been_measured(counted, learned):
    counts, forms = counted
    prices, ms = learned
    prior = prior_of_weights(prices, forms)
    relative = np.concatenate([np.ones((30, 1)), counts[:30]], axis=1) * (stats.gmean(ms[:30]) / ms[:30])[:, None]
    for i in (0, 7, 29):
        mean, _ = bayes(prior, np.delete(relative, i, axis=0), np.ones(29), prices.variances[-1])
        assert prices.left_out[i] == pytest.approx(1 - relative[i] @ mean, abs=1e-6)


def test_variances_maximise_the_posterior(learned):
    """The misfit is minus a log density (to a constant), its gradient is right, and it is least where the fit ended."""
    prices, _ = learned
    start, spread = 2 * np.log([*PARTS.values(), NOISE]), 2 * np.array([0.7] * len(PARTS) + [1.5])

    def misfit(logs):
        return learning._misfit(prices._process.kernels, logs, (logs - start) / spread, spread)

    def minus_log_density(logs):
        covariance = np.tensordot(np.exp(logs[:-1]), prices._process.kernels, 1) + np.exp(logs[-1]) * np.eye(30)
        of_times = stats.multivariate_normal(np.zeros(30), covariance).logpdf(np.ones(30))
        return -of_times - stats.norm(start, spread).logpdf(logs).sum()

    found = np.log(prices.variances)
    other = start + 0.3 * np.random.default_rng(0).normal(size=len(start))
    assert misfit(other)[0] - misfit(found)[0] == pytest.approx(minus_log_density(other) - minus_log_density(found))
    np.testing.assert_allclose(
        misfit(other)[1], approx_fprime(other, lambda x: misfit(x)[0], 1e-6), rtol=1e-3, atol=1e-3
    )
    assert np.abs(misfit(found)[1]).max() < 0.05
    assert misfit(found)[0] < min(misfit(start)[0], misfit(other)[0])


def test_a_device_of_prices_is_learned_from_few_networks(counted):
    counts, forms = counted
    ms = known_ms(counts, forms, np.random.default_rng(3))
    flops = counts @ [form.flops for form in forms]
    errors = {}
    for n in (10, 30, 100):
        estimate = fit_prices(counts[:n], forms, ms[:n]).estimate(counts[100:], forms)
        errors[n] = np.abs(estimate / ms[100:] - 1).mean()
    by_flops = np.abs(flops[100:] * np.mean(ms[:100] / flops[:100]) / ms[100:] - 1).mean()
    assert errors[10] < by_flops / 3
    assert errors[30] < 0.01
    assert errors[100] < 0.003


def test_the_interval_covers_new_networks(counted):
    """Times that scatter by 5 % around a sum of prices: about 95 % of new ones lie inside."""
    counts, forms = counted
    for n in (10, 40):
        inside, halves = [], []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            ms = known_ms(counts, forms, rng) * np.exp(0.05 * rng.standard_normal(400))
            rows = rng.permutation(400)
            prices = fit_prices(counts[rows[:n]], forms, ms[rows[:n]])
            low, high = prices.interval(counts[rows[n:]], forms)
            inside.append(np.mean((low <= ms[rows[n:]]) & (ms[rows[n:]] <= high)))
            halves.append(np.log(high / low).mean() / 2)
            assert 0.05 < prices.relative_error < 0.3
        assert np.mean(inside) == pytest.approx(0.95, abs=0.04)
        assert 0.09 < np.mean(halves) < 0.2


def test_what_is_unlike_all_that_was_measured_is_less_certain():
    """Networks of narrow blocks tell less about those of wide blocks than about their like."""
    space = get_space("proxyless@w0.25")
    rng = np.random.default_rng(0)
    tally = space.tally(TASK)
    rows = space.sample(60, rng)
    rows[:30, 1:] = np.where(rows[:30, 1:] == 6, 6, rows[:30, 1:] % 3)  # small expansions only
    rows[30:, 1:] = np.where(rows[30:, 1:] == 6, 6, 3 + rows[30:, 1:] % 3)  # large ones only
    counts = tally(rows)
    ms = known_ms(counts, tally.forms, rng)
    prices = fit_prices(counts[:20], tally.forms, ms[:20])
    widths = np.log(np.divide(*prices.interval(counts, tally.forms)[::-1]))
    assert widths[30:].min() > 1.5 * widths[20:30].max()


def test_a_longer_or_wider_network_takes_longer():
    """Each zero of a chain that becomes a block, and each block that becomes wider, adds time."""
    space = get_space("proxyless@w0.25")
    rng = np.random.default_rng(0)
    tally = space.tally(TASK)
    rows = space.sample(40, rng)
    prices = fit_prices(tally(rows), tally.forms, known_ms(tally(rows), tally.forms, rng))
    gene = 6  # the second layer of a stage
    for row in space.sample(10, rng):
        ladder = np.repeat(row[None], 3, axis=0)
        ladder[:, gene] = 6, 0, 3  # nothing, then expansion 3, then 6, of one kernel
        ms = prices.estimate(tally(ladder), tally.forms)
        assert all(a < b for a, b in pairwise(ms))


def test_the_most_telling_network_leaves_least_unknown(counted):
    counts, forms = counted[0][:25], counted[1]
    chosen = most_telling(counts, forms, 5)
    assert len(set(chosen.tolist())) == 5
    first = learned_prices(counts, forms, np.ones(25), tuple(value**2 for value in (*PARTS.values(), NOISE)))
    prior = prior_of_weights(first, forms)
    shares = (1 + counts @ first._table(forms).magnitude) / 2
    design = np.concatenate([np.ones((25, 1)), counts], axis=1) / shares[:, None]

    def unknown(measured):
        _, covariance = bayes(prior, design[measured], np.ones(len(measured)), learning.DESIGN_NOISE**2)
        return np.trace(design @ covariance @ design.T)

    for k in range(1, 6):
        options = [unknown([*chosen[: k - 1], i]) for i in range(25)]
        assert np.argmin(options) == chosen[k - 1]


def test_latencies_of_another_project_are_learned_from_fifty_networks():
    """Its own measurements on a GPU, by a table of prices: nothing but the row's operations is known."""
    if not HELP.exists():
        pytest.skip("the table of measured FBNet latencies is not here")
    pytest.importorskip("pyarrow.parquet")
    spec = importlib.util.spec_from_file_location("latency_help", ROOT / "benchmarks" / "latency_help.py")
    help_ = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(help_)
    rows = help_.Rows(HELP)
    ms = rows.ms["2080ti_64"]
    # Layer records explain devices that are sums of a table, so they say what was run there.
    exact = np.linalg.lstsq(np.c_[np.ones(5000), rows.counts], rows.ms["eyeriss"], rcond=1e-9)[0]
    np.testing.assert_allclose(exact[0] + rows.counts @ exact[1:], rows.ms["eyeriss"], rtol=1e-5)
    found = help_.judged(help_.learned, rows, np.random.default_rng(0).permutation(5000)[:50], ms)
    assert found["spearman"] > 0.98
    assert found["within_5"] > 0.97
    assert found["held"] > 0.85


@pytest.fixture(scope="module")
def chain():
    """(counts, layers, forms, always) of 300 networks of a chain: of how many pieces, and what layers these have."""
    space = get_space("proxyless@w0.25")
    blocks = table._BlockTimes(space, TASK, 1.0, NothingTimed())
    layers, forms = blocks.layers()
    return blocks.counts(space.sample(300, np.random.default_rng(0))), layers, forms, blocks.always()


class NothingTimed:
    """Every piece took as long."""

    def __init__(self):
        self.log_ratios = defaultdict(lambda: np.zeros(1))


def test_pieces_count_the_layers_of_their_networks(chain):
    counts, layers, forms, always = chain
    np.testing.assert_array_equal(np.flatnonzero(always), np.flatnonzero((counts == 1).all(axis=0)))
    assert always.sum() == 2
    tally = get_space("proxyless@w0.25").tally(TASK)
    whole = tally(get_space("proxyless@w0.25").sample(300, np.random.default_rng(0)))
    ours = dict(zip(forms, (counts @ layers).T, strict=True))
    assert set(ours) == set(tally.forms)
    for form, of_networks in zip(tally.forms, whole.T, strict=True):
        np.testing.assert_array_equal(ours[form], of_networks)


@pytest.mark.parametrize(
    ("constant_ms", "own", "is_below"),
    [
        (0.2, 0.0, set()),
        (0.5, 1.5, {"a piece"}),
        (-0.015, 0.0, {"the constant"}),
        (-0.35, 0.0, {"the constant", "all"}),
    ],
)
def test_prices_of_pieces_are_those_of_bayesian_regression(chain, monkeypatch, constant_ms, own, is_below):
    """By weights, with every network and without each: none negative, and what all have a hundredth of the fastest."""
    counts, layers, forms, always = chain
    counts = counts[:20]
    rng = np.random.default_rng(1)
    true_ms = known_ms(layers, forms, rng) * (1 + own * rng.standard_normal(len(layers)))
    ms = constant_ms + counts @ true_ms
    assert ms.min() > 0
    timed_ms = rng.uniform(0.01, 0.03, len(layers))
    parts = [*PARTS.values(), *TIMED_PARTS.values()]
    variances = (np.array([*parts, NOISE]) * rng.uniform(0.7, 1.4, len(parts) + 1)) ** 2
    monkeypatch.setattr(
        learning._Process,
        "fit",
        classmethod(lambda cls, kernels, asked: cls(kernels, tuple(variances[-len(asked) - 1 :].tolist()))),
    )
    priced = price_pieces(counts, timed_ms, layers, forms, ms, always)
    mean = (counts @ layers).mean(axis=0) @ learning._amounts(forms)
    of_forms = np.tensordot(
        variances[1 : len(PARTS)], learning._covariances(*[learning._table(forms, mean, {})] * 2), 1
    )
    timed = timed_ms / (counts @ timed_ms).mean()
    prior = np.zeros((len(layers) + 1, len(layers) + 1))
    prior[0, 0] = variances[0]
    prior[1:, 1:] = layers @ of_forms @ layers.T + variances[-3] * np.outer(timed, timed)
    prior[1:, 1:] += variances[-2] * np.diag(timed**2)
    design = np.concatenate([np.ones((20, 1)), counts], axis=1) * (stats.gmean(ms) / ms)[:, None]
    least_ms = 0.01 * ms.min()

    def by_weights(measured):
        weights, _ = bayes(prior, design[measured], np.ones(len(measured)), variances[-1])
        return stats.gmean(ms) * weights[0], np.maximum(stats.gmean(ms) * weights[1:], 0.0)

    everyone = np.arange(20)
    constant, of_pieces = by_weights(everyone)
    below = {
        "the constant": constant < 0,
        "a piece": (of_pieces == 0).any(),
        "all": constant + of_pieces @ always < least_ms,
    }
    assert {what for what, is_so in below.items() if is_so} == is_below
    if "all" in is_below:
        prior[0, 0] = 1e-12
        constant, of_pieces = by_weights(everyone)
    np.testing.assert_allclose(priced.ms, of_pieces, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(priced.constant_ms, max(constant, least_ms - of_pieces @ always), rtol=1e-5, atol=1e-9)
    for i in everyone:
        constant, of_pieces = by_weights(np.delete(everyone, i))
        told = counts[i] @ of_pieces + max(constant, least_ms - of_pieces @ always)
        assert priced.left_out_ms[i] == pytest.approx(told, rel=1e-5)


def test_networks_that_share_no_piece_cost_a_hundredth_of_the_fastest_at_least(chain):
    counts, layers, forms, always = chain
    ms = counts[:20] @ known_ms(layers, forms, np.random.default_rng(1)) - 0.35
    priced = price_pieces(counts[:20], np.full(len(layers), 0.02), layers, forms, ms, np.zeros_like(always))
    assert priced.constant_ms == pytest.approx(0.01 * ms.min())


def test_the_error_is_of_a_logarithm():
    """As the interval that it makes: half as long and twice as long are as wrong."""
    ms = np.array([1.0, 2.0, 4.0])
    errors = np.array([0.1, -0.2, 0.3])
    error = learning.relative_error(ms, ms * np.exp(errors))
    assert error == pytest.approx(stats.t.ppf(0.975, 2) * np.sqrt((errors**2).mean()))
    assert learning.relative_error(ms, ms * np.exp(-errors)) == pytest.approx(error)


def errors_of_pieces(chain, *, own, timing, seed):
    """Mean error for networks that were not measured, where pieces differ so much beyond what their layers tell.

    Args:
        timing: how far the time of a piece is off, standard deviation of its logarithm.
    """
    counts, layers, forms, always = chain
    rng = np.random.default_rng(seed)
    true_ms = (layers @ np.array([2e-3 * f.launches + 5e-8 * f.flops + 1e-7 * f.elements for f in forms])) * np.exp(
        own * rng.standard_normal(len(layers))
    )
    whole_ms = 0.1 + counts @ true_ms
    measured_ms = whole_ms[:24] * np.exp(0.005 * rng.standard_normal(24))
    timed_ms = 0.9 * true_ms * np.exp(timing * rng.standard_normal(len(layers)))
    priced = price_pieces(counts[:24], timed_ms, layers, forms, measured_ms, always)
    return np.abs((counts[24:] @ priced.ms + priced.constant_ms) / whole_ms[24:] - 1).mean()


def test_pieces_are_priced_by_their_times_and_by_their_layers_whichever_tell_more(chain):
    def error(**machine):
        return np.mean([errors_of_pieces(chain, **machine, seed=seed) for seed in range(8)])

    assert error(own=0.3, timing=0.02) < 0.006  # large pieces: their times are sure, their layers tell less
    assert error(own=0.3, timing=3.0) > 3 * error(own=0.3, timing=0.02)
    assert error(own=0.02, timing=0.7) < 0.01  # tiny ones: times are what the context left
    assert error(own=0.3, timing=0.7) > 2 * error(own=0.02, timing=0.7)
