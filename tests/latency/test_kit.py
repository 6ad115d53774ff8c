"""Kits: run where nothing but numpy and ONNX Runtime is, and read back; what is damaged or deceives is refused."""

import ast
import copy
import json
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
from kits import OTHER_CPU, SPACE, TASK, VISITS, bare_python, loaded, measured_elsewhere, resealed, small_kit

from latency import (
    Device,
    LatencyTable,
    LearnedLatency,
    kit,
    kit_main,
    measure_plan,
    measuring,
    plan_latency_model,
    runtime,
)
from latency.device import allowed_cores
from latency.kit import import_result, measure_source, read_result, write_kit
from latency.measuring import network_name
from latency.onnx_graph import build_onnx
from latency.reference import reference_model, stored_references
from latency.rounds import ROUNDS_A_VISIT, Rounds, in_new_process
from latency.seal import digest
from latency.table import CALIBRATION_NETWORKS
from spaces import InputError, Task, get_space
from spaces.layers import NetworkBuilder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A kit that was run on a machine of another processor."""
    folder = small_kit(tmp_path_factory.mktemp("kit") / "pi-kit")
    measured_elsewhere(folder)
    return folder


@pytest.fixture
def result(made):
    return json.loads((made / "result.json").read_text())


def test_in_a_bare_environment_it_measures_and_is_read_back(tmp_path, monkeypatch):
    waits = f"REFERENCE_PAUSES_S = {runtime.REFERENCE_PAUSES_S}"
    assert waits in measure_source()
    impatient = measure_source().replace(waits, "REFERENCE_PAUSES_S = (0.0,)")  # tests beside this one disturb it
    monkeypatch.setattr(kit, "measure_source", lambda: impatient)
    folder = small_kit(tmp_path / "kit")
    python = bare_python(tmp_path / "bare")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    there = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": 300}
    absent = (
        "from importlib.util import find_spec as f; print([n for n in ('torch', 'onnx', 'scipy', 'latency') if f(n)])"
    )
    assert subprocess.run([python, "-c", absent], check=True, **there).stdout == "[]\n"
    done = subprocess.run([python, "measure.py"], check=False, **there)
    assert done.returncode == 0, done.stderr
    assert "100 % done" in done.stderr
    assert done.stdout == ""
    model = import_result(read_result(folder / "result.json", folder))
    assert isinstance(model, LatencyTable)
    assert model.device == Device.here()
    assert model.reference_ms == stored_references(Device.here())["1x8x8-10"].ms  # one for all latencies of a device
    assert (model.space, model.task) == (SPACE.name, TASK)
    assert 0 < model.reference_ms < 1000
    assert len(model.calibration) == CALIBRATION_NETWORKS
    assert (model.estimate_ms(SPACE.sample(50, np.random.default_rng(0))) > 0).all()
    again = subprocess.run([python, "measure.py"], check=False, **there)
    assert (again.returncode, again.stdout) == (2, "")
    assert "result.json exists already: give --overwrite" in again.stderr


def test_the_file_is_our_own_sources_and_nothing_of_ours_is_imported():
    text = measure_source()
    tree = ast.parse(text, feature_version=(3, 10))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in imported}
    assert roots - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}
    ours = {}
    for name in kit.SOURCES:
        for node in ast.parse((ROOT / "latency" / name).read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign):
                ours[ast.dump(node)] = name
    there = {ast.dump(node) for node in tree.body}
    assert len(ours) > 25
    assert set(ours) <= there


def test_names_that_two_sources_share_are_noticed(monkeypatch):
    monkeypatch.setattr(kit, "SOURCES", ("rounds.py", "rounds.py"))
    with pytest.raises(ValueError, match=r"share .*FLUSH_BYTES"):
        measure_source()


def test_a_kit_holds_what_is_measured_here(tmp_path):
    """The same networks as a measurement on this machine, of the same work: equal graphs up to the weights' values."""
    folder = small_kit(tmp_path / "kit")
    stored = json.loads((folder / "kit.json").read_text())
    rng = np.random.default_rng(0)
    calibration = np.stack([SPACE.row(SPACE.parse(text)) for text in stored["calibration"]])
    plan = plan_latency_model(SPACE, TASK, calibration)
    assert stored["groups"] == [list(map(network_name, group)) for group in plan.groups]
    wanted = {"reference": reference_model(TASK)}
    for group in plan.groups:
        wanted |= plan.models(group, rng)
    with zipfile.ZipFile(folder / "networks.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"{name}.onnx" for name in wanted)
        for name, model in wanted.items():
            ours, theirs = onnx.load_from_string(model), onnx.load_from_string(archive.read(f"{name}.onnx"))
            assert theirs.graph.node == ours.graph.node
            shapes = [[list(w.dims) for w in proto.graph.initializer] for proto in (ours, theirs)]
            assert shapes[0] == shapes[1]
    for name, known in stored["files"].items():
        assert sha256((folder / name).read_bytes()).hexdigest() == known


def test_the_same_seed_gives_the_same_kit_and_another_seed_another(tmp_path):
    kits = [write_kit(tmp_path / str(i), SPACE, TASK, seed=seed) for i, seed in enumerate((0, 0, 1))]
    assert kits[0] == kits[1] != kits[2]


def test_a_large_kit_is_small_to_carry(tmp_path):
    """ProxylessNAS at 224 px with 1000 classes: its whole networks alone have over 100 MB of weights."""
    write_kit(tmp_path / "kit", get_space("proxyless"), Task(224, 1000), seed=0)
    assert sum(file.stat().st_size for file in (tmp_path / "kit").iterdir()) < 15e6
    readme = (tmp_path / "kit" / "README.txt").read_text()
    assert len(readme.splitlines()) <= 11
    assert "python measure.py --models model.onnx" in readme


def test_what_a_kit_measures_gives_the_model_that_measuring_here_gives(tmp_path, monkeypatch):
    """On a machine with known times: the two ways differ in nothing."""
    ms = {}

    def run_rounds(models, *, visits, rng, rounds=8, warm_runs=4, **_):
        times = np.array([ms.setdefault(nodes_of(model), 0.1 + 0.013 * len(ms)) for model in models])
        times = np.broadcast_to(times[:, None, None], (len(models), 2 * visits, rounds))
        return Rounds(times, times, times[:, :visits, :warm_runs])

    def nodes_of(model):
        proto = onnx.load_from_string(model)
        return repr((proto.graph.node, [list(w.dims) for w in proto.graph.initializer], proto.graph.input))

    folder = small_kit(tmp_path / "kit")
    measure = loaded(folder)
    for module in (measure, measuring):
        monkeypatch.setattr(module, "run_rounds", run_rounds)
        monkeypatch.setattr(module, "new_processes", lambda: nullcontext(lambda fn, *args: fn(*args)))
    assert measure.main([]) == 0
    imported = import_result(read_result(folder / "result.json"))
    calibration = np.stack(
        [SPACE.row(SPACE.parse(t)) for t in json.loads((folder / "kit.json").read_text())["calibration"]]
    )
    plan = plan_latency_model(SPACE, TASK, calibration)
    times = measure_plan(plan, reference_model(TASK), imported.reference_ms, np.random.default_rng(0), budget_s=0.0)
    here = kit.fit_latency_model(SPACE, plan, Device.here(), imported.reference_ms, times)
    rows = SPACE.sample(40, np.random.default_rng(1))
    assert imported.reference_ms == pytest.approx(ms[nodes_of(reference_model(TASK))])
    np.testing.assert_allclose(imported.estimate_ms(rows), here.estimate_ms(rows), rtol=1e-12)
    assert imported.relative_error == pytest.approx(here.relative_error)
    assert (imported.reference_now_ms, imported.networks) == (pytest.approx(here.reference_now_ms), here.networks)
    assert imported.slope_deviation == pytest.approx(here.slope_deviation)


def test_a_space_that_is_no_chain_gets_a_learned_model(tmp_path):
    space = get_space("pnas@1x4,b1")
    folder = small_kit(tmp_path / "kit", space=space)
    model = import_result(read_result(measured_elsewhere(folder), folder))
    assert isinstance(model, LearnedLatency)
    assert model.device.cpu == OTHER_CPU


def test_a_kit_of_an_own_space_needs_its_file_to_be_read_back(tmp_path):
    name = f"{ROOT}/docs/examples/my_space.py:MySpace"
    space, task = get_space(name, TASK), TASK
    folder = small_kit(tmp_path / "kit", space=space, task=task, own=kit.SpaceFile.read(name))
    assert str(ROOT) not in (folder / "kit.json").read_text()
    result = read_result(measured_elsewhere(folder))
    with pytest.raises(InputError, match="a space of your own"):
        import_result(result)
    with pytest.raises(InputError, match="--space must be residual"):
        import_result(result, space="proxyless")
    assert import_result(result, space=name).space == "residual"


def test_names_of_networks_do_not_depend_on_how_numbers_are_kept():
    net, same, other = (NetworkBuilder((3, 8, 8)) for _ in range(3))
    net.conv(0, 8, kernel=3)
    same.conv(0, np.int64(8), kernel=(np.int64(3), 3))
    other.conv(0, 8, kernel=5)
    assert network_name(net.network) == network_name(same.network) != network_name(other.network)


def test_files_are_measured_against_the_value_that_is_known_of_the_device(made, tmp_path, capsys, result):
    model = tmp_path / "model.onnx"
    row = SPACE.sample(1, np.random.default_rng(0))[0]
    model.write_bytes(build_onnx(SPACE.layers(SPACE.arch(row), TASK), np.random.default_rng(0), normalise=True))
    measure = loaded(made)
    measure.UNSTEADY = 9.0  # however busy the machine of the tests is
    (made / "result.json").rename(made / "carried-home.json")  # the device knows its reference all the same
    measure._cpu_model = lambda: OTHER_CPU
    assert measure.main(["--models", str(model), "--out", str(tmp_path / "m.json")]) == 0
    stored = json.loads((tmp_path / "m.json").read_text())
    assert stored["reference_ms"] == result["reference_ms"]
    (found,) = stored["models"]
    assert f"{model}: {found['latency_ms']:.4g} ms" in capsys.readouterr().out
    assert found["sha256"] == sha256(model.read_bytes()).hexdigest()
    measure._cpu_model = lambda: "yet another"
    assert measure.main(["--models", str(model), "--out", str(tmp_path / "n.json")]) == 0
    assert json.loads((tmp_path / "n.json").read_text())["reference_ms"] != result["reference_ms"]
    (made / "carried-home.json").rename(made / "result.json")


def test_a_device_that_is_slower_than_its_stored_reference_says_so(tmp_path, monkeypatch, capsys):
    folder = small_kit(tmp_path / "kit")
    measure = loaded(folder)
    (tmp_path / "m.onnx").write_bytes(reference_model(TASK))
    monkeypatch.setattr(measure, "measure_reference", lambda *_, **__: measure.ReferenceTime(1e-4, (1e-4, 2e-4)))
    assert measure.main(["--models", str(tmp_path / "m.onnx")]) == 0
    said = capsys.readouterr().err
    assert "m.onnx: this machine now runs" in said
    assert "is known within 100% only" in said
    assert f"if it stays so, remove {next(folder.glob('begun-*.json'))}" in said
    assert json.loads((folder / "models.json").read_text())["reference_ms_interval"] == [1e-4, 2e-4]


def test_what_was_measured_before_an_interruption_is_not_lost(tmp_path, monkeypatch, capsys):
    """The machine is too disturbed in the second visit; the next run of the command makes that visit alone."""
    folder = small_kit(tmp_path / "kit")
    measure = loaded(folder)
    true, asked = measure.run_rounds, []

    def run_rounds(models, **how):
        asked.append(len(models))
        if len(asked) == bad_call:
            raise measure.DisturbedError("too disturbed")
        return true(models, **how)

    groups = json.loads((folder / "kit.json").read_text())["groups"]
    bad_call = len(groups) + 2
    monkeypatch.setattr(measure, "measure_reference", lambda *_, **__: measure.ReferenceTime(0.5, (0.4, 0.6)))
    monkeypatch.setattr(measure, "run_rounds", run_rounds)
    assert measure.main([]) == 2
    assert "too disturbed" in capsys.readouterr().err
    assert not (folder / "result.json").exists()
    (begun,) = folder.glob("begun-*.json")
    before, asked, bad_call = json.loads(begun.read_text()), [], -1
    visit, order = measure.kit_visit, []
    monkeypatch.setattr(measure, "kit_visit", lambda kit, i, *args: order.append(i) or visit(kit, i, *args))
    capsys.readouterr()
    assert measure.main([]) == 0
    assert len(asked) == len(groups)
    said = [int(line.split("%")[0]) for line in capsys.readouterr().err.splitlines() if "% done" in line]
    assert 100 // VISITS <= said[0] < said[-1] == 100
    # The visit that is left is drawn as the second, not as the first again.
    seed = json.loads((folder / "kit.json").read_text())["seed"]
    drawn = [np.random.default_rng([seed, number]).permutation(len(groups)) for number in (1, 2)]
    assert order == drawn[1].tolist() != drawn[0].tolist()
    result = read_result(folder / "result.json", folder)
    assert result.reference_ms == before["reference_ms"]
    assert {name: visits[0].model_dump() for name, visits in result.readings.items()} == before["visits"][0]
    asked = []
    assert measure.main(["--overwrite"]) == 0  # all visits are new, the reference stays
    assert len(asked) == VISITS * len(groups)
    again = read_result(folder / "result.json", folder)
    assert again.reference_ms == result.reference_ms
    assert again.readings != result.readings


@pytest.mark.parametrize("change", [{"reference_ms": 0.001}, {"kit_id": "0" * 64}])
def test_a_reference_that_was_edited_is_not_used(made, tmp_path, capsys, result, change):
    folder = tmp_path / "kit"
    shutil.copytree(made, folder)
    begun = folder / f"begun-{result['fingerprint']}.json"
    changed = {**json.loads(begun.read_text()), **change}
    begun.write_text(resealed(changed) if "kit_id" in change else json.dumps(changed))
    measure = loaded(folder)
    measure._cpu_model = lambda: OTHER_CPU
    assert measure.main(["--overwrite"]) == 2
    assert "is damaged, or of another kit: remove it" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["disturbed", "killed", "elsewhere", "failing", "interrupted"])
