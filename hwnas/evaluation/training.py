"""Scoring an architecture by training it."""

from __future__ import annotations

import io
import logging
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from spaces import Arch, InputError, SearchSpace

from ..device import resolve_device
from ..training.data import ImageData
from ..training.inherit import inherit
from ..training.recipe import Recipe
from ..training.trainer import TrainResult, evaluate, time_training, train
from .evaluator import Evaluator
from .interval import wilson_interval

# What torch.load raises.
DAMAGED = (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, AttributeError)
KEPT_TRIALS = 200  # from the weights of so many trials back a later one may start


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrialTime:
    """Seconds for one image in training and in validation, and for what comes once: building, slower first steps."""

    train_s_per_image: float
    validation_s_per_image: float
    setup_s: float


@dataclass(frozen=True)
class TrainingEvaluator(Evaluator):
    """Trains every architecture from its own random weights, beside the auxiliary head that its space may give it.

    Attributes:
        data_folder: what `ImageData.save` wrote; each process maps it once.
        heritage: where trials leave their weights for later ones that are made from their networks, which then do not
            start from random weights; None where all do.
        device: as `resolve_device` takes it.
        threads: of torch in this process while it trains.
    """

    space: SearchSpace
    data_folder: Path
    recipe: Recipe = field(default_factory=Recipe)
    device: str = "cpu"
    threads: int = 1
    heritage: Path | None = None

    def evaluate(self, arch: Arch, *, epochs: float, seed: int) -> Mapping[str, float]:
        """{"accuracy_val", "train_seconds", "train_s_per_image"}, after the last epoch.

        Seconds are of all, from building the network to its validation; seconds for one image (of training, after the
        slower first steps) are left out where a training has no more than those.
        """
        _, result = self._train(arch, epochs, seed)
        return _values(result)

    def evaluate_trial(
        self, arch: Arch, *, epochs: float, seed: int, number: int, parent: tuple[int, Arch] | None
    ) -> Mapping[str, float]:
        """`evaluate`, from the weights of the parent where they fit, if weights are kept and it is recent.

        Where weights are kept, "is_warm" is 1 if it began with weights of the parent, else 0: also where those are
        missing or damaged, so that no accident to a file ends a run.
        """
        if self.heritage is None:
            return self.evaluate(arch, epochs=epochs, seed=seed)
        start_from = None
        if parent is not None and number - parent[0] <= KEPT_TRIALS:
            start_from = self._legacy(*parent)
        module, result = self._train(arch, epochs, seed, start_from=start_from)
        _save_weights(module, self.heritage / f"{number}.pt")
        # Trials that run beside this one may still read what is one window older than what this one may read.
        (self.heritage / f"{number - 2 * KEPT_TRIALS}.pt").unlink(missing_ok=True)
        return {**_values(result), "is_warm": float(start_from is not None)}

    def train_final(self, arch: Arch, *, epochs: float, seed: int, weights: Path) -> Mapping[str, float]:
        """Train, and save the state dict to `weights`, whole or not at all; values as `evaluate`.

        Raises:
            TrainingFailed: if this candidate failed.
            InputError: if the weights cannot be written.
        """
        module, result = self._train(arch, epochs, seed)
        _save_weights(module, weights)
        return _values(result)

    def finish(self, arch: Arch, *, epochs: float, seed: int, weights: Path) -> Mapping[str, float]:
        """`train_final`, then `test_accuracy` of what it saved: all values of a final model."""
        trained = self.train_final(arch, epochs=epochs, seed=seed, weights=weights)
        return {**trained, **self.test_accuracy(arch, weights)}

    def test_accuracy(self, arch: Arch, weights: Path) -> Mapping[str, float]:
        """{"accuracy_test", "accuracy_test_low", "accuracy_test_high"}: with Wilson's 95 % interval.

        This alone reads the test split.

        Raises:
            InputError: if the weights are not there, or not of this architecture.
        """
        data = _open(self.data_folder)
        module = self.space.build(arch, data.task)
        load_weights(module, weights, arch)
        device = resolve_device(self.device)
        images, labels = data.test()
        with _threads(self.threads):
            module.to(device).to(memory_format=torch.channels_last)
            accuracy, correct = evaluate(module, images, labels, mean=data.mean, std=data.std, device=device)
        low, high = wilson_interval(int(correct.sum()), len(correct))
        return {"accuracy_test": accuracy, "accuracy_test_low": low, "accuracy_test_high": high}

    def time(self, arch: Arch, *, seed: int, batches: int = 6) -> TrialTime:
        """How long training and validation of an image take, for planning.

        Raises:
            TrainingFailed: if memory does not suffice.
        """
        with _threads(self.threads):
            data = _open(self.data_folder)  # once a process, so it is no part of the setup
            began = time.perf_counter()
            module, auxiliary = self.space.build(arch, data.task), self.space.auxiliary(arch, data.task)
            setup_s = time.perf_counter() - began
            device = resolve_device(self.device)
            timed = time_training(
                module, data, self.recipe, device=device, batches=batches, seed=seed, auxiliary=auxiliary
            )
        return TrialTime(timed.train_s_per_image, timed.validation_s_per_image, setup_s + timed.start_s)

    def _train(
        self, arch: Arch, epochs: float, seed: int, *, start_from: Callable[[nn.Module], int] | None = None
    ) -> tuple[nn.Module, TrainResult]:
        with _threads(self.threads):
            data = _open(self.data_folder)  # once a process, so it is no part of a training's seconds
            began = time.perf_counter()
            module, auxiliary = self.space.build(arch, data.task), self.space.auxiliary(arch, data.task)
            built_s = time.perf_counter() - began
            device = resolve_device(self.device)
            result = train(
                module,
                data,
                self.recipe,
                epochs=epochs,
                seed=seed,
                device=device,
                auxiliary=auxiliary,
                start_from=start_from,
            )
        return module, replace(result, seconds=built_s + result.seconds)

    def _legacy(self, number: int, arch: Arch) -> Callable[[nn.Module], int] | None:
        """What gives a module the weights of an earlier trial, as far as they fit; None where they cannot be read."""
        assert self.heritage is not None
        path, network = self.heritage / f"{number}.pt", self.space.layers(arch, _open(self.data_folder).task)
        try:
            weights = _read_weights(path)
        except (InputError, *DAMAGED) as error:
            log.warning("a trial that was to start from %s starts from random weights: %s", path, error)
            return None
        return lambda module: inherit(module, network, weights)


