"""What holds for every test."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def home_of_the_tests(tmp_path_factory):
    """What a user of this machine has measured is neither read nor added to."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HWNAS_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def home_of_its_own(home_of_the_tests, tmp_path_factory, monkeypatch):
    """No test reads what another measured, in whatever order they run."""
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path_factory.mktemp("home")))
