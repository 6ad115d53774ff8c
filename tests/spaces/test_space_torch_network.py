"""The torch reader of layer records, and the builder that writes them, against torch's own functions."""

import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torchvision.models._utils import _make_divisible

from spaces import Layer, Task, get_space
from spaces.layers import NetworkBuilder, last_uses, make_divisible
from spaces.torch_network import TorchNetwork, initialise


def branching() -> NetworkBuilder:
    """Everything that a chain does not have: two pools, add of three, concat, bare relu and batch norm, a dead end."""
    net = NetworkBuilder((3, 15, 15))
    stem = net.conv(0, 8, kernel=3, stride=2, bias=True, batch_norm=False, activation="relu")  # 1
    a = net.pool(stem, kind="max_pool", kernel=3, stride=2)  # 2
    b = net.pool(stem, kind="avg_pool", kernel=3, stride=2)  # 3
    c = net.conv(net.relu(stem), 8, kernel=3, stride=2, dilation=2, groups=4)  # 4, 5
    net.pool(stem, kind="max_pool", kernel=5)  # 6: nobody reads it
    total = net.add([a, b, c])  # 7
    wide = net.conv(net.batch_norm(total), 4, kernel=(1, 7), activation="relu6")  # 8, 9
    x = net.concat([wide, total, a])  # 10
    net.classifier(net.add([x, x]), classes=5)  # 11, 12, 13
    return net


def randomised(network) -> TorchNetwork:
    """Weights and running statistics that leave no term at its default."""
    model = TorchNetwork(network).eval()
    generator = torch.Generator().manual_seed(5)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5 if name.endswith("running_var") else -1.0, 1.5, generator=generator)
    return model


def by_hand(state, images):
    """`branching` in torch's functions; weights are found by the number of the layer."""

    def norm(x, prefix):
        names = ("running_mean", "running_var", "weight", "bias")
        return nnf.batch_norm(x, *(state[f"{prefix}.{name}"] for name in names))

    stem = nnf.relu(nnf.conv2d(images, state["steps.1.0.weight"], state["steps.1.0.bias"], stride=2, padding=1))
    a = nnf.max_pool2d(stem, 3, 2, 1)
    inside = nnf.avg_pool2d(torch.ones_like(stem), 3, 2, 1, count_include_pad=True)
    b = nnf.avg_pool2d(stem, 3, 2, 1, count_include_pad=True) / inside  # zeros outside do not count
    c = nnf.conv2d(nnf.relu(stem), state["steps.5.0.weight"], stride=2, padding=2, dilation=2, groups=4)
    total = a + b + norm(c, "steps.5.1")
    wide = nnf.conv2d(norm(total, "steps.8"), state["steps.9.0.weight"], padding=(0, 3))
    wide = norm(wide, "steps.9.1").clamp(0, 6)
    x = 2 * torch.cat([wide, total, a], dim=1)
    return x.mean(dim=(2, 3)) @ state["steps.13.weight"].T + state["steps.13.bias"]


def test_a_branching_network_computes_what_its_records_say():
    model = randomised(branching().network)
    images = torch.randn(4, 3, 15, 15, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(images), by_hand(model.state_dict(), images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("proxyless", Task(32, 10)),
        ("proxyless@w0.25", Task(8, 3, channels=1)),
        ("proxyless@w0.25", Task(45, 10)),
        ("proxyless@8,8x1s2,16x2,24x2s2,8", Task(37, 4, channels=2)),
        ("nasbench101@3x1x9", Task(7, 4)),
        ("nasbench_macro@8x64", Task(15, 4, channels=1)),
    ],
)
def test_every_layer_has_the_shape_of_its_record(name, task):
    space = get_space(name)
    networks = [space.layers(space.arch(row), task) for row in space.sample(3, np.random.default_rng(0))]
    for network in [*networks, branching().network]:
        check_shapes(network)


