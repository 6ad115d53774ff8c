"""What is stored of a device."""

import json

import numpy as np

from latency import Device, reference
from spaces import Task


def test_the_reference_is_measured_once_for_each_device_and_task(tmp_path, monkeypatch):
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    answers = iter([0.5, 0.7, 0.9])
    monkeypatch.setattr(reference, "measure_reference", lambda model, rng, setting: next(answers))
    rng = np.random.default_rng(0)
    one, other = Device("a", 2, 1, "CPU", "1", "Linux"), Device("b", 2, 1, "CPU", "1", "Linux")
    assert one.fingerprint != other.fingerprint
    asked = [(Task(8, 10), one), (Task(8, 10), one), (Task(16, 10), one), (Task(8, 10), other), (Task(16, 10), one)]
    assert [reference.stored_reference_ms(task, device, rng) for task, device in asked] == [0.5, 0.5, 0.7, 0.9, 0.7]
    stored = json.loads((tmp_path / "devices" / f"{one.fingerprint}.json").read_text())
    assert stored["device"]["cpu"] == "a"


def test_this_machine_has_a_fingerprint_that_stays():
    assert Device.here() == Device.here()
    assert Device.here().fingerprint != Device.here(threads=2).fingerprint
    assert len(Device.here().cpu) > 2
