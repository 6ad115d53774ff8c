"""The recipe's schedule, the trainer, devices and failures."""

import math
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.training import (
    Recipe,
    TrainingFailed,
    TrainingTime,
    evaluate,
    load_images,
    resolve_device,
    time_training,
    train,
    trainer,
)
from hwnas.training.trainer import _Feed, _optimiser, _Training, layout_of
from spaces import InputError, Task, get_space
from spaces.torch_network import TrainingNetwork

SMALL = "proxyless@8,8x1,16x2s2,32"
CELLS = ["pnas@1x4", "nasnet@1x96", "darts@4x4"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load_images("digits", root=tmp_path_factory.mktemp("root"), seed=0)


def network(data, seed=0):
    space = get_space(SMALL)
    row = space.sample(1, np.random.default_rng(seed))[0]
    return space.build(space.arch(row), data.task)


def subset(data, n):
    from dataclasses import replace

    return replace(data, train_images=data.train_images[:n], train_labels=data.train_labels[:n])


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


TRAINS = """
from pathlib import Path
import numpy as np
from hwnas.training import Recipe, load_images, train
from spaces import get_space
space, data = get_space("darts@4x4"), load_images("digits", root=Path(), seed=0)
for row in space.simplest(3, np.random.default_rng(0)):
    train(space.build(space.arch(row), data.task), data, Recipe(), epochs=0.3, seed=0, device="cpu")
"""


def test_a_network_with_narrow_strided_convolutions_is_trained_in_a_layout_that_torch_can(tmp_path):
    """Channels last, the backward pass of torch 2.15 damages the memory of the process, which may die of it."""
    space = get_space("darts@4x4")
    narrow = space.build(space.arch(space.simplest(1, np.random.default_rng(0))[0]), Task(8, 10, 1))
    assert layout_of(narrow, torch.device("cpu")) == torch.contiguous_format
    assert layout_of(narrow, torch.device("cuda")) == torch.channels_last
    assert layout_of(nn.Sequential(nn.Conv2d(16, 16, 1, 2)), torch.device("cpu")) == torch.channels_last
    assert layout_of(nn.Sequential(nn.Conv2d(4, 16, 3, 2)), torch.device("cpu")) == torch.channels_last
    done = subprocess.run([sys.executable, "-c", TRAINS], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_equal_seeds_give_equal_weights_to_the_bit(digits):
    data, results = subset(digits, 200), []
    for seed, global_seed in ((3, 1), (3, 2), (4, 1)):
        module = network(data)
        torch.manual_seed(global_seed)
        result = train(module, data, Recipe(), epochs=2, seed=seed, device="cpu")
        results.append((weights(module), result.accuracy_val, [record.loss for record in result.history]))
    assert same(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]
    assert not same(results[0][0], results[2][0])


def test_dropout_is_seeded_too_and_the_global_state_stays(digits):
    data, results = subset(digits, 64), []
    for global_seed in (1, 2):
        module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
        torch.manual_seed(global_seed)
        before = torch.random.get_rng_state()
        train(module, data, Recipe(), epochs=1, seed=0, device="cpu")
        assert torch.equal(torch.random.get_rng_state(), before)
        results.append(weights(module))
    assert same(*results)


def test_it_learns_and_the_score_is_what_a_plain_loop_finds(digits):
    module = network(digits)
    result = train(module, digits, Recipe(lr=0.2), epochs=4, seed=0, device="cpu")
    assert result.accuracy_val > 0.8  # chance is 0.1
    accuracy, correct = evaluate(
        module, digits.val_images, digits.val_labels, mean=digits.mean, std=digits.std, device="cpu", batch_size=50
    )
    assert accuracy == correct.mean() == result.accuracy_val
    by_hand = []
    with torch.no_grad():
        for image in digits.val_images:
            pixels = (image / 255 - digits.mean[:, None, None]) / digits.std[:, None, None]
            by_hand.append(int(module(torch.tensor(pixels, dtype=torch.float32)[None]).argmax()))
    assert np.mean((np.array(by_hand) == digits.val_labels) == correct) > 0.99  # but for the last bits
    images, labels = digits.test()
    assert evaluate(module, images, labels, mean=digits.mean, std=digits.std, device="cpu")[0] > 0.75


def test_history_and_progress(digits):
    data, told = subset(digits, 100), []
    result = train(network(data), data, Recipe(), epochs=3, seed=0, device="cpu", progress=told.append)
    assert list(result.history) == told
    assert [record.epoch for record in told] == [1, 2, 3]
    assert [record.accuracy_val is None for record in told] == [True, True, False]
    assert told[-1].accuracy_val == result.accuracy_val
    assert result.seconds >= sum(record.seconds for record in told)
    each = train(network(data), data, Recipe(), epochs=2, seed=0, device="cpu", validate_each_epoch=True)
    assert all(record.accuracy_val is not None for record in each.history)


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 16), (1, 32), (2.25, 72), (0.001, 1)])
def test_parts_of_epochs_are_parts_of_their_steps(digits, epochs, steps):
    data, recipe = subset(digits, 512), Recipe(batch_size=16)  # 32 steps an epoch
    module = network(data)
    run = _Training(module, data, recipe, epochs=epochs, seed=0, device=torch.device("cpu"))
    seen = []
    run.step = lambda group, step=run.step: seen.append(len(group)) or step(group)
    while run.done < run.steps:
        run.epoch()
    assert seen == [16] * steps
    assert run.seen == 16 * steps
    result = train(network(data), data, recipe, epochs=epochs, seed=0, device="cpu")
    assert len(result.history) == math.ceil(epochs)
    with pytest.raises(ValueError, match="more than 0 epochs"):
        train(network(data), data, recipe, epochs=0, seed=0, device="cpu")


