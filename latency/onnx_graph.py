"""Layer records -> ONNX in milliseconds, for profiling; trained module -> ONNX with a parity check, for deploying."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spaces import InputError, Layer, Network

from .files import write_atomically

if TYPE_CHECKING:
    from torch import nn

OPSET = 18
IR_VERSION = 10  # what ONNX Runtime 1.18 and newer read
INPUT, OUTPUT = "images", "logits"
ABSOLUTE_TOLERANCE = 1e-3  # of logits, relative to the largest one of the sample


class ParityError(RuntimeError):
    """An exported model does not compute what the trained module computes."""


def build_onnx(
    network: Network, rng: np.random.Generator, *, normalise: bool = False, dynamic_batch: bool = False
) -> bytes:
    """A serialised ONNX model of layer records with random weights, batch norm folded.

    The same work for ONNX Runtime as the trained and exported network: latency does not depend on the values of
    weights. Input `images` (1, *input shape), output `logits`.

    Args:
        normalise: begin with the per-channel scale and shift that deployed networks carry.
    """
    graph = _Graph(rng)
    names: list[str] = []
    for layer in network:
        inputs = [names[x] for x in layer.inputs]
        names.append(graph.normalisation(layer) if layer.op == "input" and normalise else graph.layer(layer, inputs))
    batch: int | str = "batch" if dynamic_batch else 1
    last = network[-1]
    graph.nodes.append(helper.make_node("Identity", [names[-1]], [OUTPUT]))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "network",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, *network[0].shape])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, *last.shape])],
            initializer=graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="hwnas",
    )
    return bytes(model.SerializeToString())


class _Graph:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def layer(self, layer: Layer, inputs: Sequence[str]) -> str:
        match layer.op:
            case "input":
                return INPUT
            case "conv":
                return self._conv(layer, inputs[0])
            case "linear":
                weight = self._weight(layer)
                return self._node("Gemm", [inputs[0], weight, self._bias(layer)], transB=1)
            case "max_pool" | "avg_pool":
                return self._pool(layer, inputs[0])
            case "global_avg_pool":
                return self._node("Flatten", [self._node("GlobalAveragePool", inputs)], axis=1)
            case "relu":
                return self._node("Relu", inputs)
            case "batch_norm":
                ones = np.ones(layer.shape[0], dtype=np.float32)
                scale, shift, mean, var = (self._constant(v * ones) for v in (1.0, 0.1, 0.0, 1.0))
                return self._node("BatchNormalization", [inputs[0], scale, shift, mean, var])
            case "group_norm":
                return self._group_norm(layer, inputs[0])
            case "shift" | "slice":
                return self._cut(layer, inputs[0])
            case "add":
                total = inputs[0]
                for other in inputs[1:]:
                    total = self._node("Add", [total, other])
                return total
            case "concat":
                return self._node("Concat", inputs, axis=1)

    def normalisation(self, layer: Layer) -> str:
        shape = (layer.shape[0], *[1] * (len(layer.shape) - 1))
        mean = self._constant(np.full(shape, 0.5, dtype=np.float32))
        std = self._constant(np.full(shape, 0.25, dtype=np.float32))
        return self._node("Div", [self._node("Sub", [INPUT, mean]), std])

    def _conv(self, layer: Layer, x: str) -> str:
        inputs = [x, self._weight(layer)]
        if layer.bias or layer.batch_norm:
            inputs.append(self._bias(layer))
        (ph, pw) = layer.padding
        y = self._node(
            "Conv",
            inputs,
            kernel_shape=layer.kernel,
            strides=layer.stride,
            dilations=layer.dilation,
            group=layer.groups,
            pads=(ph, pw, ph, pw),
        )
        if layer.activation == "relu6":
            bounds = [self._constant(np.array(bound, dtype=np.float32)) for bound in (0.0, 6.0)]
            return self._node("Clip", [y, *bounds])
        return self._node("Relu", [y]) if layer.activation == "relu" else y

    def _pool(self, layer: Layer, x: str) -> str:
        (ph, pw) = layer.padding
        window = {"kernel_shape": layer.kernel, "strides": layer.stride, "pads": (ph, pw, ph, pw)}
        if layer.op == "max_pool":
            return self._node("MaxPool", [x], ceil_mode=int(layer.ceil_mode), **window)
        return self._node("AveragePool", [x], count_include_pad=0, **window)

    def _cut(self, layer: Layer, x: str) -> str:
        if layer.op == "shift":  # one pixel less before, one of zeros behind
            return self._node("Pad", [x, self._integers((0, 0, -1, -1, 0, 0, 1, 1))])
        bounds = [self._integers((value,)) for value in (0, layer.shape[0], 1)]  # from, to, axis
        return self._node("Slice", [x, *bounds])

    def _group_norm(self, layer: Layer, x: str) -> str:
        """As opset 18 can say it: instance normalisation of the map with its groups for channels."""
        groups = np.ones(layer.groups, dtype=np.float32)
        grouped = self._node("Reshape", [x, self._integers((0, layer.groups, -1))])
        y = self._node("InstanceNormalization", [grouped, self._constant(groups), self._constant(0 * groups)])
        y = self._node("Reshape", [y, self._integers((0, *layer.shape))])
        channels = np.ones((layer.shape[0], 1, 1), dtype=np.float32)
        y = self._node("Mul", [y, self._constant(channels)])
        return self._node("Add", [y, self._constant(0.1 * channels)])

    def _weight(self, layer: Layer) -> str:
        fan_in = np.prod(layer.weight_shape[1:])
        values = self.rng.standard_normal(layer.weight_shape, dtype=np.float32)
        return self._constant(values * np.float32(np.sqrt(2 / fan_in)))

    def _bias(self, layer: Layer) -> str:
        return self._constant(0.1 * self.rng.standard_normal(layer.shape[0], dtype=np.float32))

    def _constant(self, values: NDArray[np.float32]) -> str:
        return self._initializer(np.asarray(values, dtype=np.float32))

    def _integers(self, values: Sequence[int]) -> str:
        return self._initializer(np.array(values, dtype=np.int64))

    def _initializer(self, values: NDArray[np.float32] | NDArray[np.int64]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def _node(self, op: str, inputs: Sequence[str], **attributes: object) -> str:
        name = f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], None, None, None, None, **attributes))
        return name


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an exported model was from its torch module on real images."""

    images: int
    largest_difference: float  # of any logit
    largest_logit: float
    agreement: float  # share of images with the same predicted class, or with a tie within the tolerance


