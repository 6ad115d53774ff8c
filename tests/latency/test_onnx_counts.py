"""Counts of ONNX files equal those of the layer records that the files were made of."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latency import build_onnx, count, export_onnx
from latency.onnx_counts import count_file, file_bytes
from spaces import InputError, Task, get_space

SMALL = ("proxyless@w0.25", "nasnet@2x48", "pnas@2x24", "darts@8x8", "nasbench101@2x1x16", "nasbench_macro@8x64")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_a_file_counts_as_its_layer_records(tmp_path, name, dynamic_batch):
    space, rng = get_space(name), np.random.default_rng(0)
    path = tmp_path / "model.onnx"
    for row in space.sample(3, rng):
        network = space.layers(space.arch(row), Task(32, 10))
        path.write_bytes(build_onnx(network, rng, normalise=True, dynamic_batch=dynamic_batch))
        ours, theirs = count_file(path), count(network)
        assert (ours.flops, ours.bytes, ours.weight_bytes) == (theirs.flops, theirs.bytes, theirs.weight_bytes)
        assert ours.intensity == theirs.intensity
        # Folding leaves one bias a channel of batch norm's two numbers; the input's scale and shift are constants too.
        assert 0 < theirs.params - ours.params < 0.05 * theirs.params


def test_a_file_from_torch_counts_as_the_network(tmp_path):
    space = get_space("nasbench_macro@8x64")
    arch = space.arch(space.sample(1, np.random.default_rng(1))[0])
    path = tmp_path / "model.onnx"
    module = space.build(arch, Task(32, 10)).eval()
    export_onnx(module, path, np.zeros((3, 3, 32, 32), np.float32), metadata={})
    theirs, ours = count(space.layers(arch, Task(32, 10))), count_file(path)
    model = onnx.load(path)
    kinds = {node.op_type for node in model.graph.node}
    assert "GlobalAveragePool" in kinds  # as in build_onnx: torch's ReduceMean is slower
    assert "ReduceMean" not in kinds
    for value in model.graph.initializer:
        value.ClearField("raw_data")  # random weights may spell anything
    assert b".py" not in model.SerializeToString()  # nothing of the machine that exported
    assert ours.flops == theirs.flops
    assert ours.weight_bytes == pytest.approx(theirs.weight_bytes, rel=0.03)  # the exporter leaves batch norms unfolded


def matrix_file(path, shape):
    values = [numpy_helper.from_array(np.zeros((6, 5), np.float32), "w")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        values,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(made.SerializeToString())
    return path


def test_a_matrix_product_by_hand(tmp_path):
    counts = count_file(matrix_file(tmp_path / "m.onnx", ["n", 4, 6]))
    assert (counts.flops, counts.params) == (4 * 6 * 5, 30)
    assert counts.bytes == 4 * (4 * 6 + 30 + 4 * 5)


def test_sizes_that_depend_on_the_input_are_refused(tmp_path):
    with pytest.raises(InputError, match="must have sizes that are known but for the batch"):
        count_file(matrix_file(tmp_path / "m.onnx", ["n", "m", 6]))


def test_a_graph_without_products_costs_nothing(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 8, 8])],
    )
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    counts = count_file(path)
    assert (counts.flops, counts.bytes, counts.intensity) == (0, 0, 0.0)


def graph_file(path, nodes, inputs, weights, *, opset=21, domains=()):
    """A model of these nodes, whose last one gives `y`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    return path


IMAGE = {"x": (TensorProto.FLOAT, ["n", 6, 9, 9])}


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (2, 3)])
def test_a_transposed_convolution_counts_as_torch_counts_it(tmp_path, stride, groups):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    module = torch.nn.ConvTranspose2d(6, 12, 3, stride=stride, groups=groups)
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 6, 9, 9))
    weights = {"w": module.weight.detach().numpy(), "b": module.bias.detach().numpy()}
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[stride] * 2, group=groups)
    counts = count_file(graph_file(tmp_path / "m.onnx", [node], IMAGE, weights))
    assert counts.flops == 6 * 81 * 12 // groups * 9  # every input element meets every weight of its channel
    assert counter.get_total_flops() == 2 * counts.flops  # a multiply-add is two there
    assert counts.params == 12 // groups * 6 * 9 + 12