def test_the_rate_of_a_part_of_an_epoch_falls_to_its_end_too(digits):
    data, recipe = subset(digits, 512), Recipe(batch_size=16)
    run = _Training(network(data), data, recipe, epochs=0.5, seed=0, device=torch.device("cpu"))
    run.epoch()
    assert run.optimiser.param_groups[0]["lr"] < 0.05 * recipe.peak_lr(512)


def test_validating_more_often_changes_no_weight(digits):
    data, modules = subset(digits, 100), []
    for often in (False, True):
        modules.append(network(data))
        train(modules[-1], data, Recipe(), epochs=2, seed=0, device="cpu", validate_each_epoch=often)
    assert same(*map(weights, modules))


def test_training_never_reads_the_test_images(digits, monkeypatch):
    def forbidden(_self):
        raise AssertionError("the test images were read")

    monkeypatch.setattr(type(digits), "test", forbidden)
    train(network(digits), subset(digits, 64), Recipe(), epochs=1, seed=0, device="cpu")


@pytest.mark.parametrize("n", [1, 2, 17])
def test_very_few_images_do_not_break_batch_norm(digits, n):
    data = subset(digits, n)
    module = network(data)
    result = train(module, data, Recipe(), epochs=2, seed=0, device="cpu")
    assert math.isfinite(result.history[-1].loss)


def test_photographs_without_augmentation_are_cropped_in_the_middle(digits):
    from dataclasses import replace

    wide = np.pad(digits.train_images[:64], ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=255)
    framed = replace(digits, train_images=wide, train_labels=digits.train_labels[:64], photographs=True)
    plain = subset(digits, 64)
    modules = [network(digits), network(digits)]
    for module, data in zip(modules, (framed, plain), strict=True):
        train(module, data, Recipe(augment=False), epochs=1, seed=0, device="cpu")
    assert same(*map(weights, modules))


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 100, 511, 512, 2048, 50_000])
def test_an_epoch_sees_every_image_once_in_batches_of_one_size(digits, n):
    recipe = Recipe()
    run = _Training(nn.Linear(1, 1), digits, recipe, epochs=1, seed=0, device=torch.device("cpu")) if n < 1000 else None
    steps = recipe.steps_per_epoch(n)
    assert math.ceil(n / steps) <= recipe.batch_size
    assert n / steps >= min(n, recipe.least_batch_size) / 2
    if n >= recipe.least_steps * recipe.least_batch_size:
        assert steps >= recipe.least_steps
    if run is not None:
        run.train = _Feed(digits.train_images[:n], digits.train_labels[:n], [0.5], [0.5], torch.device("cpu"))
        groups = run.groups()
        assert len(groups) == steps
        if n > 1:
            assert sorted(np.concatenate(groups)) == list(range(n))
            assert np.ptp([len(group) for group in groups]) <= 1


