"""What holds for tests of the command line."""

import shutil

import numpy as np
import pytest
from measuring_less import measure_less

from latency import Device
from latency.reference import stored_reference_ms
from spaces import Task


@pytest.fixture(scope="module", autouse=True)
def quick_latencies():
    with pytest.MonkeyPatch.context() as monkeypatch:
        measure_less(monkeypatch)
        yield


@pytest.fixture(scope="session")
def home_for_digits(tmp_path_factory):
    """Makes a home in which the reference of digits is known: it is measured once, as `measure_less` has it."""
    known, task = tmp_path_factory.mktemp("known"), Task(8, 10, 1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HWNAS_HOME", str(known))
        measure_less(monkeypatch)
        stored_reference_ms(task, Device.here(), np.random.default_rng(0))

    def make(path):
        shutil.copytree(known, path)

    return make
