"""Profiles of files and published networks: what cannot be timed is said, and what was published is shown."""

import io
import os
import signal
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rich.console import Console

from latency import build_onnx, measure, rounds, runtime
from latency.kit_main import KitError
from latency.reference import reference_file
from pipelines import profile as profile_module
from pipelines.profile import print_profile, profile, reference_remarks
from spaces import PUBLISHED, InputError, Task, get_space

TASK = Task(32, 10)
AT = {"resolution": TASK.resolution, "classes": TASK.classes, "channels": TASK.channels}


@pytest.fixture(autouse=True)
def few_visits(monkeypatch):
    """These tests are about what is said of networks, not how narrow intervals are or how long the reference takes."""
    monkeypatch.setattr("pipelines.profile.stored_reference_ms", lambda *_: 1.0)
    monkeypatch.setattr("pipelines.profile.measure", partial(measure, visits=1, processes=3, most_processes=3))
    monkeypatch.setattr(runtime, "new_processes", lambda: nullcontext(lambda fn, *args: fn(*args)))
    monkeypatch.setattr(profile_module, "in_new_process", lambda fn, *args: fn(*args))


def test_what_a_seed_draws_does_not_depend_on_whether_the_reference_is_stored(monkeypatch):
    drawn = []

    def noted(*_, rng, **__):
        drawn.append(rng.spawn(1)[0].random())
        raise InputError("enough")

    monkeypatch.setattr(profile_module, "measure", noted)
    for asked in (lambda *_: 1.0, lambda _task, _device, rng: float(len(rng.spawn(6)))):
        monkeypatch.setattr(profile_module, "stored_reference_ms", asked)
        with pytest.raises(InputError, match="enough"):
            profile(["mobilenet-v2"], **AT, seed=0)
    assert drawn[0] == drawn[1]


def model(path, *inputs, operator="Identity"):
    values = [helper.make_tensor_value_info(f"x{i}", kind, shape) for i, (kind, shape) in enumerate(inputs)]
    output = helper.make_tensor_value_info("y", inputs[0][0], [None] * len(inputs[0][1]))
    node = helper.make_node(operator, [value.name for value in values], ["y"])
    graph = helper.make_graph([node], "graph", values, [output])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(made.SerializeToString())
    return str(path)


@pytest.mark.parametrize(
    ("inputs", "came"),
    [
        ([(TensorProto.UINT8, [1, 3, 8, 8])], "it has x0: tensor\\(uint8\\)"),
        ([(TensorProto.FLOAT16, [1, 3, 8, 8])], "it has x0: tensor\\(float16\\)"),
        ([(TensorProto.FLOAT, ["n", 3, "h", "w"])], "it has x0: .*'h', 'w'"),
        ([(TensorProto.FLOAT, ["n", 3, None, 8])], "it has x0: .*None"),
        ([(TensorProto.FLOAT, [])], "it has x0"),
        ([(TensorProto.FLOAT, [1, 8]), (TensorProto.FLOAT, [1, 8])], "it has x0: .*, x1: "),
    ],
)
def test_a_file_whose_input_is_no_image_is_refused(tmp_path, inputs, came):
    name = model(tmp_path / "odd.onnx", *inputs, operator="Identity" if len(inputs) == 1 else "Add")
    with pytest.raises(InputError, match=f"odd.onnx must have one float32 input, .*{came}") as caught:
        profile([name], **AT, seed=0)
    assert caught.value.hint


def test_a_file_that_cannot_run_is_refused(tmp_path, capfd):
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "to"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [7, 192])],
        [onnx.numpy_helper.from_array(np.array([7, 192]), "to")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "stiff.onnx").write_bytes(made.SerializeToString())
    for batches in ((1,), (7, 2)):  # it runs batches of 7
        with pytest.raises(InputError, match=r"stiff.onnx must be a model that ONNX .* runs: .*Reshape") as caught:
            profile([str(tmp_path / "stiff.onnx")], **AT, seed=0, batches=batches)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # ONNX Runtime says nothing beside it


def test_a_batch_too_large_for_the_memory_is_said_before_anything_is_measured(monkeypatch):
    def full(model, name, batches):
        raise KitError(f"{name} must be a model that ONNX Runtime runs: failed to allocate memory for {max(batches)}")

    monkeypatch.setattr("pipelines.profile.check_runs", full)
    monkeypatch.setattr("pipelines.profile.measure", None)
    with pytest.raises(InputError, match=r"mobilenet-v2 must be .*allocate memory for 512") as caught:
        profile(["mobilenet-v2"], **AT, seed=0, batches=(1, 512))
    assert "smaller --batch" in caught.value.hint