def test_what_was_measured_of_files_is_not_lost_with_another(tmp_path, monkeypatch, capsys, what):
    folder = small_kit(tmp_path / "kit")
    measure = loaded(folder)
    monkeypatch.setattr(measure, "measure_reference", lambda *_, **__: measure.ReferenceTime(0.5, (0.49, 0.51)))
    names = ["a.onnx", "b.onnx", "c.onnx"]
    for name in names:
        (tmp_path / name).write_bytes(reference_model(TASK))
    error, says = {
        "disturbed": (measure.DisturbedError("too disturbed to measure"), "too disturbed to measure"),
        "killed": (measure.BrokenProcessPool("a process died"), measure.KILLED),
        "elsewhere": (measure.ProviderError("it runs on another provider"), "it runs on another provider"),
        "failing": (RuntimeError("Non-zero status code"), "Non-zero status code"),
        "interrupted": (KeyboardInterrupt(), "interrupted"),
    }[what]
    true, bad = measure.measure, {"b.onnx"}

    def measured(models, *args, **more):
        if models[0].name in bad:
            raise error
        return true(models, *args, **more)

    monkeypatch.setattr(measure, "measure", measured)
    asked = ["--models", *(str(tmp_path / name) for name in names)]
    assert measure.main(asked) == (1 if what == "interrupted" else 2)
    said = capsys.readouterr().err
    assert f"b.onnx: {says}" in said
    there = ["a.onnx"] if what == "interrupted" else ["a.onnx", "c.onnx"]
    assert f"models-incomplete.json, without {3 - len(there)} of 3 files" in said
    kept = json.loads((folder / "models-incomplete.json").read_text())["models"]
    assert [Path(each["file"]).name for each in kept] == there
    assert not (folder / "models.json").exists()
    assert measure.main(asked) == 2
    assert "models-incomplete.json exists already" in capsys.readouterr().err
    bad.update(names)
    ends, says = (1, "interrupted") if what == "interrupted" else (2, "none of the files was measured, and nothing is")
    assert measure.main([*asked, "--out", str(tmp_path / "none.json")]) == ends
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"measure.py: {says}")
    assert not (tmp_path / "none.json").exists()
    bad.clear()
    assert measure.main([*asked, "--overwrite"]) == 0
    assert len(json.loads((folder / "models.json").read_text())["models"]) == 3
    assert not (folder / "models-incomplete.json").exists()


