"""Weights that a network takes over from a trained one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.evaluation import TrainingEvaluator
from hwnas.training import ImageData, load_images
from hwnas.training.inherit import inherit, matched_layers
from hwnas.training.recipe import Recipe
from hwnas.training.trainer import evaluate
from spaces import Task, get_space
from spaces.torch_network import initialise

TASK = Task(16, 10)


def built(space, row, seed):
    """A network with its own weights and its own running statistics."""
    module = space.build(space.arch(row), TASK)
    generator = torch.Generator().manual_seed(seed)
    initialise(module, generator)
    for tensor in module.state_dict().values():
        if tensor.dim() == 1:  # norms and biases, so that no path is near 0
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return module.eval()


def outputs(module):
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        return module(images)


@pytest.mark.parametrize(
    "name", ["proxyless@w0.25", "nasbench_macro@8x32", "nasbench101@2x1x16", "pnas@2x8", "darts@4x8"]
)
def test_a_network_that_inherits_from_itself_computes_the_same(name):
    space = get_space(name)
    for row in space.sample(3, np.random.default_rng(0)):
        parent, child = built(space, row, 1), built(space, row, 2)
        assert not torch.allclose(outputs(child), outputs(parent))
        copied = inherit(child, parent.network, parent.state_dict())
        assert copied == sum(tensor.numel() for tensor in parent.state_dict().values())
        assert torch.equal(outputs(child), outputs(parent))


@pytest.mark.parametrize(
    ("before", "after"),
    [(0, 1), (1, 2), (0, 2), (3, 4), (3, 5)],  # a wider kernel, at either expansion
)
def test_a_wider_kernel_computes_the_same(before, after):
    """Zeros around the centre change nothing, whatever the stride and padding."""
    space = get_space("proxyless@8,8x1,8x3s2,16x2s2,8")
    row = np.array([0, *[before] * 5])
    for gene in range(1, 6):
        larger = row.copy()
        larger[gene] = after
        parent, child = built(space, row, 1), built(space, larger, 2)
        inherit(child, parent.network, parent.state_dict())
        assert outputs(child) == pytest.approx(outputs(parent), abs=1e-4)


def test_a_larger_expansion_computes_the_same():
    """The new channels are drawn, but what reads them starts at 0."""
    space = get_space("proxyless@8,8x1,8x3s2,16x2s2,8")
    parent, child = built(space, np.array([0, 0, 0, 0, 0, 0]), 1), built(space, np.array([0, 3, 0, 0, 5, 0]), 2)
    inherit(child, parent.network, parent.state_dict())
    assert outputs(child) == pytest.approx(outputs(parent), abs=1e-4)
    new = [layer for layer in child.steps if isinstance(layer, torch.nn.Sequential)]
    assert any(float(part[0].weight.detach().abs().min()) > 0 for part in new)  # and those that are drawn are not 0


def test_a_smaller_network_keeps_the_middle_of_kernels_and_the_first_channels():
    space = get_space("proxyless@8,8x1,8x3s2,16x2s2,8")
    parent, child = built(space, np.array([2, 5, 5, 5, 5, 5]), 1), built(space, np.array([0, 0, 6, 0, 0, 6]), 2)
    inherit(child, parent.network, parent.state_dict())
    pairs = list(matched_layers(child.network, parent.network))
    kernels = 0
    for ours, theirs in pairs:
        layer = child.network[ours]
        if layer.op == "conv" and layer.groups > 1:
            new, old = child.steps[ours][0].weight, parent.steps[theirs][0].weight
            assert torch.equal(new, old[: len(new), :, 2:5, 2:5])
            kernels += 1
    assert kernels == 4


def test_layers_match_by_place_and_kind():
    space = get_space("proxyless@8,8x1,8x3s2,16x2s2,8")
    first, second = (space.layers(space.arch(row), TASK) for row in ([0, 0, 6, 1, 3, 6], [0, 3, 0, 6, 3, 6]))
    pairs = list(matched_layers(second, first))
    places = {(second[a].block.split()[0], first[b].block.split()[0]) for a, b in pairs}
    assert places == {("stem", "stem"), ("1", "1"), ("2", "2"), ("5", "5"), ("head", "head")}
    for a, b in pairs:
        assert (second[a].op, second[a].groups > 1) == (first[b].op, first[b].groups > 1)


def test_other_modules_are_left_alone():
    module = torch.nn.Linear(3, 2)
    before = module.weight.clone()
    space = get_space("nasbench_macro@8x32")
    parent = built(space, np.zeros(8, dtype=np.int64), 0)
    assert inherit(module, parent.network, parent.state_dict()) == 0
    assert torch.equal(module.weight, before)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "data"
    load_images("digits", root=folder.parent, seed=0).save(folder)
    return folder


def test_a_trial_starts_from_its_parent_and_leaves_its_weights(digits, tmp_path):
    space = get_space("proxyless@8,8x1,16x2s2,24x2s2,64")
    parent, child = (space.arch(row) for row in ([0, 0, 6, 0, 6], [0, 0, 0, 0, 6]))
    evaluator = TrainingEvaluator(space, digits, Recipe(), heritage=tmp_path / "weights")
    arguments = {"epochs": 2, "seed": 3}
    first = evaluator.evaluate_trial(parent, **arguments, number=7, parent=None)
    alone = evaluator.evaluate(parent, **arguments)
    assert first["accuracy_val"] == alone["accuracy_val"]
    assert [file.name for file in (tmp_path / "weights").iterdir()] == ["7.pt"]
    warm = evaluator.evaluate_trial(child, **arguments, number=8, parent=(7, parent))
    again = evaluator.evaluate_trial(child, **arguments, number=8, parent=(7, parent))
    cold = evaluator.evaluate(child, **arguments)
    assert warm["accuracy_val"] == again["accuracy_val"]  # after a break it is the same again
    assert (first["is_warm"], warm["is_warm"]) == (0.0, 1.0)
    # A parent that is too long ago is none, and its weights are gone in the end.
    late = evaluator.evaluate_trial(child, **arguments, number=7 + 201, parent=(7, parent))
    assert (late["accuracy_val"], late["is_warm"]) == (cold["accuracy_val"], 0.0)
    evaluator.evaluate_trial(child, **arguments, number=7 + 400, parent=None)
    assert not (tmp_path / "weights" / "7.pt").exists()


def test_a_warm_trial_begins_where_its_parent_ended(digits, tmp_path):
    """Before its first step it classifies as its parent did: the added layer is a wider kernel, around zeros."""
    space = get_space("proxyless@8,8x1,16x2s2,24x2s2,64")
    parent, child = (space.arch(row) for row in ([0, 0, 0, 0, 0], [0, 1, 0, 2, 0]))
    evaluator = TrainingEvaluator(space, digits, Recipe(), heritage=tmp_path / "weights")
    trained = evaluator.evaluate_trial(parent, epochs=4, seed=3, number=0, parent=None)
    data = ImageData.open(digits)
    module = space.build(child, data.task)
    evaluator._legacy(0, parent)(module)
    accuracy, _ = evaluate(
        module, data.val_images, data.val_labels, mean=data.mean, std=data.std, device=torch.device("cpu")
    )
    assert trained["accuracy_val"] > 0.5
    assert accuracy == pytest.approx(trained["accuracy_val"], abs=0.01)


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "noise", "other"])
def test_weights_that_cannot_be_read_are_no_start_and_no_failure(digits, tmp_path, damage):
    space = get_space("proxyless@8,8x1,16x2s2,24x2s2,64")
    parent, child = (space.arch(row) for row in ([0, 0, 6, 0, 6], [0, 0, 0, 0, 6]))
    evaluator = TrainingEvaluator(space, digits, Recipe(), heritage=tmp_path / "weights")
    arguments = {"epochs": 0.2, "seed": 3}
    evaluator.evaluate_trial(parent, **arguments, number=0, parent=None)
    file = tmp_path / "weights" / "0.pt"
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "other":
        torch.save({"steps.0.0.weight": "a word"}, file)
    else:
        file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "noise": b"noise" * 100}[damage])
    found = evaluator.evaluate_trial(child, **arguments, number=1, parent=(0, parent))
    assert found["is_warm"] == 0.0
    assert found["accuracy_val"] == evaluator.evaluate(child, **arguments)["accuracy_val"]
