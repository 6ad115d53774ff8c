import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.objectives import LIMITED, Limit, contradiction, satisfies, total_violation
from spaces.errors import InputError

PATIENT = settings(deadline=None)  # a busy core is no failure
VALUES = st.floats(0, 1e15, allow_subnormal=False)
LIMITS = st.builds(Limit, st.sampled_from(LIMITED), st.sampled_from(["<=", ">="]), VALUES)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("latency_ms<=3", Limit("latency_ms", "<=", 3.0)),
        ("latency_ms<=0.3", Limit("latency_ms", "<=", 0.3)),
        ("params<=2e6", Limit("params", "<=", 2_000_000.0)),
        ("params<=2M", Limit("params", "<=", 2_000_000.0)),
        ("weight_bytes<=2.5k", Limit("weight_bytes", "<=", 2500.0)),
        ("flops>=1G", Limit("flops", ">=", 1e9)),
        ("flops <= 0.3G", Limit("flops", "<=", 3e8)),
        (" intensity >= .5 ", Limit("intensity", ">=", 0.5)),
        ("peak_memory_bytes<=1e+9", Limit("peak_memory_bytes", "<=", 1e9)),
        ("params<=4.080512M", Limit("params", "<=", 4_080_512.0)),
    ],
)
def test_text_becomes_a_limit(text, limit):
    assert Limit.parse(text) == limit


@pytest.mark.parametrize(
    "text",
    [
        "", "latency<3", "latency_ms<3", "latency_ms<=", "latency_ms=3", "<=3", "latency_ms<=nan", "latency_ms<=-1",
        "latency_ms<=inf", "latency_ms<=1e999", "params<=2m", "params<=2 M", "params<=2MB", "params<=1,000",
        "params<==3", "params", "accuracy>=3", "3>=params", "params<=2<=3", "latency-ms<=3",
    ],
)  # fmt: skip
def test_malformed_text_says_the_form(text):
    with pytest.raises(InputError) as error:
        Limit.parse(text)
    assert "NAME<=NUMBER" in error.value.hint


@pytest.mark.parametrize(
    ("text", "name"),
    [("latency<3", "latency_ms"), ("latency<=3", "latency_ms"), ("param<=3", "params"), ("Flops<=3", "flops"),
     ("latency-ms<=3", "latency_ms"), ("peak_memory<=3", "peak_memory_bytes"), ("weights_bytes>=1", "weight_bytes")],
)  # fmt: skip
def test_a_near_name_is_offered(text, name):
    with pytest.raises(InputError) as error:
        Limit.parse(text)
    assert f"did you mean {name!r}" in error.value.hint


def test_other_names_can_be_known():
    assert Limit.parse("train_seconds<=60", names=("train_seconds",)).value == 60


@PATIENT
@given(LIMITS)
def test_text_of_a_limit_reads_back(limit):
    assert Limit.parse(str(limit)) == limit


def test_text_is_plain():
    assert str(Limit.parse("params <= 2M")) == "params<=2000000"
    assert str(Limit("latency_ms", "<=", 3)) == "latency_ms<=3"


@pytest.mark.parametrize(("op", "value"), [("<", 1.0), ("==", 1.0), ("<=", -1.0), ("<=", np.nan), (">=", np.inf)])
def test_no_limit_without_meaning(op, value):
    with pytest.raises(InputError):
        Limit("params", op, value)


def test_violation_is_the_relative_excess():
    upper, lower = Limit("params", "<=", 4.0), Limit("params", ">=", 4.0)
    values = np.array([[1.0, 4.0], [6.0, 8.0]])
    np.testing.assert_allclose(upper.violation(values), [[0, 0], [0.5, 1.0]])
    np.testing.assert_allclose(lower.violation(values), [[3.0, 0], [0, 0]])
    np.testing.assert_array_equal(upper.holds(values), [[True, True], [False, False]])
    np.testing.assert_array_equal(lower.holds(values), [[False, True], [True, True]])


def test_zeros_and_unknown_values():
    np.testing.assert_array_equal(Limit("params", "<=", 0).violation([0.0, 1.0]), [0.0, np.inf])
    np.testing.assert_array_equal(Limit("params", ">=", 0).violation([0.0, 1.0]), [0.0, 0.0])
    np.testing.assert_array_equal(Limit("params", ">=", 2).violation([0.0, 1.0]), [np.inf, 1.0])
    np.testing.assert_array_equal(Limit("params", "<=", 2).violation([np.nan, np.inf]), [np.inf, np.inf])
    assert not Limit("params", ">=", 2).holds(np.nan)


@PATIENT
@given(LIMITS, VALUES, st.booleans())
def test_violation_is_zero_exactly_where_the_limit_holds(limit, value, is_close):
    if is_close:
        value = np.nextafter(limit.value, np.inf if limit.op == "<=" else 0.0)
    assert (limit.violation(value) == 0) == limit.holds(value)


def test_several_limits_hold_together():
    limits = [Limit.parse("latency_ms<=3"), Limit.parse("params<=2M"), Limit.parse("flops>=10M")]
    values = {
        "latency_ms": np.array([3.0, 2.0, 6.0, 1.0]),
        "params": np.array([2e6, 3e6, 1e6, 1e6]),
        "flops": np.array([1e7, 1e7, 1e7, 5e6]),
    }
    np.testing.assert_array_equal(satisfies(limits, values), [True, False, False, False])
    np.testing.assert_allclose(total_violation(limits, values), [0.0, 0.5, 1.0, 1.0])
    np.testing.assert_array_equal(satisfies([], values), [True] * 4)
    np.testing.assert_array_equal(total_violation([], values), [0.0] * 4)


@pytest.mark.parametrize("function", [satisfies, total_violation])
def test_a_missing_quantity_is_named(function):
    with pytest.raises(InputError, match="latency_ms"):
        function([Limit.parse("latency_ms<=3")], {"params": np.ones(2)})


@PATIENT
@given(st.lists(LIMITS, max_size=6))
def test_contradiction_agrees_with_trying_values(limits):
    # On one quantity, if any value meets all limits then one of the limits' own values does.
    names = {limit.name for limit in limits}
    possible = all(
        any(all(limit.holds(x.value) for limit in own) for x in own)
        for own in ([limit for limit in limits if limit.name == name] for name in names)
    )
    assert (contradiction(limits) is None) == possible


def test_contradiction_names_both_sides():
    limits = [Limit.parse(text) for text in ("params<=1e6", "latency_ms<=3", "params>=2e6", "params<=5e6")]
    assert contradiction(limits) == "params<=1000000 and params>=2000000 cannot both hold"
    assert contradiction(limits[:2]) is None