def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_network_that_kills_what_runs_it_does_not_kill_the_command(monkeypatch):
    monkeypatch.setattr(profile_module, "in_new_process", rounds.in_new_process)
    monkeypatch.setattr(profile_module, "check_runs", killed)
    monkeypatch.setattr(profile_module, "measure", None)
    with pytest.raises(InputError, match="mobilenet-v2 cannot be run here: a process that ran a network was killed"):
        profile(["mobilenet-v2"], **AT, seed=0)


def test_each_network_is_measured_where_nothing_else_has_run(monkeypatch, tmp_path):
    """Memory that a process has used makes networks faster: as certificates, profiles are of processes of their own."""
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    asked = []

    def new_process(fn, model, *args):
        asked.append((fn, model))
        return fn(model, *args)

    monkeypatch.setattr(runtime, "new_processes", lambda: nullcontext(new_process))
    profile(["mobilenet-v2", "proxyless@w0.25:" + "-".join("0" * 22)], **AT, seed=0)
    functions, models = zip(*asked, strict=True)
    assert set(functions) == {runtime.measured_once}
    assert [models.count(each) for each in dict.fromkeys(models)] == [3, 3]


def test_a_negative_seed_is_refused():
    with pytest.raises(InputError, match="--seed must be 0 or more, got -1"):
        profile(["mobilenet-v2"], **AT, seed=-1)


def test_people_see_ours_beside_what_was_published(tmp_path):
    known = PUBLISHED["mobilenet-v2"]
    space = get_space("proxyless@w0.25")
    network = space.layers(space.arch(space.sample(1, np.random.default_rng(0))[0]), TASK)
    file = tmp_path / "a[b]c.onnx"
    file.write_bytes(build_onnx(network, np.random.default_rng(0), normalise=True))
    outcome = profile(["mobilenet-v2", str(file)], **AT, seed=0)
    out = io.StringIO()
    print_profile(outcome, Console(file=out, width=400))
    lines = [line.strip() for line in out.getvalue().splitlines()]
    ours = next(line for line in lines if line.startswith("mobilenet-v2"))
    theirs = lines[lines.index(ours) + 1]
    assert f"{outcome['networks'][0]['params']:,}" in ours
    assert "published, 224 px, 1000 classes" in theirs
    assert f"{known.params:,}" in theirs
    assert f"{known.flops:,}" in theirs
    assert f"published for mobilenet-v2: top1_pct 72, {known.source}" in lines
    assert any(str(file) in line for line in lines)


def test_networks_come_at_what_they_were_published_for_unless_something_else_is_asked(monkeypatch):
    (timed,) = row_of("a")["latencies"]
    monkeypatch.setattr(profile_module, "_measured", lambda *_: timed)  # seconds, of networks of this size
    monkeypatch.setattr(profile_module, "_peak_resident_bytes", lambda *_: None)
    small = "nasnet-a@6x768"
    published = PUBLISHED[small]
    outcome = profile([small, "mobilenet-v2"], seed=0)
    by_name = {row["name"]: row for row in outcome["networks"]}
    assert by_name[small]["task"] == asdict(published.task)
    assert published.task.resolution == 32
    assert by_name[small]["params"] == pytest.approx(published.params, rel=0.015)  # printed as 3.3 M
    assert by_name["mobilenet-v2"]["task"]["resolution"] == 224
    (row,) = profile([small], **AT, seed=0)["networks"]
    assert row["task"] == asdict(TASK)
    assert row["published"]["classes"] == 10


def test_a_file_is_measured_beside_the_reference_of_its_own_task(tmp_path):
    space = get_space("proxyless@w0.25")
    network = space.layers(space.arch(space.sample(1, np.random.default_rng(0))[0]), Task(16, 7, 1))
    (tmp_path / "m.onnx").write_bytes(build_onnx(network, np.random.default_rng(0), normalise=True))
    outcome = profile([str(tmp_path / "m.onnx")], seed=0)
    (row,) = outcome["networks"]
    assert outcome["remarks"] == reference_remarks([row])
    assert row["task"] == {"resolution": 16, "classes": 7, "channels": 1}
    with pytest.raises(InputError, match="are for networks that are given by name, and these are files"):
        profile([str(tmp_path / "m.onnx")], seed=0, resolution=96)
    assert row["input"] == [1, 16, 16]
    assert row["latency_ms_interval"][0] <= row["latency_ms"] <= row["latency_ms_interval"][1]