def export_onnx(
    module: nn.Module,
    path: Path,
    images: NDArray[np.float32],
    *,
    metadata: Mapping[str, str],
) -> Parity:
    """Write a trained module as ONNX (dynamic batch) and check that ONNX Runtime computes the same.

    Args:
        module: in evaluation mode or not; it is exported in evaluation mode, on the CPU.
        path: must not exist; written only if the check passes.
        images: (n, channels, height, width) real inputs, in the range that the module expects.
        metadata: stored in the file's metadata properties.
    Raises:
        ParityError: if logits differ by more than 1e-3 of the largest one, or a predicted class differs.
        InputError: if the file exists or cannot be written.
    """
    import torch  # noqa: PLC0415  only needed to deploy

    if path.exists():
        raise InputError(f"{path} exists already", hint="remove it or deploy to another folder")
    module = module.eval().cpu()
    example = torch.from_numpy(images[:2].copy())
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            module,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ParityError("torch's exporter returned no program")
    model = program.model_proto
    _pool_globally(model)
    _forget_sources(model)
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    parity = check_parity(module, data, images)
    write_atomically(path, data)
    return parity


def _pool_globally(model: onnx.ModelProto) -> None:
    """Means over height and width as the one node that ONNX has for them: torch's exporter writes a slower one.

    It is also the node of `build_onnx`, by which latencies are estimated.
    """
    axes = {tensor.name: sorted(numpy_helper.to_array(tensor).ravel().tolist()) for tensor in model.graph.initializer}
    for node in model.graph.node:
        keeps = all(attribute.i == 1 for attribute in node.attribute if attribute.name == "keepdims")
        spatial = len(node.input) == 2 and axes.get(node.input[1]) in ([2, 3], [-2, -1])
        if node.op_type == "ReduceMean" and keeps and spatial:
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _forget_sources(model: onnx.ModelProto) -> None:
    """The exporter notes for each node which lines of which files it is from: paths of the machine that exported."""
    del model.metadata_props[:], model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""


def check_parity(module: nn.Module, model: bytes, images: NDArray[np.float32]) -> Parity:
    """Compare ONNX Runtime with torch on the same images, in batches of different sizes.

    Raises:
        ParityError: see `export_onnx`.
    """
    import torch  # noqa: PLC0415

    from .rounds import open_session  # noqa: PLC0415

    session = open_session(model)
    ours, theirs = [], []
    sizes = [1, 2, *[64] * (len(images) // 64 + 1)]  # one, a few, many: the batch is dynamic
    start = 0
    for size in sizes:
        batch = np.ascontiguousarray(images[start : start + size])
        start += size
        if not len(batch):
            break
        ours.append(np.asarray(session.run([OUTPUT], {INPUT: batch})[0]))
        with torch.inference_mode():
            theirs.append(module(torch.from_numpy(batch)).numpy())
    a, b = np.concatenate(ours), np.concatenate(theirs)
    largest_logit = float(np.abs(b).max())
    tolerance = ABSOLUTE_TOLERANCE * max(1.0, largest_logit)
    # By how much torch's own favourite stands above the class that ONNX Runtime names.
    behind = b.max(axis=1) - np.take_along_axis(b, a.argmax(axis=1)[:, None], axis=1)[:, 0]
    parity = Parity(
        images=len(a),
        largest_difference=float(np.abs(a - b).max()),
        largest_logit=largest_logit,
        agreement=float((behind <= tolerance).mean()),
    )
    if not np.isfinite(a).all() or parity.largest_difference > tolerance or parity.agreement < 1.0:
        raise ParityError(
            f"the ONNX model must agree with torch on {parity.images} images within {tolerance:.2g}, but logits "
            f"differ by up to {parity.largest_difference:.3g} and {parity.agreement:.2%} of the predictions agree"
        )
    return parity


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter prints and warns about its own versions; its errors are raised all the same."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
