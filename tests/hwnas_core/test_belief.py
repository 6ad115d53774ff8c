import numpy as np
import pytest
from scipy import stats

from hwnas.belief import BelowTopBelief, NormalBelief, expected_improvement


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