def test_a_file_that_cannot_be_counted_is_timed_all_the_same(tmp_path):
    """Its matrix product has as many rows as the image has bright pixels."""
    graph = helper.make_graph(
        [
            helper.make_node("Greater", ["x", "half"], ["bright"]),
            helper.make_node("Compress", ["x", "flat"], ["kept"], axis=1),
            helper.make_node("Squeeze", ["bright", "first"], ["flat"]),
            helper.make_node("Unsqueeze", ["kept", "last"], ["column"]),
            helper.make_node("MatMul", ["column", "w"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "bright", 5])],
        [
            onnx.numpy_helper.from_array(np.float32(0.5), "half"),
            onnx.numpy_helper.from_array(np.array([0]), "first"),
            onnx.numpy_helper.from_array(np.array([2]), "last"),
            onnx.numpy_helper.from_array(np.ones((1, 5), np.float32), "w"),
        ],
    )
    graph.node.insert(1, graph.node.pop(2))  # what is read must be made before
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "loose.onnx").write_bytes(made.SerializeToString())
    (row,) = profile([str(tmp_path / "loose.onnx")], **AT, seed=0)["networks"]
    assert row["flops"] is None
    assert "must have sizes that are known" in row["not_counted"]
    assert row["latency_ms"] > 0
    assert (row["task"], row["input"]) == (None, [64])
    assert "loose.onnx, input 64" in printed(outcome_of(row), width=300)


def printed(outcome, *, width):
    out = io.StringIO()
    print_profile(outcome, Console(file=out, width=width))
    return out.getvalue()


def outcome_of(*rows, **of_device):
    return {"device": {**known_device(), **of_device}, "networks": rows, "remarks": reference_remarks(rows)}


def known_device():
    return {"cpu": "a cpu", "provider": "CPUExecutionProvider", "onnxruntime": "1.0"}


def row_of(name, *, now_ms=2.0, **more):
    timed = {
        "threads": 1,
        "batch": 1,
        "latency_ms": 1.25,
        "latency_ms_interval": [1.2, 1.3],
        "half_between_measurements": 0.02,
        "latency_steady": True,
        "latency_warm_ms": 0.75,
        "latency_wall_p50_ms": 1.4,
        "latency_wall_p90_ms": 1.5,
        "reference_ms": 2.0,
        "reference_ms_interval": None,
        "reference_now_ms": now_ms,
        "device_fingerprint": "0123456789ab",
    }
    counted = {
        "flops": 123_456_789,
        "params": 4_321,
        "intensity": 5.5,
        "peak_resident_bytes": None,
        "model_bytes": 2**20,
    }
    return {"name": name, "task": {"resolution": 96}, "latencies": [timed], **timed, **counted, **more}


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_figure_is_cut_however_narrow_the_terminal(width):
    outcome = outcome_of(row_of("a-rather-long-name-of-a-network"))
    text = printed(outcome, width=width)
    figures = ("1.25 (1.2 to 1.3)", "0.75", "1.4, 1.5", "123,456,789", "4,321", "5.50", "1.00")
    assert all(figure in text for figure in ("a-rather-long-name-of-a-network, 96 px", *figures))
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    on_one_line = any("a-rather" in line and "123,456,789" in line for line in text.splitlines())
    assert on_one_line == (width == 200)


def test_a_machine_that_drifted_since_its_reference_was_stored_says_so_once():
    steady = outcome_of(row_of("a"), row_of("b", now_ms=2.1))
    assert "this machine now runs" not in printed(steady, width=200)
    slower = outcome_of(row_of("a", now_ms=2.6), row_of("b", now_ms=2.6))
    assert printed(slower, width=200).count("this machine now runs 30% slower than when its reference latency") == 1


def test_why_a_latency_is_no_number_is_said_and_what_helps():
    """On a machine that runs at half its clock for good, nothing that runs beside it is to blame."""
    rows = [row_of("a"), row_of("b", now_ms=4.2)]
    rows[1]["latencies"][0]["half_between_measurements"] = 0.035  # of 0.04
    for row in rows:
        row["latency_steady"] = row["latencies"][0]["latency_steady"] = False
    text = printed(outcome_of(*rows), width=400)
    assert "unsteady (1.2 to 1.3)" in text
    assert "unsteady: the machine was too disturbed; the machine was too unlike its state when" in text
    assert f"if it stays so, remove {reference_file('0123456789ab')}, and the reference is measured anew" in text