def test_the_schedule_is_a_warm_up_and_half_a_cosine():
    recipe = Recipe(batch_size=50, lr=0.4, warmup=0.1, least_steps=1)
    rates = [recipe.lr_at(step, 100, 1000) for step in range(100)]
    assert rates[:10] == pytest.approx(np.linspace(0.04, 0.4, 10))
    assert rates[10:] == pytest.approx(0.2 * (1 + np.cos(np.pi * np.arange(90) / 90)))
    assert rates[-1] < 0.001 * 0.4
    assert Recipe(warmup=0.5).lr_at(0, 1, 10) > 0


def test_smaller_batches_get_the_square_root_of_their_share():
    recipe = Recipe(batch_size=64, lr=0.1, least_steps=32, least_batch_size=16)
    assert recipe.steps_per_epoch(512) == 32
    assert recipe.peak_lr(512) == pytest.approx(0.1 * math.sqrt(16 / 64))
    assert recipe.peak_lr(64_000) == pytest.approx(0.1)


def test_batch_norm_and_biases_do_not_decay(digits):
    module = network(digits)
    groups = _optimiser(module, Recipe(weight_decay=0.5)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            is_weight = isinstance(part, nn.Conv2d | nn.Linear) and name == "weight"
            assert decay.pop(id(parameter)) == (0.5 if is_weight else 0.0)
    assert not decay


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": math.nan},
        {"momentum": 1.0},
        {"warmup": -0.1},
        {"weight_decay": -1.0},
        {"auxiliary_weight": -0.1},
        {"auxiliary_weight": math.nan},
        {"drop_path": 1.0},
        {"drop_path": -0.1},
    ],
)
def test_a_recipe_that_cannot_be_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Recipe(**wrong)


def test_divergence_is_a_failure_of_the_candidate(digits):
    with pytest.raises(TrainingFailed, match="diverged"):
        train(network(digits), subset(digits, 200), Recipe(lr=1e30), epochs=3, seed=0, device="cpu")


# Auxiliary heads and drop-path


def cell_network(data, name, seed=0):
    space = get_space(name)
    arch = space.arch(space.sample(1, np.random.default_rng(seed))[0])
    return space.build(arch, data.task), space.auxiliary(arch, data.task)


def read_by(network, position):
    """The layer and all that it depends on."""
    found = {position}
    for at in reversed(range(position + 1)):
        if at in found:
            found.update(network[at].inputs)
    return found


@pytest.mark.parametrize("name", CELLS)
def test_the_loss_of_the_head_moves_the_layers_below_it_and_no_others(digits, name):
    """One step with the head and one without it, from the same weights and images."""
    data, found = subset(digits, 32), []
    for weight in (0.0, 0.4):
        module, head = cell_network(digits, name)
        train(module, data, Recipe(auxiliary_weight=weight), epochs=0.001, seed=2, device="cpu", auxiliary=head)
        found.append(module)
    below = read_by(found[0].network, head.reads)
    assert 0 < len(below) < len(found[0].network)
    seen = {True: 0, False: 0}
    for position, (one, other) in enumerate(zip(found[0].steps, found[1].steps, strict=True)):
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
            if mine.ndim > 1:  # convolutions and the classifier
                assert torch.equal(mine, theirs) == (position not in below)
                seen[position in below] += 1
    assert min(seen.values()) > 0


