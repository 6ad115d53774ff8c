import numpy as np
import pytest
from scipy import stats

from hwnas.belief import BelowTopBelief, NormalBelief, RiskyBelief, expected_improvement


def test_expected_improvement_is_the_mean_over_draws():
    draws = np.random.default_rng(0).normal(0.3, 0.2, 400_000)
    assert expected_improvement(np.array(0.3), np.array(0.2), 0.5) == pytest.approx(
        np.maximum(draws - 0.5, 0).mean(), rel=0.02
    )
    assert expected_improvement(np.array([0.3, 0.7]), np.zeros(2), 0.5) == pytest.approx([0, 0.2])


@pytest.mark.parametrize(
    "belief",
    [
        NormalBelief(np.array([0.3, 0.7, 0.9]), np.array([0.2, 0.0, 0.01])),
        BelowTopBelief(0.95, np.log([0.05, 0.5, 0.01]), np.array([0.5, 1.5, 0.0])),
        BelowTopBelief(0.95, np.log([0.9, 0.9, 0.02]), np.array([1e-9, 3.0, 2.0])),
    ],
)
def test_an_improvement_is_the_mean_over_draws(belief):
    levels = np.array([0.1, 0.6, 0.92, 0.95, 1.0])
    found = belief.improvement(levels)
    draws = belief.at(np.random.default_rng(0).standard_normal((200_000, 1)))
    gains = np.maximum(draws[:, :, None] - levels, 0.0)
    assert np.abs(found - gains.mean(axis=0)).max() < 4 * gains.std(axis=0).max() / 200_000**0.5 + 1e-12
    assert belief.part(np.array([2, 0])).improvement(levels) == pytest.approx(found[[2, 0]])


def test_bounds_below_a_top_are_quantiles_of_a_lognormal_distance():
    belief = BelowTopBelief(0.95, np.log([0.05, 0.5]), np.array([0.5, 1.5]))
    for z in (-1.959964, 0.0, 1.0, 3.0):
        share = stats.norm.sf(z)
        assert belief.at(z) == pytest.approx(0.95 - stats.lognorm.ppf(share, [0.5, 1.5], scale=[0.05, 0.5]))


def test_nothing_is_hoped_of_what_is_sure_to_be_at_the_top_of_numbers():
    """Huge stds overflow nowhere."""
    belief = BelowTopBelief(0.95, np.log([0.05]), np.array([60.0]))
    (gains,) = belief.improvement(np.array([0.1, 0.9]))
    assert gains == pytest.approx([0.85 / 2, 0.05 / 2], abs=0.03)  # far below, or at the top: each half of the time


def test_what_may_fail_is_believed_in_as_often_as_it_does_not():
    of_success = BelowTopBelief(0.95, np.log([0.05, 0.1, 0.2]), np.array([0.5, 0.0, 1.0]))
    belief = RiskyBelief(of_success, np.array([1.0, 0.6, 0.0]), 0.4)
    rng, levels = np.random.default_rng(0), np.array([0.4, 0.7, 0.9])
    drawn = of_success.at(rng.standard_normal((200_000, 1)))
    drawn = np.where(rng.random(drawn.shape) < [1.0, 0.6, 0.0], drawn, 0.4)
    gains = np.maximum(drawn[:, :, None] - levels, 0.0).mean(axis=0)
    assert belief.improvement(levels) == pytest.approx(gains, abs=0.002)
    assert belief.part(slice(1, None)).improvement(levels) == pytest.approx(gains[1:], abs=0.002)
    # Where nothing else is uncertain, the mean over failing or not; and what surely fails is worth a failure.
    assert belief.at(0.0)[1] == pytest.approx(drawn[:, 1].mean(), abs=0.002)
    assert belief.at(2.0)[[0, 2]] == pytest.approx([of_success.at(2.0)[0], 0.4])