def test_an_accelerator_that_nobody_names_is_said():
    cuda = {"provider": "CUDAExecutionProvider"}
    said = "what CUDAExecutionProvider computes on is unknown"
    assert said in printed(outcome_of(row_of("a"), **cuda, accelerator="unknown"), width=300)
    named = printed(outcome_of(row_of("a"), **cuda, accelerator="NVIDIA H100"), width=300)
    assert said not in named
    assert "CUDAExecutionProvider on NVIDIA H100" in named


def test_of_several_settings_it_is_said_which_one_drifted():
    row = row_of("a", now_ms=2.6)
    row["latencies"] = [row["latencies"][0], {**row["latencies"][0], "threads": 2, "reference_now_ms": 1.4}]
    text = printed(outcome_of(row, row_of("b", now_ms=2.4)), width=200)
    assert "1 thread: this machine now runs 30% slower" in text
    assert "2 threads: this machine now runs 30% faster" in text
    assert "20% slower" not in text


def test_a_reference_that_is_hardly_known_is_said():
    row = row_of("a", now_ms=2.0)
    row["latencies"][0]["reference_ms_interval"] = (1.95, 2.1)
    assert "is known within" not in printed(outcome_of(row), width=300)
    row["latencies"][0]["reference_ms_interval"] = (1.6, 2.1)
    text = printed(outcome_of(row), width=500)
    assert "is known within 25% only" in text
    assert f"when less runs beside it, remove {reference_file('0123456789ab')}, and the reference" in text


def test_a_file_whose_products_are_not_all_counted_is_timed_and_says_so(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Einsum", ["x", "w"], ["y"], equation="nchw,oc->nohw")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5, 8, 6])],
        [onnx.numpy_helper.from_array(np.ones((5, 3), np.float32), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "sum.onnx").write_bytes(made.SerializeToString())
    outcome = profile([str(tmp_path / "sum.onnx")], **AT, seed=0)
    (row,) = outcome["networks"]
    assert row["flops"] is row["params"] is None
    text = printed(outcome, width=300)
    assert "sum.onnx, input 3 x 8 x 6" in text
    assert "not counted: " in text
    assert "it has Einsum" in text


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"threads": (999,)}, r"--threads must be 1 to \d+, the cores that it may run on; got 999"),
        ({"threads": (0,)}, "--threads must be 1 to"),
        ({"batches": (0,)}, "--batch must be 1 to 4096, got 0"),
        ({"provider": "GpuExecutionProvider"}, r"--provider must be one that this ONNX Runtime has \(.*CPU.*got Gpu"),
    ],
)
def test_settings_that_are_not_there_are_refused(asked, says):
    with pytest.raises(InputError, match=says):
        profile(["mobilenet-v2"], **AT, seed=0, **asked)


def test_several_threads_and_batches_stand_side_by_side(tmp_path):
    space = get_space("proxyless@8,8x1,16x2s2,32")
    file = tmp_path / "one.onnx"
    network = space.layers(space.arch(space.sample(1, np.random.default_rng(0))[0]), TASK)
    file.write_bytes(build_onnx(network, np.random.default_rng(0), dynamic_batch=True))
    outcome = profile([str(file)], seed=0, batches=(1, 16))
    (row,) = outcome["networks"]
    assert [(each["threads"], each["batch"]) for each in row["latencies"]] == [(1, 1), (1, 16)]
    assert {each["device_fingerprint"] for each in row["latencies"]} == {outcome["device"]["fingerprint"]}
    assert row["latency_ms"] == row["latencies"][0]["latency_ms"] < row["latencies"][1]["latency_ms"]
    assert row["peak_resident_bytes"] is None or row["peak_resident_bytes"] > row["model_bytes"]
    out = io.StringIO()
    print_profile(outcome, Console(file=out, width=200))
    assert "1 thread, batch 16" in out.getvalue()
    file.write_bytes(build_onnx(network, np.random.default_rng(0)))
    with pytest.raises(InputError, match="takes batches of 1, so the batch must be 1; got 16"):
        profile([str(file)], **AT, seed=0, batches=(16,))