def test_the_loss_is_that_of_both_classifiers(digits):
    data, losses = subset(digits, 32), []
    for weight in (0.0, 0.4, 2.0):
        module, head = cell_network(digits, "pnas@1x4")
        result = train(
            module, data, Recipe(auxiliary_weight=weight), epochs=0.001, seed=2, device="cpu", auxiliary=head
        )
        losses.append(result.history[0].loss)
    alone, usual, heavy = losses
    assert (heavy - alone) / (usual - alone) == pytest.approx(2.0 / 0.4, rel=1e-4)
    assert (usual - alone) / 0.4 == pytest.approx(math.log(10), rel=0.1)  # of ten classes before anything is learned


def test_a_head_of_no_weight_is_no_head(digits):
    data, found = subset(digits, 100), []
    for weight, with_head in ((0.0, True), (0.4, False), (0.4, True)):
        module, head = cell_network(digits, "darts@4x4")
        head = head if with_head else None
        train(module, data, Recipe(auxiliary_weight=weight), epochs=1, seed=1, device="cpu", auxiliary=head)
        found.append(weights(module))
    assert same(found[0], found[1])
    assert not same(found[1], found[2])


@pytest.mark.parametrize("name", CELLS)
def test_equal_seeds_give_equal_weights_with_a_head_and_left_out_paths(digits, name):
    data, found = subset(digits, 60), []
    for seed, drop_path, global_seed in ((3, 0.3, 1), (3, 0.3, 2), (3, 0.0, 1), (4, 0.3, 1)):
        module, head = cell_network(digits, name)
        torch.manual_seed(global_seed)
        train(module, data, Recipe(drop_path=drop_path), epochs=1, seed=seed, device="cpu", auxiliary=head)
        found.append(weights(module))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])
    assert not same(found[0], found[3])


def test_paths_are_left_out_ever_more_often(digits):
    """From 0 in a straight line, so that the step after the last would have the whole of it."""
    data, told = subset(digits, 200), []
    module, head = cell_network(digits, "pnas@1x4")
    recipe = Recipe(drop_path=0.4)
    run = _Training(module, data, recipe, epochs=1.5, seed=0, device=torch.device("cpu"), auxiliary=head)
    run.trained.register_forward_pre_hook(lambda _module, inputs: told.append(inputs[1].probability))
    while run.done < run.steps:
        run.epoch()
    assert told == pytest.approx(np.linspace(0, 0.4, run.steps, endpoint=False))
    assert len(told) > 10


def test_a_chain_trains_as_a_module_that_nothing_is_known_of(digits):
    """Inside a Sequential it is trained by the plain loss alone: to the bit the same, whatever the recipe has."""
    data, found = subset(digits, 200), []
    for recipe in (Recipe(), Recipe(auxiliary_weight=3.0, drop_path=0.5)):
        for wrap in (lambda module: module, nn.Sequential):
            module = network(data)
            train(wrap(module), data, recipe, epochs=1.5, seed=3, device="cpu")
            found.append(weights(module))
    assert all(same(found[0], other) for other in found[1:])


@pytest.mark.parametrize("resolution", [3, 8, 32])  # of which the ImageNet form leaves the head a single pixel
@pytest.mark.parametrize("name", [*CELLS, "darts@6x4,imagenet", "pnas@2x4,imagenet"])
def test_heads_stand_on_maps_of_any_size(name, resolution):
    space, task = get_space(name), Task(resolution, 10, channels=1)
    for row in space.sample(3, np.random.default_rng(resolution)):
        arch = space.arch(row)
        both = TrainingNetwork(space.build(arch, task), space.auxiliary(arch, task))
        images = torch.randn(4, *task.input_shape, generator=torch.Generator().manual_seed(0))
        scores, auxiliary = both(images)
        assert scores.shape == auxiliary.shape == (4, 10)


