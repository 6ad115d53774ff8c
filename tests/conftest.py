"""What holds for every test."""

import shutil

import numpy as np
import pytest

from latency import Device
from latency.reference import keep_reference, reference_model
from latency.rounds import DEFAULT_SETTING, in_new_process
from latency.runtime import REFERENCE_PROCESSES, ReferenceTime, reference_once
from spaces import Task


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


@pytest.fixture(scope="session")
def home_for_digits(tmp_path_factory):
    """Makes a home in which the reference of digits is known: it is measured once, since that takes long."""
    known, task = tmp_path_factory.mktemp("known"), Task(8, 10, 1)
    drawn = np.random.default_rng(0).spawn(REFERENCE_PROCESSES)
    model = reference_model(task)
    found = [in_new_process(reference_once, model, rng, DEFAULT_SETTING) for rng in drawn]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HWNAS_HOME", str(known))
        keep_reference(task, Device.here(), ReferenceTime.of(found))

    def make(path):
        shutil.copytree(known, path)

    return make