def _values(result: TrainResult) -> dict[str, float]:
    values = {"accuracy_val": result.accuracy_val, "train_seconds": result.seconds}
    return values if result.train_s_per_image is None else {**values, "train_s_per_image": result.train_s_per_image}


@lru_cache(maxsize=2)
def _open(folder: Path) -> ImageData:
    return ImageData.open(folder)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _save_weights(module: nn.Module, path: Path) -> None:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    weights = io.BytesIO()  # into a file on a full disk torch.save would raise what a failed candidate raises
    torch.save(state, weights)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(weights.getbuffer())
            Path(temporary).chmod(0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"the weights cannot be written to {path}: {error}", hint="give another folder") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(
            f"the weights {path} cannot be read: {error.strerror}", hint="train this architecture again"
        ) from error
    if not (isinstance(state, Mapping) and all(isinstance(tensor, Tensor) for tensor in state.values())):
        raise TypeError("it holds other things than tensors by name")
    return dict(state)


def load_weights(module: nn.Module, path: Path, arch: Arch) -> None:
    """Give `module`, which was built of `arch`, the weights that `train_final` saved to `path`.

    Raises:
        InputError: if the weights are not there, cannot be read, or are not of this architecture.
    """
    hint = "train this architecture again"
    try:
        module.load_state_dict(_read_weights(path))
    except DAMAGED as error:
        reason = str(error).strip().splitlines()[:1]
        raise InputError(f"{path} does not hold the weights of {arch}: {''.join(reason)}", hint=hint) from error
