"""What an ONNX file costs by counting, whoever made it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner

from spaces import InputError

from .counts import FLOAT_BYTES

# Where the factors and the bias of each product stand among the inputs of its node.
PRODUCTS = {
    "Conv": (0, 1, 2),
    "ConvTranspose": (0, 1, 2),
    "ConvInteger": (0, 1),
    "QLinearConv": (0, 3, 8),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
}
NOT_COUNTED = {"Attention", "DeformConv", "Einsum", "GRU", "LSTM", "RNN"}  # they multiply too
PASSING = {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Reshape", "Transpose"}  # a weight stays one
KINDS_OF_NUMBER = {
    getattr(onnx.TensorProto, name)
    for name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT4", "UINT4", "INT8", "UINT8", "INT32")
}


@dataclass(frozen=True, slots=True)
class FileCounts:
    """Counts of an ONNX graph for one image, as `latency.counts` defines them for layer records.

    Attributes:
        flops: multiply-adds of convolutions and matrix products, whatever numbers they multiply.
        params: elements of all constants but 64-bit integers, which are shapes; batch norms that the file has folded
            are in the weights; scales and zero points of quantised weights are among them.
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
        InputError: if a size that is needed depends on the input, or the file has operations that multiply, or may,
            and are not counted.
    """
    model = onnx.load(str(path), load_external_data=False)
    graph = _for_one_image(onnx.inliner.inline_local_functions(model)).graph
    left_out = sorted(_not_counted(graph))
    if left_out:
        raise InputError(
            f"{path} must have no products but {', '.join(PRODUCTS)}, to be counted; it has {', '.join(left_out)}",
            hint="export it without fusing operations, or count it elsewhere",
        )
    constants = _constants(graph)
    shapes: dict[str, tuple[int | None, ...]] = {v.name: _shape(v) for v in (*graph.input, *graph.value_info)}
    shapes.update({value.name: _shape(value) for value in graph.output} | constants)
    fixed = set(constants)
    flops = moved = weights = 0
    for node in graph.node:
        if node.op_type in PASSING and node.input[0] in fixed:
            fixed.add(node.output[0])
        if node.op_type not in PRODUCTS:
            continue
        read = [node.input[i] for i in PRODUCTS[node.op_type] if i < len(node.input) and node.input[i]]
        sizes = {name: _elements(path, name, shapes.get(name)) for name in (*read, node.output[0])}
        flops += _multiply_adds(node, sizes, shapes)
        moved += sum(sizes[name] for name in (*read, node.output[0]))
        weights += sum(sizes[name] for name in read if name in fixed)
    params = sum(math.prod(shape) for shape in constants.values())
    return FileCounts(flops, params, FLOAT_BYTES * moved, FLOAT_BYTES * weights)


def file_bytes(path: Path) -> int:
    """Size of an ONNX file, with the files that hold weights of it where some lie outside."""
    initializers = onnx.load(str(path), load_external_data=False).graph.initializer
    outside = {entry.value for tensor in initializers for entry in tensor.external_data if entry.key == "location"}
    return sum(file.stat().st_size for file in (path, *(path.parent / str(name) for name in outside)))


def _not_counted(graph: onnx.GraphProto) -> set[str]:
    """Operations that multiply, or may, and are not counted: in branches and loops it depends on what comes in."""
    found: set[str] = set()
    for node in graph.node:
        inner = [each for attribute in node.attribute for each in (attribute.g, *attribute.graphs) if each.node]
        foreign = node.domain not in {"", "ai.onnx"}
        if foreign or node.op_type in NOT_COUNTED:
            found.add(f"{node.domain}.{node.op_type}" if foreign else node.op_type)
        for each in inner:
            of_it = {each_node.op_type for each_node in each.node} & PRODUCTS.keys() | _not_counted(each)
            found |= {f"{kind} in {node.op_type}" for kind in of_it}
    return found


def _constants(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Shapes by name, of initialisers and of nodes that hold a constant."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {name: tuple(t.dims) for name, t in tensors.items() if t.data_type in KINDS_OF_NUMBER}


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


def _multiply_adds(node: onnx.NodeProto, sizes: Mapping[str, int], shapes: Mapping[str, Sequence[int | None]]) -> int:
    """Of a product whose shapes are all known."""
    first, second = (node.input[i] for i in PRODUCTS[node.op_type][:2])
    if "Conv" in node.op_type:  # a filter: (channels on the other side in its group, *kernel)
        one_by_one = first if node.op_type == "ConvTranspose" else node.output[0]
        return sizes[one_by_one] * math.prod(size or 1 for size in shapes[second][1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return sizes[node.output[0]] * int(shapes[first][0 if transposed else -1] or 1)
