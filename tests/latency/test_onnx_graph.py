"""ONNX from layer records and from trained modules, against torch."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from latency import ParityError, build_onnx, export_onnx
from latency.onnx_graph import INPUT, OUTPUT
from spaces import InputError, Task, get_space
from spaces.layers import NetworkBuilder
from spaces.torch_network import TorchNetwork, initialise


def everything():
    """A network with every operation that records can hold."""
    net = NetworkBuilder((3, 9, 9))
    a = net.conv(0, 8, kernel=3, stride=2, activation="relu")
    b = net.pool(a, kind="max_pool", kernel=3)
    c = net.pool(a, kind="avg_pool", kernel=3)
    d = net.batch_norm(net.conv(net.relu(a), 8, kernel=(1, 5), batch_norm=False, bias=True))
    e = net.conv(a, 8, kernel=3, dilation=2, groups=4, batch_norm=False, activation="relu6")
    x = net.concat((net.add((b, c, d)), net.first_channels(e, 5)))
    x = net.pool(x, kind="max_pool", kernel=2, stride=2)
    net.classifier(x, classes=5)
    return net.network


def transplant(model: bytes, module: TorchNetwork) -> None:
    """Give a torch network the weights of an ONNX model of the same records (folded: batch norm only shifts)."""
    weights = iter([numpy_helper.to_array(w) for w in onnx.load_from_string(model).graph.initializer])

    def take(shape):
        value = next(weights)
        while value.shape != tuple(shape):  # bounds of Clip lie between
            value = next(weights)
        return torch.from_numpy(value.copy())

    with torch.no_grad():
        for layer, step in zip(module.network, module.steps, strict=True):
            if layer.op == "conv":
                step[0].weight.copy_(take(step[0].weight.shape))
                if step[0].bias is not None:
                    step[0].bias.copy_(take(step[0].bias.shape))
                if layer.batch_norm:
                    step[1].bias.copy_(take(step[1].bias.shape))
                    step[1].eps = 0.0
            elif layer.op == "linear":
                step.weight.copy_(take(step.weight.shape))
                step.bias.copy_(take(step.bias.shape))
            elif layer.op == "batch_norm":
                for target in (step.weight, step.bias, step.running_mean, step.running_var):
                    target.copy_(take(target.shape))


def networks():
    rng = np.random.default_rng(1)
    yield everything()
    for name, task, n in (
        ("proxyless@w0.25", Task(8, 10, 1), 3),
        ("proxyless@cpu", Task(40, 7), 3),
        ("nasbench101@2x2x9", Task(9, 10), 12),
        ("nasbench_macro@8x64", Task(15, 10), 6),
    ):
        space = get_space(name)
        for row in space.sample(n, rng):
            yield space.layers(space.arch(row), task)


@pytest.mark.parametrize("network", list(networks()))
def test_onnx_of_records_computes_what_torch_computes(network):
    model = build_onnx(network, np.random.default_rng(7), dynamic_batch=True)
    module = TorchNetwork(network).eval()
    transplant(model, module)
    images = np.random.default_rng(2).random((3, *network[0].shape), dtype=np.float32)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    ours = session.run([OUTPUT], {INPUT: images})[0]
    with torch.inference_mode():
        theirs = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


def test_normalisation_stands_in_front():
    network = get_space("proxyless@w0.25").layers(get_space("proxyless@w0.25").arch([0] * 22), Task(8, 4))
    plain, normalised = (build_onnx(network, np.random.default_rng(0), normalise=n) for n in (False, True))
    images = np.random.default_rng(1).random((1, 3, 8, 8), dtype=np.float32)
    run = [onnxruntime.InferenceSession(m, providers=["CPUExecutionProvider"]) for m in (plain, normalised)]
    # The weights are drawn in the same order, so only the shift and scale differ.
    a = run[0].run(None, {INPUT: (images - 0.5) / 0.25})[0]
    np.testing.assert_allclose(run[1].run(None, {INPUT: images})[0], a, rtol=1e-4, atol=1e-5)


def trained_like(seed: int = 0) -> tuple[torch.nn.Module, np.ndarray]:
    space, task = get_space("proxyless@8,8x1,16x2s2,24x1s2,64"), Task(16, 6)
    module = space.build(space.arch([1, 0, 6, 4]), task)
    initialise(module, torch.Generator().manual_seed(seed))
    for part in module.modules():
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.normal_(part.weight, 0, 1, generator=torch.Generator().manual_seed(seed))
    return module, np.random.default_rng(seed).random((90, 3, 16, 16), dtype=np.float32)


def test_export_agrees_takes_any_batch_and_carries_metadata(tmp_path):
    module, images = trained_like()
    path = tmp_path / "model.onnx"
    parity = export_onnx(module, path, images, metadata={"class_names": json.dumps(["a", "b"])})
    assert parity.images == 90
    assert parity.agreement == 1.0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["class_names"] == '["a", "b"]'
    for batch in (1, 5, 90):
        (logits,) = session.run([OUTPUT], {INPUT: images[:batch]})
        with torch.inference_mode():
            np.testing.assert_allclose(logits, module(torch.from_numpy(images[:batch])).numpy(), rtol=1e-3, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("text", ["nasbench101@2x1x9:0-0-1-1-1-1-1-1-2-0-1-0-1", "nasbench_macro@8x64:1-0-0-2-0-1-1-0"])
def test_cells_and_macro_chains_are_exported(text, tmp_path):
    space = get_space(text.partition(":")[0])
    module = space.build(space.parse(text), Task(17, 6))
    initialise(module, torch.Generator().manual_seed(1))
    images = np.random.default_rng(1).random((70, 3, 17, 17), dtype=np.float32)
    assert export_onnx(module, tmp_path / "model.onnx", images, metadata={}).images == 70


class Fickle(torch.nn.Module):
    """Computes something else each time it is called from Python: no graph can agree with it."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            self.calls += 1
        return self.inner(images) + 0.1 * self.calls * torch.arange(6)


def test_a_mismatch_is_an_error_and_leaves_nothing(tmp_path):
    module, images = trained_like()
    with pytest.raises(ParityError, match="must agree"):
        export_onnx(Fickle(module), tmp_path / "model.onnx", images, metadata={})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays(tmp_path):
    module, images = trained_like()
    path = tmp_path / "model.onnx"
    path.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export_onnx(module, path, images, metadata={})
    assert path.read_text() == "mine"