def test_a_file_that_kills_its_process_is_named(tmp_path, monkeypatch, capsys):
    folder = small_kit(tmp_path / "kit")
    measure = loaded(folder)
    monkeypatch.setattr(measure, "in_new_process", lambda *_: in_new_process(os._exit, 9))
    assert measure.main(["--models", "large.onnx"]) == 2
    assert capsys.readouterr().err == f"measure.py: large.onnx: {measure.KILLED}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere other folders are not written to")
def test_where_nothing_can_be_written_nothing_is_measured(tmp_path, capsys):
    measure = loaded(small_kit(tmp_path / "kit"))
    assert measure.main(["--out", "/proc/result.json"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("measure.py: /proc must be writable, but is not (")
    assert said.endswith("): give another --out\n")
    assert said.count("\n") == 1


@pytest.fixture
def unwritable(made, monkeypatch):
    """`measure.py` in a folder that cannot be written; who runs the tests may be allowed to write everywhere."""
    measure = loaded(made)
    true = measure.tempfile.TemporaryFile

    def written(dir):
        if Path(dir) == made:
            raise PermissionError(13, "Permission denied")
        return true(dir=dir)

    monkeypatch.setattr(measure.tempfile, "TemporaryFile", written)
    return measure


@pytest.mark.parametrize("asked", [[], ["--out", "out.json"], ["--models", "m.onnx", "--out", "out.json"]])
def test_a_kit_that_cannot_keep_what_it_measured_measures_nothing(
    made, tmp_path, monkeypatch, capsys, unwritable, asked
):
    monkeypatch.chdir(tmp_path)
    assert unwritable.main(asked) == 2
    said = f"measure.py: {made} must be writable, but is not (Permission denied): copy the kit to where measure.py may"
    assert capsys.readouterr().err.startswith(said)
    assert not list(tmp_path.iterdir())


def test_files_are_measured_by_a_kit_that_has_its_reference_and_writes_nothing_there(made, tmp_path, unwritable):
    (tmp_path / "m.onnx").write_bytes(reference_model(TASK))
    unwritable._cpu_model = lambda: OTHER_CPU
    before = {path: path.read_bytes() for path in made.iterdir() if path.is_file()}
    assert unwritable.main(["--models", str(tmp_path / "m.onnx"), "--out", str(tmp_path / "out.json")]) == 0
    assert {path: path.read_bytes() for path in made.iterdir() if path.is_file()} == before


def test_what_a_seed_draws_for_files_does_not_depend_on_whether_the_reference_is_stored(tmp_path, monkeypatch):
    measure, drawn = loaded(small_kit(tmp_path / "kit")), []
    (tmp_path / "m.onnx").write_bytes(reference_model(TASK))

    def reference(_model, rng, **_):
        rng.spawn(6)
        return measure.ReferenceTime(0.5, (0.4, 0.6))

    def noted(*_, rng, **__):
        drawn.append(rng.spawn(1)[0].random())
        raise measure.DisturbedError("enough")

    monkeypatch.setattr(measure, "measure_reference", reference)
    monkeypatch.setattr(measure, "measure", noted)
    asked = ["--models", str(tmp_path / "m.onnx")]
    assert [measure.main(asked), measure.main(asked)] == [2, 2]
    assert drawn[0] == drawn[1]


def test_the_time_left_is_that_of_what_is_not_done_yet(monkeypatch, capsys):
    now = iter([100.0, 110.0])
    monkeypatch.setattr(kit_main.time, "monotonic", lambda: next(now))
    progress = kit_main.Progress(100, 75)
    progress.advance(5)
    assert capsys.readouterr().err.split() == ["80", "%", "done,", "about", "0", "min", "40", "s", "left"]


def test_each_group_has_its_rounds(tmp_path, monkeypatch):
    """A network alone as many as a file, which it stands for."""
    folder = small_kit(tmp_path / "kit")
    stored = json.loads((folder / "kit.json").read_text())
    measure, asked = loaded(folder), []

    def run_rounds(models, *, rounds, **_):
        asked.append((len(models), rounds))
        raise measure.DisturbedError("enough")

    monkeypatch.setattr(measure, "run_rounds", run_rounds)
    groups = stored["groups"]
    for number in range(len(groups)):
        with pytest.raises(measure.DisturbedError):
            measure.kit_visit(measure.Kit(folder), number, measure.Setting(), np.random.default_rng(0))
    assert asked == [(len(group) + 1, ROUNDS_A_VISIT if len(group) == 1 else 6) for group in groups]
    assert {len(group) == 1 for group in groups} == {True, False}


def test_only_what_is_of_the_same_kind_is_replaced(made, tmp_path, capsys):
    (tmp_path / "m.onnx").write_bytes(reference_model(TASK))
    before, measure = (made / "result.json").read_bytes(), loaded(made)
    assert measure.main(["--models", str(tmp_path / "m.onnx"), "--out", str(made / "result.json"), "--overwrite"]) == 2
    assert measure.main(["--out", str(tmp_path / "m.onnx"), "--overwrite"]) == 2
    said = capsys.readouterr().err
    assert "result.json must be a hwnas kit models to be replaced by one, and is none" in said
    assert "m.onnx must be a hwnas kit result to be replaced by one" in said
    assert (made / "result.json").read_bytes() == before


def of_two_inputs(path: Path) -> Path:
    made = onnx.helper
    values = [made.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in "abc"]
    graph = made.make_graph([made.make_node("Add", ["a", "b"], ["c"])], "g", values[:2], values[2:])
    opset = made.make_opsetid("", 18)
    onnx.save(made.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "--threads must be from 1 to the"),
        (["--threads", str(len(allowed_cores()) + 1)], "--threads must be from 1 to the"),
        (["--models", "none.onnx"], "none.onnx must be an ONNX file, and there is none"),
        (["--models", "text.onnx"], "text.onnx must be a model that ONNX Runtime"),
        (["--models", "two.onnx"], "two.onnx must have one float32 input"),
        (["--out", "no/such/place.json"], "must be a folder to write place.json to"),
        (["--out", "text.onnx"], "text.onnx exists already"),
        (["--out", "/"], "--out must be a file to write, but / is a folder"),
        (["--models", "two.onnx", "--out", "/"], "--out must be a file to write, but / is a folder"),
        (["--overwrite", "--out", "."], "--out must be a file to write, but . is a folder"),
    ],
)
def test_mistakes_on_the_device_are_one_line(made, tmp_path, arguments, message):
    (tmp_path / "text.onnx").write_text("no model")
    of_two_inputs(tmp_path / "two.onnx")
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, made / "measure.py", *arguments]
    if "--out" not in arguments:
        command += ["--out", "out.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert message in lines[-1]
    assert "Traceback" not in done.stderr
    assert len(lines) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_numpy_that_is_too_old_is_said(made, tmp_path):
    (tmp_path / "numpy" / "typing").mkdir(parents=True)
    (tmp_path / "numpy" / "__init__.py").write_text("__version__ = '1.24.4'\nfrom . import random\n")
    (tmp_path / "numpy" / "random.py").write_text("class Generator: pass\n")
    (tmp_path / "numpy" / "typing" / "__init__.py").write_text("NDArray = list\n")
    (tmp_path / "onnxruntime.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, made / "measure.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"measure.py needs numpy {kit.LEAST_NUMPY} or newer, this is 1.24.4 (python -m pip install -U numpy)\n"
    )


def test_a_kit_that_did_not_arrive_whole_measures_nothing(tmp_path, capsys):
    folder = small_kit(tmp_path / "kit")
    measure = loaded(folder)
    whole = {name: (folder / name).read_bytes() for name in ("networks.zip", "kit.json")}
    for cut in (
        lambda: (folder / "networks.zip").write_bytes(whole["networks.zip"][:-7]),
        (folder / "networks.zip").unlink,
    ):
        cut()
        assert measure.main([]) == 2
        said = capsys.readouterr().err
        assert "networks.zip is missing, or not the file that the kit was made with: copy the kit again" in said
    (folder / "networks.zip").write_bytes(whole["networks.zip"])
    (folder / "kit.json").unlink()
    assert measure.main([]) == 2
    assert "missing, damaged or of another version: copy the kit again" in capsys.readouterr().err
    assert not (folder / "result.json").exists()


@pytest.mark.parametrize("change", [{"visits": 0}, {"groups": []}])
def test_a_kit_that_was_edited_measures_nothing(made, tmp_path, capsys, change):
    said = json.loads((made / "kit.json").read_text())
    refused_by_measure(made, tmp_path, json.dumps({**said, **change}))
    assert "and as it was written, but is" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"kit\.json must be as it was written, but was edited or cut"):
        read_result(made / "result.json", tmp_path)


