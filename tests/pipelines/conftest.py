"""What holds for tests of the command line."""

import pytest
from measuring_less import measure_less


@pytest.fixture(scope="module", autouse=True)
def quick_latencies():
    with pytest.MonkeyPatch.context() as monkeypatch:
        measure_less(monkeypatch)
        yield
