"""Training and scoring one network, on the CPU or a GPU."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spaces.layers import AuxiliaryHead
from spaces.torch_network import DropPath, TorchNetwork, TrainingNetwork, initialise

from ..device import on_device
from ..execution import is_out_of_memory
from .augment import augment
from .data import ImageData
from .recipe import Recipe
from .sources import Images, Labels

SCORING_BATCH = 128
DEVICE_SHARE = 3  # a split is kept on the GPU if so many times its size is free there
UNRECORDED = 3  # steps: in them kernels are chosen and loaded, and gradients get their memory
FEW_CHANNELS = 16  # a vector of AVX-512


class TrainingFailed(RuntimeError):  # noqa: N818  it names what became of a candidate, as trials do
    """One candidate could not be trained (diverged, out of memory); others may well be."""


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch, counted from 1; the last may be a part of one. `accuracy_val` is None where it was not validated.

    `loss` is what was minimised: with an auxiliary head, the weighted loss of its scores is a part of it.
    """

    epoch: int
    epochs: float
    loss: float
    seconds: float
    accuracy_val: float | None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training gave.

    Attributes:
        accuracy_val: after the last epoch. Not of the best epoch: picking one by validation makes the validation
            accuracy too good.
        seconds: of training and validation together.
        images_per_second: of training alone.
        train_s_per_image: of training alone, in the first epoch and after its slower first steps; None where it has
            no more than those.
    """

    accuracy_val: float
    history: tuple[EpochRecord, ...]
    seconds: float
    images_per_second: float
    train_s_per_image: float | None


@dataclass(frozen=True, slots=True)
class TrainingTime:
    """Seconds for one image in training and in validation, and of what comes once: moving to the device, first steps.

    On a GPU the first steps choose, and compile, kernels for every shape that a process has not met before.
    """

    train_s_per_image: float
    validation_s_per_image: float
    start_s: float


def train(
    module: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    epochs: float,
    seed: int,
    device: torch.device | str,
    auxiliary: AuxiliaryHead | None = None,
    start_from: Callable[[nn.Module], object] | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
    validate_each_epoch: bool = False,
) -> TrainResult:
    """Draw the weights of `module` anew and train them; they stay in the module, on the device.

    Drop-path, where the recipe has it, acts on the layers that a `TorchNetwork` marks for it.

    On the CPU, with the same number of threads, equal seeds give equal weights to the bit. On CUDA convolutions
    run in bfloat16 (float16 where the GPU has none), and repeats may differ in the last bits.

    Args:
        epochs: how often all training images are seen. A part of an epoch (0.3, or the end of 2.5) sees that part of
            the images, rounded to whole steps.
        seed: of the weights, the order, the augmentation and the paths that are left out.
        auxiliary: a second classifier of `module`, which must be the `TorchNetwork` whose layer it reads. It is trained
            beside it and then thrown away; no accuracy is of it.
        start_from: overwrites fresh weights of `module`, as `inherit` does, before the first step.
        progress: is told of every epoch when it ends; what it raises ends the training.
        validate_each_epoch: record the validation accuracy after every epoch, not only after the last.
    Raises:
        TrainingFailed: if the loss is no longer finite, or memory does not suffice.
    """
    if not epochs > 0:
        raise ValueError(f"a training lasts more than 0 epochs, got {epochs}")
    device = torch.device(device)
    with _failures(), _current(device), _own_randomness(seed, device):
        start = time.perf_counter()
        run = _Training(module, data, recipe, epochs=epochs, seed=seed, device=device, auxiliary=auxiliary)
        if start_from is not None:
            start_from(run.module)
        history: list[EpochRecord] = []
        training_s = 0.0
        while run.done < run.steps:
            began = time.perf_counter()
            loss = run.epoch()
            training_s += time.perf_counter() - began
            accuracy = run.validate() if run.done == run.steps or validate_each_epoch else None
            history.append(EpochRecord(len(history) + 1, epochs, loss, time.perf_counter() - began, accuracy))
            if progress is not None:
                progress(history[-1])
        final = history[-1].accuracy_val
        assert final is not None
        return TrainResult(
            accuracy_val=final,
            history=tuple(history),
            seconds=time.perf_counter() - start,
            images_per_second=run.seen / training_s,
            train_s_per_image=run.s_per_image,
        )


def evaluate(
    module: nn.Module,
    images: Images,
    labels: Labels,
    *,
    mean: Sequence[float] | NDArray[np.float32],
    std: Sequence[float] | NDArray[np.float32],
    device: torch.device | str,
    batch_size: int = SCORING_BATCH,
) -> tuple[float, NDArray[np.bool_]]:
    """(accuracy, which images are right), in float32 as the network will be deployed.

    Args:
        images: (n, channels, height, width) uint8.
        labels: (n,).
        mean, std: per channel, for pixels scaled to [0, 1].
    Raises:
        TrainingFailed: if memory does not suffice.
    """
    device = torch.device(device)
    with _failures(), _current(device):
        feed = _Feed(images, labels, mean, std, device)
        return _score(module, feed, batch_size)


def time_training(
    module: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    device: torch.device | str,
    batches: int,
    seed: int,
    auxiliary: AuxiliaryHead | None = None,
) -> TrainingTime:
    """Time some batches of training and of validation, after warming up; the module is left as it was.

    Args:
        auxiliary: as `train` takes it.

    Raises:
        TrainingFailed: if memory does not suffice.
    """
    device = torch.device(device)
    with _failures(), _current(device), _own_randomness(seed, device):
        module = copy.deepcopy(module)
        began = time.perf_counter()
        run = _Training(module, data, recipe, epochs=1, seed=seed, device=device, auxiliary=auxiliary)
        _synchronise(device)
        start_s, first = time.perf_counter() - began, run.slower_steps
        run.steps = 3 * batches + first  # the schedule has to last, whatever the size of an epoch
        groups = run.groups()
        steps = [groups[step % len(groups)] for step in range(batches + first)]
        seconds = [_seconds(device, run.step, group) for group in steps]
        train_s = sum(seconds[first:]) / sum(map(len, steps[first:]))
        start_s += sum(seconds[:first]) - train_s * sum(map(len, steps[:first]))

        index = np.arange(min(SCORING_BATCH, len(run.val)))
        run.module.eval()
        with torch.inference_mode(), _exact():
            scoring = [
                _seconds(device, lambda: run.module(run.val.batch(index)[0])) for _ in range(max(1, batches // 2) + 1)
            ]
        validation_s = sum(scoring[1:]) / len(scoring[1:])
        start_s += scoring[0] - validation_s
        return TrainingTime(train_s, validation_s / len(index), max(0.0, start_s))


def _seconds(device: torch.device, fn: Callable[..., object], *args: object) -> float:
    """What a call takes, until the device has done it."""
    _synchronise(device)
    began = time.perf_counter()
    fn(*args)
    _synchronise(device)
    return time.perf_counter() - began


def layout_of(module: nn.Module, device: torch.device) -> torch.memory_format:
    """How maps and weights lie in memory while a network is trained: channels last, which is 1.5 times as fast.

    Not on a processor where a strided 1x1 convolution reads few channels: torch (2.15, AVX2, 2 to 7 channels)
    then writes past the end of a gradient, and the process dies or goes on with damaged memory.
    """
    if device.type == "cpu" and any(
        isinstance(each, nn.Conv2d)
        and each.kernel_size == (1, 1)
        and max(each.stride) > 1
        and each.in_channels < FEW_CHANNELS
        for each in module.modules()
    ):
        return torch.contiguous_format
    return torch.channels_last


class _Feed:
    """Batches of a split on a device, the whole split kept there if it fits."""

    def __init__(
        self,
        images: Images,
        labels: Labels,
        mean: Sequence[float] | NDArray[np.float32],
        std: Sequence[float] | NDArray[np.float32],
        device: torch.device,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        self._images, self.device, self._layout = images, device, layout
        self._labels = torch.from_numpy(np.array(labels)).to(device)
        self._mean = torch.tensor(np.array(mean, dtype=np.float32), device=device).reshape(1, -1, 1, 1)
        self._std = torch.tensor(np.array(std, dtype=np.float32), device=device).reshape(1, -1, 1, 1)
        self._resident: Tensor | None = None
        if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] > DEVICE_SHARE * images.nbytes:
            self._resident = torch.from_numpy(np.array(images)).to(device)

    def __len__(self) -> int:
        return len(self._images)

    def raw(self, index: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The uint8 images and the labels at `index`."""
        where = on_device(torch.from_numpy(index), self.device)
        if self._resident is not None:
            return self._resident[where], self._labels[where]
        return on_device(torch.from_numpy(self._images[index]), self.device), self._labels[where]

    def batch(self, index: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        images, labels = self.raw(index)
        return self.normalised(images), labels

    def normalised(self, images: Tensor) -> Tensor:
        scaled = (images.float() / 255 - self._mean) / self._std
        if self._layout == torch.contiguous_format:  # grey images in any order pass for it, and hand theirs on
            return scaled.clone(memory_format=self._layout)
        return scaled.contiguous(memory_format=self._layout)


class _Training:
    """The state of one training: module, optimiser, schedule, generators.

    `trained` is the module with what is trained beside it, `module` what is scored and kept.
    """

    def __init__(
        self,
        module: nn.Module,
        data: ImageData,
        recipe: Recipe,
        *,
        epochs: float,
        seed: int,
        device: torch.device,
        auxiliary: AuxiliaryHead | None = None,
    ) -> None:
        # New purposes come last, so that the draws of the others stay what they are.
        weights_seed, order_seed, augment_seed, head_seed, paths_seed = np.random.SeedSequence(seed).spawn(5)
        initialise(module.cpu(), _generator(weights_seed))  # so that a device does not change the weights
        trained = _with_head(module, auxiliary if recipe.auxiliary_weight > 0 else None, _generator(head_seed))
        self.module = module
        layout = layout_of(trained, device)
        self.trained = trained.to(device).to(memory_format=layout)
        self.data, self.recipe, self.device = data, recipe, device
        self.train = _Feed(data.train_images, data.train_labels, data.mean, data.std, device, layout)
        self.val = _Feed(data.val_images, data.val_labels, data.mean, data.std, device, layout)
        self.optimiser = _optimiser(self.trained, recipe)
        self.order = np.random.default_rng(order_seed)
        self.augmentation = _generator(augment_seed)
        self.paths = _generator(paths_seed, device)
        self.loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self.steps = max(1, round(epochs * recipe.steps_per_epoch(len(self.train))))
        self.done = self.seen = 0  # steps, images
        self.s_per_image: float | None = None
        half = device.type == "cuda"
        self.half = torch.bfloat16 if half and torch.cuda.is_bf16_supported(False) else torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=half and self.half == torch.float16)
        # A probability that grows, and what modules of others do, cannot be replayed.
        recordable = half and recipe.drop_path == 0 and isinstance(module, TorchNetwork)
        self.recorded = _RecordedPass() if recordable else None
        self.slower_steps = 2 if self.recorded is None else UNRECORDED + 2

    def groups(self) -> list[NDArray[np.int64]]:
        """The batches of one epoch, in a new order."""
        n = len(self.train)
        groups = np.array_split(self.order.permutation(n), self.recipe.steps_per_epoch(n))
        if self.recorded is not None:  # for one shape: the smaller batches see one of their images twice
            most = len(groups[0])
            groups = [np.resize(group, most) for group in groups]
        # Batch norm over one value has no variance; a set that small sees its image twice a step.
        return [np.repeat(group, 2) if len(group) == 1 else group for group in groups]

    def epoch(self) -> float:
        """Mean loss over the steps of the next epoch, or of what the training still has of it."""
        groups = self.groups()[: self.steps - self.done]
        total = torch.zeros((), device=self.device)
        settled: tuple[float, int] | None = None  # when, and after how many images
        for group in groups:
            if self.done == self.slower_steps:
                _synchronise(self.device)
                settled = time.perf_counter(), self.seen
            loss = self.step(group)
            total += loss
            if self.device.type == "cpu":  # elsewhere asking would wait for the device
                _check_finite(loss)
        _check_finite(total)
        if settled is not None:
            self.s_per_image = (time.perf_counter() - settled[0]) / (self.seen - settled[1])
        return float(total) / len(groups)

    def step(self, group: NDArray[np.int64]) -> Tensor:
        self.trained.train()
        for part in self.optimiser.param_groups:
            part["lr"] = self.recipe.lr_at(self.done, self.steps, len(self.train))
        images, labels = self.train.raw(group)
        resolution = self.data.task.resolution
        if self.recipe.augment:
            images = augment(
                images,
                resolution,
                photographs=self.data.photographs,
                flip=self.data.flip,
                generator=self.augmentation,
            )
        else:
            margin = (images.shape[-1] - resolution) // 2
            images = images[:, :, margin : margin + resolution, margin : margin + resolution]
        images = self.train.normalised(images)
        loss = self._pass(images, labels) if self.recorded is None else self.recorded(self._pass, images, labels)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.done += 1
        self.seen += len(group)
        return loss

    def _pass(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch; its gradients are left in the parameters."""
        with self._precision():
            loss = self._loss(images, labels)
        self.optimiser.zero_grad(set_to_none=self.recorded is None)  # what is replayed writes to the same memory
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        if not isinstance(self.trained, TrainingNetwork):
            return self.loss(self.trained(images).float(), labels)  # type: ignore[no-any-return]
        drop_path = DropPath(self.recipe.drop_path_at(self.done, self.steps), self.paths)
        scores, others = self.trained(images, drop_path)
        loss: Tensor = self.loss(scores.float(), labels)
        return loss if others is None else loss + self.recipe.auxiliary_weight * self.loss(others.float(), labels)

    def validate(self) -> float:
        return _score(self.module, self.val, SCORING_BATCH)[0]

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast("cuda", dtype=self.half) if self.device.type == "cuda" else nullcontext()


class _RecordedPass:
    """Forward and backward pass of a batch on a CUDA device, recorded once and then replayed.

    The kernels of small networks are so short that a GPU waits for the processor to launch them. Batches must be of
    one shape, and what is passed must always be the same computation.
    """

    def __init__(self) -> None:
        self._passes = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, compute: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
        """What `compute` gives, and does, for the batch."""
        self._passes += 1
        if self._passes <= UNRECORDED:
            return compute(images, labels)
        if self._graph is None:
            self._images, self._labels = images.clone(), labels.clone()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._loss = compute(self._images, self._labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._loss.clone()


def _score(module: nn.Module, feed: _Feed, batch_size: int) -> tuple[float, NDArray[np.bool_]]:
    n = len(feed)
    if not n:
        raise ValueError("there are no images to score")
    module.eval()
    right = []
    with torch.inference_mode(), _exact():
        for start in range(0, n, batch_size):
            index = np.arange(start, start + batch_size)
            # On a GPU kernels are chosen anew for every shape: the last batch is filled up with the first images.
            images, labels = feed.batch(index % n if feed.device.type == "cuda" else index[index < n])
            right.append((module(images).argmax(dim=1) == labels)[: n - start])
    correct = torch.cat(right).cpu().numpy()
    return float(correct.mean()), correct


def _exact() -> AbstractContextManager[object]:
    """Convolutions on a GPU in float32, not in the shorter TF32 that torch takes for it by default."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _optimiser(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    weights = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]  # batch norm and biases
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )


def _check_finite(loss: Tensor) -> None:
    if not torch.isfinite(loss):
        raise TrainingFailed(f"diverged: the training loss became {float(loss)}")


def _with_head(module: nn.Module, auxiliary: AuxiliaryHead | None, generator: torch.Generator) -> nn.Module:
    """The module as it is trained; the weights of its auxiliary head are drawn from `generator`."""
    if not isinstance(module, TorchNetwork):
        if auxiliary is not None:
            raise ValueError(f"an auxiliary head reads a layer of a TorchNetwork, got a {type(module).__name__}")
        return module
    both = TrainingNetwork(module, auxiliary)
    if both.head is not None:
        initialise(both.head, generator)
    return both


def _generator(seed: np.random.SeedSequence, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(int(seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Of several GPUs torch records, pins memory, and tells its kinds of numbers, for the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Layers that draw (dropout) ask torch's global generators: they are seeded here and restored afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed % 2**63)
        yield


@contextmanager
def _failures() -> Iterator[None]:
    """Turn torch's ways of saying that memory does not suffice into `TrainingFailed`."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingFailed(f"out of memory: {_first_line(error)}") from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingFailed(f"out of memory: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
