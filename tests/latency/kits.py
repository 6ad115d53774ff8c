"""A small kit and what it measured, as tests of two floors need them."""

import importlib.util
import itertools
import subprocess
import sys
import sysconfig
from contextlib import nullcontext
from pathlib import Path

import pytest

from latency import kit as sources
from latency.kit import write_kit
from latency.seal import sealed
from spaces import Task, get_space

SPACE, TASK = get_space("proxyless@8,8x1,16x2s2,24x2s2,64"), Task(8, 10, 1)
OTHER_CPU, VISITS = "Plain Board 5", 2
BARE = ("numpy", "numpy.libs", "onnxruntime")
NUMBER = itertools.count()


def bare_python(folder: Path) -> Path:
    """The interpreter of a new virtual environment that holds numpy and ONNX Runtime alone."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    scheme = {"base": str(folder), "platbase": str(folder)}
    theirs, ours = Path(sysconfig.get_path("purelib", "venv", scheme)), Path(sysconfig.get_path("purelib"))
    for name in BARE:
        if (ours / name).exists():
            (theirs / name).symlink_to(ours / name)
    return folder / "bin" / "python"


def loaded(kit: Path):
    """`measure.py` of a kit as a module, its buffer for flushing made small so that tests are quick."""
    name = f"measure_{next(NUMBER)}"
    spec = importlib.util.spec_from_file_location(name, kit / "measure.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    module.FLUSH_BYTES = 2**16
    module.REFERENCE_PAUSES_S = (0.0,)
    module.in_new_process = lambda fn, *args: fn(*args)  # where it would not be found by its name
    module.new_processes = lambda: nullcontext(module.in_new_process)
    return module


def small_kit(folder: Path, *, space=SPACE, task=TASK, own=None) -> Path:
    """Of two visits, since no test judges how well it measures."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sources, "PLAN_VISITS", VISITS)
        write_kit(folder, space, task, seed=0, own=own)
    return folder


def measured_elsewhere(kit: Path) -> Path:
    """The result of a run on a machine with another processor."""
    measure = loaded(kit)
    measure._cpu_model = lambda: OTHER_CPU
    assert measure.main([]) == 0
    return kit / "result.json"


def resealed(result: dict) -> str:
    """A changed result with a digest that fits, as only a program that means to deceive would write it."""
    return sealed(result)
