"""Counts of ONNX files equal those of the layer records that the files were made of."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latency import build_onnx, count, export_onnx
from latency.onnx_counts import count_file
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