def check_shapes(network: tuple[Layer, ...]) -> None:
    model, seen = TorchNetwork(network).eval(), {}
    for position, step in enumerate(model.steps):
        step.register_forward_hook(lambda _m, _i, output, position=position: seen.update({position: output.shape}))
    with torch.no_grad():
        scores = model(torch.zeros(2, *network[0].shape))
    assert scores.shape == (2, *network[-1].shape)
    done_by_hand = {"input", "add", "concat"}
    assert sorted(seen) == [i for i, layer in enumerate(network) if layer.op not in done_by_hand]
    assert all(tuple(shape) == (2, *network[position].shape) for position, shape in seen.items())


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_a_max_pool_of_an_even_window_keeps_what_is_left_at_the_edge(size):
    net = NetworkBuilder((6, size, size))
    net.first_channels(net.pool(0, kind="max_pool", kernel=2, stride=2), 4)
    check_shapes(net.network)
    images = torch.randn(2, 6, size, size, generator=torch.Generator().manual_seed(3))
    wide = nnf.pad(images, (0, size % 2, 0, size % 2), value=-torch.inf)
    halves = -(-size // 2)
    expected = wide.reshape(2, 6, halves, 2, halves, 2).amax(dim=(3, 5))[:, :4]
    assert torch.equal(TorchNetwork(net.network)(images), expected)


@pytest.mark.parametrize("window", [{"kind": "avg_pool", "kernel": 2, "stride": 2}, {"kind": "max_pool", "kernel": 4}])
def test_other_even_windows_are_refused(window):
    with pytest.raises(ValueError, match="must be odd"):
        NetworkBuilder((4, 8, 8)).pool(0, **window)


def test_channels_that_are_not_there_cannot_be_kept():
    net = NetworkBuilder((4, 8, 8))
    assert net.first_channels(0, 4) == 0
    for channels in (0, 5):
        with pytest.raises(ValueError, match="between 1 and 4 channels"):
            net.first_channels(0, channels)


def test_maps_are_dropped_after_their_last_reader():
    """While a layer runs, the maps that live are those that somebody has yet to read, and no others."""
    network = branching().network
    readers = {i: [j for j, layer in enumerate(network) if i in layer.inputs] for i in range(len(network))}
    model, born, alive = TorchNetwork(network).eval(), {}, {}

    def hook(_module, _inputs, output, position):
        born[position] = weakref.ref(output)
        alive[position] = {i for i, reference in born.items() if reference() is not None}

    for position, step in enumerate(model.steps):
        step.register_forward_hook(lambda *a, position=position: hook(*a, position=position))
    with torch.no_grad():
        model(torch.zeros(1, 3, 15, 15))
    for now, living in alive.items():
        assert living == {i for i in born if i == now or (i < now and any(j >= now for j in readers[i]))}, now


def test_last_uses_by_definition():
    space = get_space("proxyless")
    for network in (branching().network, space.layers(space.arch([0] * 22), Task(32, 10))):
        expected = [max([i, *(j for j, layer in enumerate(network) if i in layer.inputs)]) for i in range(len(network))]
        assert last_uses(network) == expected


def test_gradients_reach_every_weight_that_is_read():
    model = TorchNetwork(branching().network).train()
    model(torch.randn(4, 3, 15, 15, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    space = get_space("proxyless@w0.25")
    space.build(space.arch(space.sample(1, np.random.default_rng(0))[0]), Task(32, 10))
    assert torch.equal(torch.get_rng_state(), before)


def test_initialise_is_decided_by_the_generator_alone():
    space = get_space("proxyless@w0.25")
    arch = space.arch(space.sample(1, np.random.default_rng(0))[0])

    def weights(global_seed: int, seed: int) -> list[torch.Tensor]:
        torch.manual_seed(global_seed)
        model = space.build(arch, Task(32, 10))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(global_seed)  # nothing of what was there may remain
        before = torch.get_rng_state()
        initialise(model, torch.Generator().manual_seed(seed))
        assert torch.equal(torch.get_rng_state(), before)
        return list(model.parameters())

    first = weights(1, 7)
    assert all(torch.equal(a, b) for a, b in zip(first, weights(2, 7), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, weights(1, 8), strict=True))


def test_initial_weights_have_the_spread_that_is_promised():
    net = NetworkBuilder((16, 9, 9))
    x = net.conv(0, 128, kernel=3, groups=2, bias=True)
    net.classifier(x, classes=200)
    model = TorchNetwork(net.network)
    initialise(model, torch.Generator().manual_seed(0))
    state = model.state_dict()
    weight = state["steps.1.0.weight"]
    # He over fan-out as torch counts it: output channels x kernel, groups left aside.
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.04)
    assert abs(weight.mean().item()) < 0.002
    assert state["steps.3.weight"].std().item() == pytest.approx(0.01, rel=0.03)
    for zero in ("steps.1.0.bias", "steps.1.1.bias", "steps.3.bias"):
        assert not state[zero].any()
    assert (state["steps.1.1.weight"] == 1).all()


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda net: net.conv(0, 8, groups=3), "3 groups must divide both 4 and 8"),
        (lambda net: net.conv(0, 6, groups=4), "4 groups must divide both 4 and 6"),
        (lambda net: net.conv(0, 8, kernel=2), "odd"),
        (lambda net: net.conv(0, 8, kernel=(3, 4)), "odd"),
        (lambda net: net.pool(0, kind="max_pool", kernel=2), "odd"),
        (lambda net: net.add([0, net.conv(0, 5)]), "equal shapes"),
        (lambda net: net.add([]), "equal shapes"),
        (lambda net: net.concat([0, net.conv(0, 4, stride=2)]), "equal height and width"),
        (lambda net: net.concat([]), "equal height and width"),
        (lambda net: net.linear(0, 3), "unpack"),
        (lambda net: net.conv(net.global_avg_pool(0), 3), "unpack"),
        (lambda net: net.extend(0, NetworkBuilder((4, 8, 9)).network), r"\(4, 8, 9\).*\(4, 8, 8\)"),
    ],
)
def test_the_builder_refuses_what_cannot_be_built(write, words):
    net = NetworkBuilder((4, 8, 8))
    with pytest.raises(ValueError, match=words):
        write(net)


def test_the_builder_names_blocks():
    net = NetworkBuilder((3, 8, 8), block="stem")
    x = net.conv(0, 4)
    net.block = "head"
    net.classifier(x, classes=2)
    assert [layer.block for layer in net.network] == ["", "stem", "head", "head"]


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_maps_are_as_large_as_torch_makes_them(size, stride):
    for kernel, dilation in (((1, 1), 1), ((3, 3), 1), ((7, 7), 1), ((3, 5), 2), ((1, 7), 3)):
        net = NetworkBuilder((2, size, size + 3))
        net.conv(0, 2, kernel=kernel, stride=stride, dilation=dilation)
        net.pool(0, kind="max_pool", kernel=kernel[1], stride=stride)
        net.pool(0, kind="avg_pool", kernel=kernel[0], stride=stride)
        images = torch.zeros(1, 2, size, size + 3)
        steps = TorchNetwork(net.network).eval().steps
        for layer, step in zip(net.network[1:], steps[1:], strict=True):
            assert tuple(step(images).shape[1:]) == layer.shape


def test_widths_are_rounded_as_torchvision_rounds_them():
    for channels in np.arange(0.5, 700, 0.5).tolist():
        assert make_divisible(channels) == _make_divisible(channels, 8)
    for divisor in (1, 4, 16):
        assert [make_divisible(c, divisor) for c in range(1, 99)] == [_make_divisible(c, divisor) for c in range(1, 99)]
