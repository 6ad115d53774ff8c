"""Measuring as it is, but fewer times, in the process that asks, and with little to flush.

Most tests of the command line ask for a latency, and not for a good one.
"""

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from latency import kit, measuring, rounds, runtime

MAIN = (  # as `hwnas`, for `python -c`
    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
    "from measuring_less import measure_less; measure_less(); from pipelines.cli import main; main()"
)

LITTLE = 2**22  # bytes; a second for each gigabyte is most of what measuring takes


def measure_less(monkeypatch=None):
    """In this process, for good or while `monkeypatch` holds."""
    patch = monkeypatch or pytest.MonkeyPatch()
    patch.setattr(rounds, "FLUSH_BYTES", LITTLE)
    for module in (runtime, measuring):
        patch.setattr(module, "new_processes", lambda: nullcontext(lambda fn, *args: fn(*args)))
    patch.setattr(runtime, "REFERENCE_PAUSES_S", (0.0,))
    for module in (kit, measuring):
        patch.setattr(module, "PLAN_VISITS", measuring.LEAST_PLAN_VISITS)
    for name, number in {"processes": 6, "most_processes": 6, "visits": 1}.items():
        patch.setitem(runtime.measure.__kwdefaults__, name, number)


def less_command(*arguments):
    return [sys.executable, "-c", MAIN, *map(str, arguments)]