def test_a_head_for_a_module_without_layers_is_refused(digits):
    _, head = cell_network(digits, "pnas@1x4")
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match="reads a layer of a TorchNetwork, got a Sequential"):
        train(plain, digits, Recipe(), epochs=1, seed=0, device="cpu", auxiliary=head)


def test_timing_includes_the_head_and_leaves_the_module_as_it_was(digits, monkeypatch):
    module, head = cell_network(digits, "pnas@1x4")
    before, called = weights(module), []
    forward = TrainingNetwork.forward
    monkeypatch.setattr(
        TrainingNetwork, "forward", lambda self, *inputs: called.append(self.head) or forward(self, *inputs)
    )
    time_training(module, digits, Recipe(), device="cpu", batches=2, seed=0, auxiliary=head)
    assert same(weights(module), before)
    assert called
    assert None not in called


class Greedy(nn.Linear):
    """A network that runs out of memory, in the way that it is told."""

    def __init__(self, error):
        super().__init__(64, 10)
        self.error = error

    def forward(self, images):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: not enough memory: you tried to ..."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_lack_of_memory_is_a_failure_of_the_candidate(digits, error):
    with pytest.raises(TrainingFailed, match="out of memory"):
        train(Greedy(error), digits, Recipe(), epochs=1, seed=0, device="cpu")
    with pytest.raises(TrainingFailed, match="out of memory"):
        evaluate(Greedy(error), *digits.test(), mean=digits.mean, std=digits.std, device="cpu")
    with pytest.raises(TrainingFailed, match="out of memory"):
        time_training(Greedy(error), digits, Recipe(), device="cpu", batches=1, seed=0)


def test_a_real_lack_of_memory_is_recognised(digits):
    class Huge(nn.Linear):
        def forward(self, images):
            return torch.empty(2**58, dtype=torch.uint8)

    with pytest.raises(TrainingFailed, match="out of memory"):
        train(Huge(64, 10), digits, Recipe(), epochs=1, seed=0, device="cpu")


def test_other_errors_stay_what_they_are(digits):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        train(nn.Sequential(nn.Flatten(), nn.Linear(3, 10)), digits, Recipe(), epochs=1, seed=0, device="cpu")
    assert not isinstance(caught.value, TrainingFailed)


def test_failures_cross_process_borders():
    error = pickle.loads(pickle.dumps(TrainingFailed("diverged: the loss became nan")))
    assert type(error) is TrainingFailed
    assert str(error) == "diverged: the loss became nan"


def test_timing_leaves_the_module_as_it_was(digits):
    module = network(digits)
    before = weights(module)
    timed = time_training(module, digits, Recipe(), device="cpu", batches=3, seed=0)
    assert same(weights(module), before)
    assert 0 < timed.validation_s_per_image < timed.train_s_per_image < 1
    assert time_training(module, subset(digits, 1), Recipe(), device="cpu", batches=2, seed=0).train_s_per_image > 0


def test_timing_tells_what_comes_once_from_what_each_image_takes(digits, monkeypatch):
    """By a clock that only the network moves: 2 s an image in training and 1 s in scoring, 50 and 30 more at first."""
    clock, first = [0.0], {True: 50.0, False: 30.0}

    class Clocked(nn.Linear):
        def forward(self, images):
            clock[0] += len(images) * (1 + self.training) + first.pop(self.training, 0.0)
            return super().forward(images.flatten(1))

    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    timed = time_training(Clocked(64, 10), digits, Recipe(), device="cpu", batches=3, seed=0)
    assert timed == TrainingTime(train_s_per_image=2.0, validation_s_per_image=1.0, start_s=80.0)
    first.update({True: 50.0, False: 30.0})
    trained = trainer.train(Clocked(64, 10), digits, Recipe(), epochs=2, seed=0, device="cpu")
    assert trained.train_s_per_image == 2.0
    n, scored = len(digits.train_labels), len(digits.val_labels)
    assert trained.seconds == 2 * 2 * n + 50 + scored + 30