def test_a_kit_of_another_version_or_cut_measures_nothing(made, tmp_path, capsys):
    said = json.loads((made / "kit.json").read_text())
    for text in (
        resealed({**said, "version": 7}),
        resealed({**said, "format": "hwnas run"}),
        json.dumps(said)[:-20],
        "[]",
    ):
        refused_by_measure(made, tmp_path, text)
        assert "kit.json must be of a hwnas kit 8" in capsys.readouterr().err


def refused_by_measure(kit_folder, folder, said):
    shutil.copytree(kit_folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("result.json", "begun-*"))
    (folder / "kit.json").write_text(said)
    measure, before = loaded(folder), sorted(folder.iterdir())
    assert measure.main([]) == 2
    assert sorted(folder.iterdir()) == before


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch, capsys):
    folder = small_kit(tmp_path / "kit")
    measure = loaded(folder)
    before = sorted(folder.iterdir())

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "run_rounds", interrupted)
    assert measure.main([]) == 1
    assert "the same command goes on" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists and is not empty"):
        small_kit(tmp_path)
    with pytest.raises(InputError, match="exists and is not empty"):
        small_kit(tmp_path / "thesis.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    assert (small_kit(tmp_path / "empty") / "kit.json").exists()


def spoiled(change):
    """A change to a result, given as a function that edits it in place."""

    def of(result):
        edited = copy.deepcopy(result)
        change(edited)
        return edited

    return of


def said_of_device(result, **changes):
    """Another device with the fingerprint that belongs to it."""
    changed = {**result["device"], **changes}
    return {"device": changed, "fingerprint": Device(**changed).fingerprint}


def of_kit(result, **changes):
    """The result of a kit that says something else, sealed anew as a whole."""
    said = {**result["kit"], **changes}
    return {**result, "kit": said, "kit_id": digest(said)}


def read_back(folder, result):
    (folder / "result.json").write_text(resealed(result))
    return import_result(read_result(folder / "result.json"))


def test_networks_that_the_kit_does_not_name_are_left_out(tmp_path, result):
    plain, rows = read_back(tmp_path, result), SPACE.sample(20, np.random.default_rng(0))
    strange = [{"log_ratio": 9.0 * i, "reference_ms": result["reference_ms"], "expected_slope": 0.9} for i in range(2)]
    result["readings"]["0" * 12] = strange
    other = read_back(tmp_path, result)
    np.testing.assert_array_equal(other.estimate_ms(rows), plain.estimate_ms(rows))
    assert (other.slope_deviation, other.reference_now_ms) == (plain.slope_deviation, plain.reference_now_ms)


def test_a_result_whose_kit_names_a_network_twice_is_refused(tmp_path, result):
    """Left out once, it would still be among the others, and the stated error would be of what is known."""
    twice = [result["kit"]["calibration"][0], *result["kit"]["calibration"]]
    with pytest.raises(InputError, match="must come once, but of 25 only 24 are different"):
        read_back(tmp_path, of_kit(result, calibration=twice))


def test_a_result_names_no_file_of_this_machine_to_run(tmp_path, result):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for known in (None, "0" * 64):
        with pytest.raises(InputError, match="a space of your own"):
            read_back(tmp_path, of_kit(result, space=f"{tmp_path}/evil.py:Evil", space_sha256=known))
    assert not (tmp_path / "ran").exists()


def first_network(result):
    return result["kit"]["groups"][0][0]


def first_reading(result):
    return result["readings"][first_network(result)][0]


SPOILED = {
    "missing": (
        lambda r: r["readings"].pop(first_network(r)),
        r"must hold \d+ networks of its kit, but 1 are missing",
    ),
    "a reference that took nothing": (lambda r: first_reading(r).update(reference_ms=0.0), "greater than 0"),
    "a reference of another machine": (
        lambda r: first_reading(r).update(reference_ms=30 * r["reference_ms"]),
        "no machine's speed changes so much",
    ),
    "a reference beyond all numbers": (
        lambda r: (
            r.update(reference_ms=1e300, reference_ms_interval=[1e300, 1e300]),
            first_reading(r).update(reference_ms=1e-300),
        ),
        "no machine's speed changes so much",
    ),
    "few visits": (lambda r: r["readings"][first_network(r)].pop(), "must hold 2 visits of network"),
    "nan": (lambda r: first_reading(r).update(log_ratio=float("nan")), "finite number"),
    "infinite": (lambda r: first_reading(r).update(log_ratio=float("inf")), "finite number"),
    "no number": (lambda r: first_reading(r).update(log_ratio="0.1"), "valid number"),
    "a slope of no machine": (lambda r: first_reading(r).update(expected_slope=1.5), "less than or equal to 1"),
    "half a reading": (lambda r: first_reading(r).pop("expected_slope"), "expected_slope: field required"),
    "negative": (lambda r: r.update(reference_ms=-1.0), "greater than 0"),
    "zero": (lambda r: r.update(reference_ms=0.0), "greater than 0"),
    "negative end": (lambda r: r["reference_ms_interval"].__setitem__(0, -0.5), "greater than 0"),
    "half an interval": (lambda r: r["reference_ms_interval"].pop(), "at least 2 items"),
    "not finite": (lambda r: r.update(reference_ms=float("inf")), "finite number"),
    "cpu": (lambda r: r["device"].update(cpu="Faster CPU"), "its device was edited"),
    "flushing": (lambda r: r["device"].update(flush_bytes=2**20), "its device was edited"),
    "runtime": (lambda r: r["device"].update(onnxruntime="9.9"), "its device was edited"),
    "threads": (lambda r: r["device"].update(threads=0), "device.threads"),
    "more threads than cores": (
        lambda r: r.update(said_of_device(r, threads=64, cores=4)),
        "no more threads than cores, got 64 threads on 4",
    ),
    "outside its interval": (lambda r: r.update(reference_ms=1e6), "must be above 0 ms and in its interval"),
    "of no networks": (lambda r: r["kit"].update(calibration=[]), "kit.calibration"),
    "unknown field": (lambda r: r["device"].update(colour="red"), "device.colour"),
    "version": (lambda r: r.update(version=1), "must be of version 8 of the kit, but it is of version 1"),
    "kind": (lambda r: r.update(format="hwnas kit models"), "must be a hwnas kit result"),
    "its kit": (lambda r: r["kit"].update(seed=7), "that part was edited"),
    "no kit": (lambda r: r.pop("kit"), "kit: field required"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_results_that_cannot_be_are_refused_even_when_sealed_anew(tmp_path, result, name):
    change, message = SPOILED[name]
    path = tmp_path / "result.json"
    path.write_text(resealed(spoiled(change)(result)))
    with pytest.raises(InputError, match=message) as caught:
        read_result(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: first_reading(r).update(log_ratio=0.25),
        lambda r: r.update(reference_ms=2 * r["reference_ms"]),
        lambda r: r["versions"].update(numpy="0.1"),
    ],
)
def test_numbers_that_were_edited_are_noticed(tmp_path, result, change):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(spoiled(change)(result)))
    with pytest.raises(InputError, match="but it was edited"):
        read_result(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be JSON"),
        ('{"format": "hwnas kit res', "must be JSON"),
        ("[1, 2]", "must be a JSON object, but is"),
        ("{}", "must be a hwnas kit result"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, text, message):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_result(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_result(tmp_path / "none.json")


def test_a_result_of_another_kit_is_refused(made, tmp_path):
    other = tmp_path / "other"
    write_kit(other, SPACE, TASK, seed=1)
    assert read_result(made / "result.json", made)
    with pytest.raises(InputError, match=r"must be of the kit in .*, but it is of another one"):
        read_result(made / "result.json", other)
    with pytest.raises(InputError, match="cannot be read"):
        read_result(made / "result.json", tmp_path)


def test_a_space_whose_networks_changed_since_is_noticed(made, tmp_path, result):
    """A kit that another version of this project made: the names of its networks say what it measured."""
    renamed = dict(result["readings"])
    first = first_network(result)
    renamed["0" * 12] = renamed.pop(first)
    stored = {**result, "readings": renamed}
    groups = stored["kit"]["groups"]
    groups[0] = ["0" * 12 if name == first else name for name in groups[0]]
    stored["kit_id"] = digest(stored["kit"])
    path = tmp_path / "result.json"
    path.write_text(resealed(stored))
    with pytest.raises(InputError, match="but 1 are others now"):
        import_result(read_result(path))


def test_more_threads_are_timed_by_the_wall_clock_and_are_another_device(tmp_path):
    if len(allowed_cores()) < 2:
        pytest.skip("one core")
    folder = small_kit(tmp_path / "kit")
    measure = loaded(folder)
    measure.SLOW_ROUND = float("inf")  # the wall clock of a busy machine is another matter
    assert measure.main(["--threads", "2", "--out", str(tmp_path / "two.json")]) == 0
    model = import_result(read_result(tmp_path / "two.json"))
    assert model.device == Device.here(threads=2) != Device.here()


def test_reading_back_needs_no_torch(made):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] == 'torch': raise ImportError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "from latency.kit import import_result, read_result\n"
        f"print(import_result(read_result(Path({str(made / 'result.json')!r}))).device.cpu)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == OTHER_CPU, done.stderr
