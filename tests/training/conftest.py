"""Real images where this checkout has them beside it, and one thread everywhere."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "images"


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


def _unpacked(name, folder):
    if not (SHARED / "unpack.py").exists():
        pytest.skip(f"the real images are not there: {SHARED}")
    subprocess.run([sys.executable, SHARED / "unpack.py", folder, name], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def cifar10_root(tmp_path_factory):
    return _unpacked("cifar10", tmp_path_factory.mktemp("cifar10"))


@pytest.fixture(scope="session")
def flowers(tmp_path_factory):
    return _unpacked("flowers5", tmp_path_factory.mktemp("flowers")) / "flowers5"
