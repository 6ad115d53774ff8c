"""The error that a person can cause crosses process borders whole."""

import copy
import pickle

import pytest

from spaces import InputError, get_space


class OwnError(InputError):
    exit_code = 3


@pytest.mark.parametrize("kind", [InputError, OwnError])
def test_an_input_error_pickles_with_its_hint(kind):
    error = kind("the limit is 3, got 4", hint="raise it")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert (str(twin), twin.hint, twin.exit_code) == ("the limit is 3, got 4", "raise it", kind.exit_code)
    assert isinstance(error, ValueError)
    assert InputError("no hint").hint == ""


def test_a_raised_error_pickles():
    with pytest.raises(InputError) as caught:
        get_space("nothing")
    twin = pickle.loads(pickle.dumps(caught.value))
    assert (str(twin), twin.hint) == (str(caught.value), caught.value.hint)
    assert "proxyless" in twin.hint


def test_spaces_cross_process_borders():
    space = get_space("proxyless@w0.5")
    assert space.allowed.any()  # cached values travel, or are made again
    twin = pickle.loads(pickle.dumps(space))
    assert twin == space
    assert hash(twin) == hash(space)
    assert twin.choices == space.choices
