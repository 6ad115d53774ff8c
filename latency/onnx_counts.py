"""What an ONNX file costs by counting, whoever made it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from spaces import InputError

from .counts import FLOAT_BYTES


@dataclass(frozen=True, slots=True)
class FileCounts:
    """Counts of an ONNX graph for one image, as `latency.counts` defines them for layer records.

    Attributes:
        flops: multiply-adds of Conv, Gemm and MatMul nodes.
        params: elements of all float constants; batch norms that the file has folded are in the weights.
        bytes: inputs, outputs and weights of these nodes, as float32.
        weight_bytes: the weights among them.
    """

    flops: int
    params: int
    bytes: int
    weight_bytes: int

    @property
    def intensity(self) -> float:
        """flops per byte; 0 where a graph has no node that counts."""
        return self.flops / self.bytes if self.bytes else 0.0


def count_file(path: Path) -> FileCounts:
    """Counts of an ONNX file.

    Raises:
        InputError: if a size that is needed depends on the input.
    """
    model = _for_one_image(onnx.load(str(path), load_external_data=False))
    graph = model.graph
    constants = _float_constants(graph)
    shapes: dict[str, tuple[int | None, ...]] = {v.name: _shape(v) for v in (*graph.input, *graph.value_info)}
    shapes.update({value.name: _shape(value) for value in graph.output} | constants)
    flops = moved = weights = 0
    for node in graph.node:
        if node.op_type not in {"Conv", "Gemm", "MatMul"}:
            continue
        tensors = [name for name in node.input if name] + [node.output[0]]
        sizes = {name: _elements(path, name, shapes.get(name)) for name in tensors}
        flops += sizes[node.output[0]] * _products_each(node, shapes)
        moved += sum(sizes[name] for name in tensors)
        weights += sum(sizes[name] for name in tensors if name in constants)
    params = sum(math.prod(shape) for shape in constants.values())
    return FileCounts(flops, params, FLOAT_BYTES * moved, FLOAT_BYTES * weights)


def _float_constants(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Shapes by name, of initialisers and of nodes that hold a constant."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {name: tuple(t.dims) for name, t in tensors.items() if t.data_type == onnx.TensorProto.FLOAT}


def _for_one_image(model: onnx.ModelProto) -> onnx.ModelProto:
    """With a free batch set to 1, and the shape of every value written down."""
    known = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in known and len(dims) and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    del model.graph.value_info[:]  # what the exporter wrote is of a free batch
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _shape(value: Any) -> tuple[int | None, ...]:
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)


def _elements(path: Path, name: str, shape: tuple[int | None, ...] | None) -> int:
    if shape is None or any(size is None for size in shape):
        raise InputError(
            f"{path} must have sizes that are known but for the batch, to be counted; that of {name} is not",
            hint="export it with fixed sizes",
        )
    return math.prod(size for size in shape if size is not None)


def _products_each(node: onnx.NodeProto, shapes: Mapping[str, Sequence[int | None]]) -> int:
    """How many multiply-adds make one output of a node whose shapes are all known."""
    if node.op_type == "Conv":  # a filter: (input channels of its group, *kernel)
        return math.prod(size or 1 for size in shapes[node.input[1]][1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return int(shapes[node.input[0]][0 if transposed else -1] or 1)
