"""What several tests of this floor need: few threads, tiny skeletons, and every row of a space."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import settings

from spaces import Layer, Population, SearchSpace, Task
from spaces.chain import ChainSpace

torch.set_num_threads(1)
settings.register_profile("no deadline", deadline=None)  # no test asserts a speed
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def all_rows() -> Callable[[ChainSpace], Population]:
    """Every valid row of a space, by the definition of `allowed` and nothing else."""

    def enumerate_rows(space: ChainSpace) -> Population:
        values = [[choice for choice in range(space.allowed.shape[1]) if row[choice]] for row in space.allowed]
        return np.array(list(product(*values)), dtype=np.int64)

    return enumerate_rows


@pytest.fixture(scope="session")
def record_key() -> Callable[[SearchSpace, np.ndarray, Task], tuple[Layer, ...]]:
    """The layer records of a row without the names that a reader would give to the parts: what the network is."""

    def key(space: SearchSpace, row: np.ndarray, task: Task) -> tuple[Layer, ...]:
        return tuple(replace(layer, block="") for layer in space.layers(space.arch(row), task))

    return key
