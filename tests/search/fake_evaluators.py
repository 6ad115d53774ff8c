"""Evaluators without training, importable by worker processes."""

import os
import signal
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hwnas.evaluation.evaluator import Evaluator
from spaces import Arch


@dataclass(frozen=True)
class Smooth(Evaluator):
    """An accuracy that rises with depth and expansion, plus a little noise decided by the seed."""

    delay_s: float = 0.0

    def evaluate(self, arch: Arch, *, epochs: int, seed: int) -> Mapping[str, float]:
        if self.delay_s:
            time.sleep(self.delay_s * (seed % 7) / 7)
        genes = np.array(arch.genes)
        quality = ((genes != 6) * (1 + (genes >= 3))).mean() / 2
        return {"accuracy_val": 0.5 + 0.4 * float(quality) + 0.01 * (seed % 100) / 100, "train_seconds": 0.0}


@dataclass(frozen=True)
class Faulty(Evaluator):
    """Diverges where the first gene is 0, kills its process where it is 1."""

    def evaluate(self, arch: Arch, *, epochs: int, seed: int) -> Mapping[str, float]:
        if arch.genes[0] == 0:
            raise FloatingPointError("the loss is not finite")
        if arch.genes[0] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"accuracy_val": 0.7, "train_seconds": 0.0}


def double(x: int) -> int:
    return 2 * x


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def environment(name: str) -> str | None:
    return os.environ.get(name)


def process_id(delay_s: float) -> int:
    time.sleep(delay_s)
    return os.getpid()


class Large:
    """Memory that a task holds, and of which this process remembers only where the latest was."""

    latest: "weakref.ref[Large]"

    def __init__(self) -> None:
        Large.latest = weakref.ref(self)


def fail_with_large() -> None:
    large = Large()
    try:
        double(None)
    except TypeError as error:
        raise MemoryError(f"no room beside {large}") from error


def is_large_held() -> bool:
    return Large.latest() is not None


def fail(error: Exception, cause: Exception | None = None) -> None:
    raise error from cause