def test_numbers_of_other_kinds_count_alike(tmp_path):
    """One 3x3 convolution from 6 to 12 channels at 9 px, in float32, in float16, and in four ways of 8-bit integers."""
    kernel, bias = np.ones((12, 6, 3, 3)), np.zeros(12)
    scale, zero = {"s": np.float32(0.1)}, {"z": np.uint8(3), "wz": np.int8(0)}
    pads = {"pads": [1, 1, 1, 1]}
    node = helper.make_node
    as_half = [
        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        node("Conv", ["h", "w", "b"], ["c"], **pads),
        node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    quantised = node("QuantizeLinear", ["x", "s", "z"], ["q"])
    as_factors = [
        quantised,
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "s", "wz"], ["dw"]),
        node("Conv", ["d", "dw", "b"], ["y"], **pads),
    ]
    whole = ["q", "s", "z", "w", "s", "wz", "s", "z", "b"]
    linear = [quantised, node("QLinearConv", whole, ["c"], **pads), node("DequantizeLinear", ["c", "s", "z"], ["y"])]
    integer = [
        quantised,
        node("ConvInteger", ["q", "w", "z"], ["c"], **pads),
        node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    w8 = {"w": kernel.astype(np.int8), **scale, **zero}
    b32 = {"b": bias.astype(np.float32)}
    files = {
        "float": ([node("Conv", ["x", "w", "b"], ["y"], **pads)], {"w": kernel.astype(np.float32), **b32}),
        "half": (as_half, {"w": kernel.astype(np.float16), "b": bias.astype(np.float16)}),
        "factors": (as_factors, w8 | b32),
        "linear": (linear, w8 | {"b": bias.astype(np.int32)}),
        "integer": (integer, w8),
    }
    found = {
        name: count_file(graph_file(tmp_path / f"{name}.onnx", nodes, IMAGE, weights))
        for name, (nodes, weights) in files.items()
    }
    products, of_weights, of_maps = 81 * 12 * 6 * 9, 12 * 6 * 9, 81 * (6 + 12)
    for name, counts in found.items():
        biases = 0 if name == "integer" else 12
        assert counts.flops == products, name
        assert counts.weight_bytes == 4 * (of_weights + biases), name
        assert counts.bytes == 4 * (of_weights + biases + of_maps), name
        more = {"float": 0, "half": 0}.get(name, 3)  # a scale and two zero points
        assert counts.params == of_weights + biases + more, name


@pytest.mark.parametrize("kind", ["MatMulInteger", "QLinearMatMul"])
def test_integer_matrix_products_count_as_others(tmp_path, kind):
    node = helper.make_node
    inputs = ["q", "w", "z"] if kind == "MatMulInteger" else ["q", "s", "z", "w", "s", "wz", "s", "z"]
    last = node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node(kind, inputs, ["c"]), last]
    weights = {"w": np.ones((6, 5), np.int8), "s": np.float32(0.1), "z": np.uint8(3), "wz": np.int8(0)}
    counts = count_file(graph_file(tmp_path / "m.onnx", nodes, {"x": (TensorProto.FLOAT, ["n", 4, 6])}, weights))
    assert (counts.flops, counts.bytes) == (4 * 6 * 5, 4 * (4 * 6 + 30 + 4 * 5))


def branch(operator):
    inner = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["z"])],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    return helper.make_node("If", ["on"], ["y"], then_branch=inner, else_branch=inner)


@pytest.mark.parametrize(
    ("node", "named"),
    [
        (helper.make_node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft"), "com.microsoft.FusedConv"),
        (helper.make_node("Einsum", ["x", "w"], ["y"], equation="nchw,oc->nohw"), "Einsum"),
        (branch("MatMul"), "MatMul in If"),
    ],
)
def test_a_product_that_is_not_counted_is_never_a_silent_zero(tmp_path, node, named):
    weights = {"w": np.ones((9, 6), np.float32), "on": np.array(True)}
    path = graph_file(tmp_path / "m.onnx", [node], IMAGE, weights, domains=["com.microsoft"])
    with pytest.raises(InputError, match=f"must have no products but .*; it has {named}"):
        count_file(path)


def test_a_branch_without_products_is_none_of_ours(tmp_path):
    weights = {"w": np.ones((9,), np.float32), "on": np.array(True)}
    assert count_file(graph_file(tmp_path / "m.onnx", [branch("Add")], IMAGE, weights)).flops == 0


def test_functions_of_a_file_are_counted_as_what_they_do(tmp_path):
    body = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("mine", "Product", ["a", "b"], ["c"], body, opsets)
    graph = helper.make_graph(
        [helper.make_node("Product", ["x", "w"], ["y"], domain="mine")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros((6, 5), np.float32), "w")],
    )
    model = helper.make_model(
        graph, opset_imports=[*opsets, helper.make_opsetid("mine", 1)], functions=[function], ir_version=10
    )
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert count_file(tmp_path / "m.onnx").flops == 4 * 6 * 5


def test_weights_that_lie_beside_a_file_belong_to_its_size(tmp_path):
    inside = matrix_file(tmp_path / "in.onnx", ["n", 4, 6])
    assert file_bytes(inside) == inside.stat().st_size
    outside = tmp_path / "out.onnx"
    onnx.save(onnx.load(inside), outside, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size >= 4 * 30
    assert file_bytes(outside) == outside.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert count_file(outside) == count_file(inside)