@pytest.mark.parametrize("name", ["gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "", "mps:1"])
def test_a_device_that_is_none(name):
    with pytest.raises(InputError, match="a device is auto, cpu"):
        resolve_device(name)


def test_devices_that_are_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="no device 'cuda:2'") as caught:
        resolve_device("cuda:2")
    assert caught.value.hint == "give auto, or one of cuda:0, cuda:1, cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    for name in ("cuda", "mps"):
        with pytest.raises(InputError, match=f"no device '{name}'"):
            resolve_device(name)


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@on_gpu
def test_training_on_a_gpu_agrees_with_the_cpu(digits):
    results = [
        train(network(digits), digits, Recipe(lr=0.2), epochs=8, seed=0, device=d).accuracy_val for d in ("cpu", "cuda")
    ]
    assert abs(results[0] - results[1]) < 0.05


@on_gpu
@pytest.mark.parametrize("name", [SMALL, *CELLS])
def test_what_is_recorded_on_a_gpu_trains_as_what_is_launched_step_by_step(digits, name):
    space = get_space(name)
    arch = space.arch(space.sample(1, np.random.default_rng(0))[0])
    deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        found = []
        for recorded in (True, False):
            module = space.build(arch, digits.task)
            run = _Training(
                module,
                digits,
                Recipe(),
                epochs=2,
                seed=0,
                device=torch.device("cuda:0"),
                auxiliary=space.auxiliary(arch, digits.task),
            )
            groups = run.groups()
            assert len({len(group) for group in groups}) == 1
            if not recorded:
                run.recorded = None
            found.append(([float(run.step(group)) for group in groups[:12]], weights(module)))
    finally:
        torch.backends.cudnn.deterministic = deterministic
    assert len(set(found[0][0])) > 1
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-3)
    for key, value in found[0][1].items():
        torch.testing.assert_close(value, found[1][1][key], rtol=1e-2, atol=1e-3)


@on_gpu
def test_a_gpu_scores_as_the_cpu_does(digits):
    """In float32 to the last images, whose batch is filled up; and training begins anew wherever the module lies."""
    module = network(digits)
    first = train(module, digits, Recipe(), epochs=1, seed=0, device="cuda")
    assert train(module, digits, Recipe(), epochs=1, seed=0, device="cuda").accuracy_val == pytest.approx(
        first.accuracy_val, abs=0.03
    )
    found = [
        evaluate(module.to(d), digits.val_images, digits.val_labels, mean=digits.mean, std=digits.std, device=d)
        for d in ("cuda", "cpu")
    ]
    assert len(found[0][1]) == len(digits.val_labels) == len(found[1][1])
    assert (found[0][1] != found[1][1]).sum() <= 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA devices")
def test_a_gpu_that_is_not_the_current_one_trains_as_the_cpu_does(digits):
    recipe, other = Recipe(lr=0.2), torch.device("cuda:1")
    module = network(digits)
    assert time_training(module, digits, recipe, device=other, batches=4, seed=0).train_s_per_image > 0
    there = train(module, digits, recipe, epochs=8, seed=0, device=other)
    assert {tensor.device for tensor in module.state_dict().values()} == {other}
    assert torch.cuda.current_device() == 0
    here = train(network(digits), digits, recipe, epochs=8, seed=0, device="cpu")
    assert abs(there.accuracy_val - here.accuracy_val) < 0.05
    accuracy, _ = evaluate(module, digits.val_images, digits.val_labels, mean=digits.mean, std=digits.std, device=other)
    assert accuracy == pytest.approx(there.accuracy_val, abs=1.5 / len(digits.val_labels))


def test_on_the_cpu_nothing_is_recorded_and_no_image_is_seen_twice(digits):
    run = _Training(network(digits), digits, Recipe(), epochs=1, seed=0, device=torch.device("cpu"))
    assert run.recorded is None
    assert sorted(np.concatenate(run.groups())) == list(range(len(digits.train_images)))
