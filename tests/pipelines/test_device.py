"""The device commands, and searches for a device that is not this one: kit, run there, import, search here."""

import csv
import hashlib
import importlib.util
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import commands
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from latency import Device, LatencyTable, kit, measuring, read_latency_model, reference, runtime
from latency.measuring import networks_digest
from latency.model import learn_latency
from latency.reference import keep_reference
from latency.runtime import ReferenceTime
from latency.seal import sealed
from latency.table import timed_networks
from pipelines import cli, deploy, devices
from pipelines.cli import app
from pipelines.config import RunConfig
from pipelines.deploy import measure_file
from pipelines.latencies import (
    EstimatedElsewhere,
    MeasuredHere,
    latencies_of,
    measure_archs,
    measure_model,
    open_model,
    read_device_table,
    table_text,
)
from pipelines.profile import profile
from pipelines.run_folder import RunFolder
from spaces import InputError, Task, get_space
from spaces.additive import AdditiveCost

SPACE, TASK = get_space("proxyless@8,8x1,16x2s2,24x2s2,64"), Task(8, 10, 1)
TASK_OPTIONS = ["--resolution", "8", "--classes", "10", "--channels", "1"]
QUICK = ["--space", SPACE.name, "--trials", "3", "--epochs", "1", "--final-epochs", "1", "--workers", "1"]
OTHER_CPU = "Plain Board 5"


def device(*arguments, monkeypatch, cwd, code=0):
    """A device command, in this process; what it printed."""
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("HWNAS_HOME", str(cwd / "home"))
    done = CliRunner().invoke(app, ["device", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.stdout, done.stderr


def hwnas(*arguments, cwd, code=0):
    return commands.hwnas(*arguments, cwd=cwd, home=cwd / "home", code=code)


def run_elsewhere(kit: Path, *arguments, cpu=OTHER_CPU):
    """`measure.py` as it would run on a machine of another processor; quick, since its buffer to flush is small."""
    spec = importlib.util.spec_from_file_location("measure_elsewhere", kit / "measure.py")
    measure = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = measure
    spec.loader.exec_module(measure)
    measure.FLUSH_BYTES = 2**16
    measure.REFERENCE_PAUSES_S = (0.0,)
    measure.in_new_process = lambda fn, *args: fn(*args)
    measure.new_processes = lambda: nullcontext(measure.in_new_process)
    measure._cpu_model = lambda: cpu
    assert measure.main(list(map(str, arguments))) == 0


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A place with a kit that was run on another device, its table, and a search for that device."""
    place = tmp_path_factory.mktemp("device")
    with pytest.MonkeyPatch.context() as monkeypatch:
        here = {"monkeypatch": monkeypatch, "cwd": place}
        out, _ = device("kit", "kit", "--space", SPACE.name, *TASK_OPTIONS, "--json", **here)
        run_elsewhere(place / "kit")
        table, _ = device("import", "kit/result.json", "--kit", "kit", "--out", "pi.json", "--json", **here)
    drawn = SPACE.sample(2000, np.random.default_rng(0))
    limit = ["--limit", f"latency_ms<={float(np.quantile(table_of(place).interval_ms(drawn)[1], 0.3))}"]
    command = ["search", "--data", "digits", *QUICK, *limit, "--device-table", "pi.json", "--run", "run", "--json"]
    found, err = hwnas(*command, cwd=place)
    (place / "command.json").write_text(json.dumps(command))
    return place, json.loads(out), json.loads(table), json.loads(found), err


def table_of(place: Path):
    text = (place / "pi.json").read_text()
    return read_latency_model(text, space=SPACE, task=TASK, device=Device(**json.loads(text)["device"]))


def test_the_kit_and_its_table_say_what_they_are(elsewhere, monkeypatch):
    place, kit, table, _, _ = elsewhere
    assert kit["networks"] == len({n for g in json.loads((place / "kit/kit.json").read_text())["groups"] for n in g})
    assert kit["bytes"] == sum(
        (place / "kit" / name).stat().st_size for name in ("kit.json", "networks.zip", "measure.py", "README.txt")
    )
    assert (table["device"]["cpu"], table["origin"], table["of_this_device"]) == (OTHER_CPU, "kit", False)
    shown, _ = device("show", "pi.json", "--json", monkeypatch=monkeypatch, cwd=place)
    assert json.loads(shown) == table
    text, _ = device("show", "pi.json", monkeypatch=monkeypatch, cwd=place)
    assert f"{OTHER_CPU}, {os.cpu_count()} cores, 1 thread(s)" in text
    assert "8 px, 1 channel(s), 10 classes" in text
    result = json.loads((place / "kit" / "result.json").read_text())
    assert table["reference_ms_interval"] == result["reference_ms_interval"]


def test_a_search_for_another_device_estimates_and_measures_nothing(elsewhere, capsys):
    place, _, _, outcome, err = elsewhere
    cli._print_outcome({**outcome, "frontier": 2 * outcome["frontier"][:1]})
    printed = capsys.readouterr().out
    assert "on the front as estimated, " in printed
    assert "as measured" not in printed
    table = table_of(place)
    assert not (place / "home" / "devices").exists()
    assert outcome["to_measure"] == {
        "device": str(table.device),
        "command": "python measure.py --models model.onnx",
    }
    assert f"estimates of the table of {table.device}" in err
    stored = json.loads((place / "pi.json").read_text())
    records = [json.loads(file.read_text()) for file in (place / "run").rglob("model.json")]
    handed_over = [each for each in records if "certificate" in each]
    assert handed_over
    assert all(each["reference_ms_interval"] == stored["reference_ms_interval"] for each in handed_over)
    for model in (outcome["chosen"], *outcome["frontier"]):
        row = SPACE.row(SPACE.parse(model["arch"]))[None]
        assert (model["latency_ms"], model["latency_ms_interval"]) == (None, None)
        assert model["latency_ms_estimated"] == pytest.approx(table.estimate_ms(row)[0])
        assert model["latency_ms_estimated_interval"] == pytest.approx(np.ravel(table.interval_ms(row)))
        assert model["device"] == str(table.device)
    with (place / "run" / "frontier.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["latency_ms"] for row in rows] == [""] * len(outcome["frontier"])
    assert [float(row["latency_ms_estimated_high"]) for row in rows] == [
        model["latency_ms_estimated_interval"][1] for model in outcome["frontier"]
    ]
    record = json.loads((place / "run" / "models" / outcome["chosen"]["name"] / "model.json").read_text())
    assert record["checks"]["agreement"] == 1.0
    assert [record[f"latency_{name}_ms"] for name in ("warm", "wall_p50", "wall_p90")] == [None] * 3
    onnx.checker.check_model(str(place / outcome["model"]))
    page = (place / "run" / "report.html").read_text()
    assert "Still to measure" in page
    assert "whether the latency is met is not known:\nit is estimated" in page
    assert "MISSED" not in page
    assert OTHER_CPU in page
    assert "latency, measured" not in page


def test_it_goes_on_with_the_copy_of_the_table(elsewhere):
    place, _, _, outcome, _ = elsewhere
    again, _ = hwnas(*json.loads((place / "command.json").read_text()), cwd=place)
    assert json.loads(again)["chosen"] == outcome["chosen"]
    assert (place / "run" / "latency_table.json").read_bytes() == (place / "pi.json").read_bytes()


def test_another_table_is_no_way_to_go_on(elsewhere, tmp_path):
    place, *_ = elsewhere
    run = RunFolder(place / "run")
    ours = RunConfig.from_toml(run.config)
    (tmp_path / "pi.json").write_text((place / "pi.json").read_text() + " ")
    changed = ours.model_copy(
        update={"device_table_sha256": hashlib.sha256((tmp_path / "pi.json").read_bytes()).hexdigest()}
    )
    with pytest.raises(InputError, match="the device table has other contents"):
        RunFolder.check(run.path, changed)
    with pytest.raises(InputError, match="device_table: None != "):
        RunFolder.check(run.path, ours.model_copy(update={"device_table": None}))
    with pytest.raises(InputError, match=r"--device-table .*none.json cannot be read"):
        RunConfig.of(**{**ours.model_dump(), "device_table": "none.json", "device_table_sha256": None})


def test_deploy_says_that_the_latency_is_an_estimate(elsewhere):
    place, _, _, outcome, _ = elsewhere
    text, _ = hwnas("deploy", "run", "--pick", "fastest", "--out", "handed", cwd=place)
    assert "estimated" in text
    record = json.loads((place / "handed" / "model.json").read_text())
    assert record["latency_ms"] is None
    assert record["latency_ms_estimated"] == min(m["latency_ms_estimated"] for m in outcome["frontier"])


def test_what_was_found_is_measured_there_with_the_same_kit(elsewhere):
    place, _, table, outcome, _ = elsewhere
    run_elsewhere(place / "kit", "--models", place / outcome["model"])
    measured = json.loads((place / "kit" / "models.json").read_text())
    assert measured["fingerprint"] == table["device"]["fingerprint"]
    assert measured["reference_ms"] == table["reference_ms"]
    low, high = measured["models"][0]["latency_ms_interval"]
    assert low < measured["models"][0]["latency_ms"] < high


def test_limits_are_judged_by_the_upper_end_of_the_estimate(elsewhere):
    place, _, _, outcome, _ = elsewhere
    (limit,) = RunConfig.from_toml(place / "run" / "config.toml").parsed_limits
    assert outcome["meets_limits"] is outcome["certificate"]["met"] is None  # nobody measured it there
    assert all(model["latency_ms_estimated_interval"][1] <= limit.value for model in outcome["frontier"])
    with (place / "run" / "trials.csv").open() as file:
        rows = np.stack([SPACE.row(SPACE.parse(row["arch"])) for row in csv.DictReader(file)])
    assert (table_of(place).interval_ms(rows)[1] <= limit.value).all()


def test_a_table_of_another_space_is_refused_before_anything_is_written(elsewhere, tmp_path):
    place, *_ = elsewhere
    asked = ["search", "--data", "digits", "--trials", "3", "--space", "proxyless@w0.25", "--run", "run"]
    _, err = hwnas(*asked, "--device-table", place / "pi.json", cwd=tmp_path, code=2)
    assert "hwnas device kit OUT --space proxyless@w0.25 --resolution 8 --classes 10 --channels 1" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", [Task(16, 10, 1), Task(8, 11, 1), Task(8, 10, 3)])
def test_a_table_of_another_task_is_refused_with_the_command_that_helps(elsewhere, task):
    place, *_ = elsewhere
    with pytest.raises(InputError, match="but it is of") as caught:
        read_device_table(place / "pi.json", SPACE, task)
    asked = f"--resolution {task.resolution} --classes {task.classes} --channels {task.channels}"
    assert f"hwnas device kit OUT --space {SPACE.name} {asked}" in caught.value.hint


def test_the_right_table_does_not_take_the_place_of_the_wrong_one(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(stored(Device.here()))
    with pytest.raises(InputError, match="but it is of") as caught:
        read_device_table(path, SPACE, Task(16, 10, 1))
    assert caught.value.hint.endswith(
        f"hwnas device measure --space {SPACE.name} --resolution 16 --classes 10 --channels 1"
    )


def stored(known: Device, /, **more) -> str:
    values = np.random.default_rng(0).random(SPACE.allowed.shape) / 20
    text = table_text(made_up(known, AdditiveCost(0.1, values)), "here", None)
    return sealed({**json.loads(text), **more})


def edited(text: str, **more) -> str:
    """By a person, whose editor makes no digest."""
    return json.dumps({**json.loads(text), **more})


def made_up(known: Device, cost: AdditiveCost) -> LatencyTable:
    networks = networks_digest(timed_networks(SPACE, TASK))
    return LatencyTable(known, SPACE.name, TASK, 0.5, 0.52, 0.1, cost, 0.05, ((0.3, 0.31), (0.4, 0.38)), networks)


def test_a_kit_of_this_very_device_gives_its_reference_where_none_is_stored(tmp_path, monkeypatch, capsys):
    """And nothing where its times make no model; where one is stored, that one holds, and both are said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    devices.make_kit(Path("kit"), SPACE.name, TASK, seed=0)
    run_elsewhere(Path("kit"), cpu=Device.here().cpu)
    below_zero = made_up(Device.here(), AdditiveCost(-9.0, np.zeros(SPACE.allowed.shape)))
    with monkeypatch.context() as broken:
        broken.setattr(kit, "fit_latency_model", lambda *_: below_zero)
        with pytest.raises(InputError, match="makes no latency model: networks must take a time above 0") as caught:
            devices.import_kit(Path("kit/result.json"), Path("pi.json"))
    assert "remove begun-*.json beside measure.py" in caught.value.hint
    assert not Path("pi.json").exists()
    assert reference.stored_references(Device.here()) == {}
    found_ms = json.loads(Path("kit/result.json").read_text())["reference_ms"]
    first = devices.import_kit(Path("kit/result.json"), Path("pi.json"))
    assert first["reference_ms"] == found_ms
    assert "kit_reference_ms" not in first
    reference.reference_file(Device.here().fingerprint).unlink()
    reference.keep_reference(
        TASK, Device.here(), reference.ReferenceTime(0.8 * found_ms, (0.7 * found_ms, 0.9 * found_ms))
    )
    again = devices.import_kit(Path("kit/result.json"), Path("pi.json"))
    assert (again["reference_ms"], again["kit_reference_ms"]) == (0.8 * found_ms, found_ms)
    devices.print_file(again)
    assert f"which this device had; the kit found {found_ms:.4g} ms for it" in capsys.readouterr().out


@pytest.mark.parametrize("field", ["onnxruntime", "threads", "cpu", "cores", "flush_bytes"])
def test_a_table_that_is_no_longer_of_this_device_is_refused(tmp_path, field):
    here = Device.here()
    path = tmp_path / "mine.json"
    for origin in ({}, {"origin": "here"}):
        path.write_text(
            stored(replace(here, **{field: 99 if field in ("threads", "cores", "flush_bytes") else "other"}), **origin)
        )
        with pytest.raises(InputError, match=r"was measured on .* and this is") as caught:
            read_device_table(path, SPACE, TASK)
        asked = f"--space {SPACE.name} --resolution 8 --classes 10 --channels 1"
        place = f" --out {path}" if field != "cpu" else ""  # another processor's is not to be written over
        assert f"hwnas device measure {asked}{place};" in caught.value.hint
    path.write_text(stored(here))
    assert read_device_table(path, SPACE, TASK) == path.read_text()


def test_whatever_was_edited_in_a_table_is_noticed(tmp_path):
    """Each value that it says, taken out or another one; a version that is another one now is of another hwnas."""
    path, whole = tmp_path / "mine.json", json.loads(stored(Device.here(), reference_ms_interval=[0.4, 0.6]))
    assert {"device", "table_ms", "relative_error", "kind", "origin", "digest"} <= set(whole)
    refused = r"must be (a latency table, but is damaged|measured by protocol)"
    for name in whole:
        without = json.dumps({key: value for key, value in whole.items() if key != name})
        others = [edited(json.dumps(whole), **{name: other}) for other in (None, 5, "2", [], float("inf"))]
        for text in (without, *others):
            path.write_text(text)
            with pytest.raises(InputError, match=refused):
                read_device_table(path, SPACE, TASK)
            with pytest.raises(InputError, match=refused):
                devices.show_file(path)
    with pytest.raises(InputError, match="exists and is no latency table, or no whole one") as caught:
        devices._check_out(path, lambda _: True)
    assert "or remove it" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON"),
        ("{}", "must be a latency table, but is damaged or something else: 'device' is missing"),
        (edited(stored(Device.here()), version="2"), "protocol and version must be whole numbers, got 8 and '2'"),
        (edited(stored(Device.here()), relative_error=0.001), "damaged or something else: it was edited or cut"),
        ('{"device": {"cpu": "x"}}', "'space' is missing"),
        (stored(Device.here(), version=1, reference_ms=float("nan")), "its reference latency must be above 0 ms"),
        (stored(Device.here(), version=1, reference_ms=-1.0), "its reference latency must be above 0 ms"),
        (stored(Device.here(), version=1, space=5), "must be a latency table"),
        (stored(Device.here(), version=1, device={"cpu": "x", "colour": 1}), "must be a latency table"),
        (stored(Device.here(), constant_ms=-9.0), "networks must take a time above 0"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, text, message):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_device_table(path, SPACE, TASK)


@pytest.mark.parametrize(
    ("interval", "now_ms", "says"),
    [((1.9, 2.1), 2.0, []), ((1.5, 2.1), 2.6, ["33% only", "30% slower"]), (None, 2.6, ["30% slower"])],
)
def test_what_is_to_be_said_of_the_reference_is_said(interval, now_ms, says):
    record = {"reference_ms": 2.0, "reference_ms_interval": interval, "reference_now_ms": now_ms}
    text = MeasuredHere(SPACE, TASK, 2.0).remark(record)
    assert all(each in text for each in says)
    assert bool(text) == bool(says)


@pytest.mark.parametrize(
    ("known", "origin", "kind", "reference_ms"),
    [
        (Device.here(), "here", MeasuredHere, 0.5),
        (Device.here(), "kit", MeasuredHere, 0.5),  # the kit was run on this very device
        (replace(Device.here(), cpu="other"), "here", MeasuredHere, None),  # a run that was carried here
        (replace(Device.here(), cpu="other"), "kit", EstimatedElsewhere, None),
    ],
)
def test_where_a_run_gets_its_latencies_from(tmp_path, known, origin, kind, reference_ms):
    run = RunFolder(tmp_path)
    run.table.write_text(stored(known, origin=origin))
    config = RunConfig.of(
        job="search", data="digits", data_root="data", space=SPACE.name, trials=3, device_table=str(run.table)
    )
    latencies = latencies_of(config, run, SPACE, TASK)
    assert type(latencies) is kind
    if kind is MeasuredHere:
        assert latencies.reference_ms == reference_ms
        assert latencies.to_measure() is None
        now_slower = {"reference_ms": 0.5, "reference_ms_interval": None, "reference_now_ms": 0.75}
        helps = {
            "here": "and measure the table anew, for a new run",
            "kit": "and measure again by the kit, for a new run",
        }
        assert (helps[origin] in latencies.remark(now_slower)) is (reference_ms is not None)


@pytest.mark.parametrize("where", [Device.here(), replace(Device.here(), onnxruntime="1.0")])
def test_in_a_record_estimates_and_what_was_measured_are_of_one_device(tmp_path, monkeypatch, where):
    run = RunFolder(tmp_path)
    run.table.write_text(stored(where))
    config = RunConfig.of(job="search", data="digits", data_root="data", space=SPACE.name, trials=3)
    timing = SimpleNamespace(latency_ms=2.0, latency_ms_interval=(1.9, 2.1), reference_ms=0.5, record=dict)
    monkeypatch.setattr(deploy, "measure_file", lambda *_args: (timing, Device.here()))
    arch = SPACE.arch(SPACE.sample(1, np.random.default_rng(0))[0])
    record = latencies_of(config, run, SPACE, TASK).of_file(tmp_path / "model.onnx", arch).record
    assert record["device_fingerprint"] == Device.here().fingerprint
    estimates = {name: value for name, value in record.items() if "estimated" in name}
    none = {"latency_ms_estimated": None, "latency_ms_estimated_interval": None}
    assert estimates == ({} if where == Device.here() else none)  # what the run says of it stays, or goes


@pytest.mark.parametrize(
    ("where", "ms", "met", "certified"),
    [
        (Device.here(), 1.0, None, False),
        (Device.here(), 1.0, False, True),
        (Device.here(), None, None, True),  # an estimate, which nothing here tells more about
        (replace(Device.here(), onnxruntime="1.0"), 1.0, None, True),  # nothing measured now may stand in that run
    ],
)
def test_what_a_disturbed_machine_left_open_is_measured_again_where_it_can_be(tmp_path, where, ms, met, certified):
    run = RunFolder(tmp_path)
    run.table.write_text(stored(where))
    record = {"checks": {"agreement": 1.0}, "certificate": {"met": met}, "latency_ms": ms}
    assert deploy._is_certified(run, record) is certified


@pytest.mark.parametrize(
    ("changes", "was"),
    [
        ({"device": asdict(replace(Device.here(), onnxruntime="1.0"))}, "were measured on .*ONNX Runtime 1.0"),
        ({"protocol": 2}, "were measured by another version of hwnas"),
        ({"version": 1}, r"latency_table\.json: the latency table must be of this version \(3\), but it is of 1"),
    ],
)
def test_a_run_whose_device_changed_is_refused_with_the_command_that_begins_a_new_one(tmp_path, changes, was):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.table.write_text(stored(Device.here(), **changes))
    config = RunConfig.of(job="search", data="digits", data_root="data", space=SPACE.name, trials=3)
    with pytest.raises(InputError, match=was) as caught:
        open_model(config, run, SPACE, TASK)
    assert "begin a new run: hwnas search --data digits --space" in caught.value.hint
    assert ("go on there, or begin" in caught.value.hint) is ("version" not in changes)
    assert "--trials 3" in caught.value.hint
    assert "\n" not in caught.value.hint


def test_the_damaged_table_of_a_run_is_said_to_be_damaged(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    config = RunConfig.of(job="search", data="digits", data_root="data", space=SPACE.name, trials=3)
    damaged = r"latency_table\.json must be a latency table, but is damaged"
    of_this = stored(Device.here())
    for text in ("{}", edited(of_this, constant_ms=0.2), edited(of_this, device=asdict(Device.here(threads=2)))):
        run.table.write_text(text)
        for read in (open_model, latencies_of):
            with pytest.raises(InputError, match=damaged) as caught:
                read(config, run, SPACE, TASK)
            assert ("begin a new run: hwnas search" in caught.value.hint) is (read is open_model)


def test_a_table_of_other_networks_than_its_space_has_now_is_refused(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(stored(Device.here(), networks="0" * 64))
    with pytest.raises(InputError, match=r"mine\.json: the latency table must be of the networks") as caught:
        read_device_table(path, SPACE, TASK)
    assert f"make a new one: hwnas device measure --space {SPACE.name}" in caught.value.hint


@pytest.mark.parametrize(("earlier", "came"), [({"protocol": 2}, "2, version 3"), ({"version": 2}, "8, version 2")])
def test_a_table_of_an_earlier_protocol_is_refused_and_may_be_replaced(tmp_path, earlier, came):
    path = tmp_path / "old.json"
    path.write_text(stored(Device.here(), **earlier))
    with pytest.raises(InputError, match=f"must be measured by protocol 8, version 3, but was by {came}") as caught:
        read_device_table(path, SPACE, TASK)
    assert f"hwnas device measure --space {SPACE.name} --resolution 8 --classes 10" in caught.value.hint
    devices._check_out(path, lambda known: known["space"] == SPACE.name)
    path.write_text(stored(Device.here(), **earlier, constant_ms=-0.1))  # as it may be where stem and head make up
    with pytest.raises(InputError, match=f"must be measured by protocol 8, version 3, but was by {came}"):
        read_device_table(path, SPACE, TASK)


def test_no_table_is_replaced_by_one_of_something_else(elsewhere, tmp_path, monkeypatch):
    place, *_ = elsewhere
    here = {"monkeypatch": monkeypatch, "cwd": tmp_path}

    def as_changed(name, **more):
        said = json.loads((place / "pi.json").read_text())
        return sealed({**said, name: {**said[name], **more}})

    for text, by in (
        (stored(Device.here()), "by hwnas on"),
        (stored(Device.here(), origin="kit"), "by a kit on"),
        (as_changed("task", resolution=16), f"16 px, by a kit on {OTHER_CPU}"),
        (as_changed("device", threads=2), f"{OTHER_CPU}, 2 thread(s)"),
    ):
        (tmp_path / "pi.json").write_text(text)
        _, err = device("import", place / "kit" / "result.json", "--out", "pi.json", code=2, **here)
        assert "pi.json exists and is another table" in err
        assert by in err
        assert (tmp_path / "pi.json").read_text() == text
    kits = (place / "pi.json").read_text()
    (tmp_path / "pi.json").write_text(kits)
    _, err = device("measure", "--space", SPACE.name, *TASK_OPTIONS, "--out", "pi.json", code=2, **here)
    assert f"by a kit on {OTHER_CPU}" in err
    for other in (
        stored(Device.here(), space="proxyless"),
        stored(Device.here(), task=asdict(Task(16, 10, 1))),
        stored(replace(Device.here(), cpu=OTHER_CPU)),
    ):
        (tmp_path / "mine.json").write_text(other)
        _, err = device("measure", "--space", SPACE.name, *TASK_OPTIONS, "--out", "mine.json", code=2, **here)
        assert "mine.json exists and is another table" in err
        assert (tmp_path / "mine.json").read_text() == other
    device("import", place / "kit" / "result.json", "--out", "pi.json", **here)  # the same again
    assert (tmp_path / "pi.json").read_text() == kits


@pytest.mark.parametrize("kind", ["table", "learned"])
def test_a_table_of_this_device_is_in_times_of_the_reference_that_is_stored_now(tmp_path, kind):
    """It was measured before that was removed and stored anew; all that a run says must have one."""
    space, here = (SPACE if kind == "table" else get_space("pnas@1x4,b1")), Device.here()
    rows = np.unique(space.canonical(space.sample(60, np.random.default_rng(0))), axis=0)[:20]
    if kind == "table":
        cost = AdditiveCost(0.1, np.linspace(0.1, 0.3, SPACE.allowed.size).reshape(SPACE.allowed.shape))
        model = made_up(here, cost)
    else:
        ms = np.linspace(0.1, 0.2, len(rows))
        model = learn_latency(space, TASK, here, 0.5, rows, ms, reference_now_ms=0.52)
    path = tmp_path / "mine.json"
    path.write_text(sealed({**json.loads(model.to_json()), "origin": "here"}))
    assert read_device_table(path, space, TASK) == path.read_text()
    keep_reference(TASK, here, ReferenceTime(0.49, (0.47, 0.5)))
    text = read_device_table(path, space, TASK)
    assert json.loads(text)["reference_ms_interval"] == [0.47, 0.5]
    read = read_latency_model(text, space=space, task=TASK, device=here)
    assert (read.reference_ms, json.loads(text)["origin"]) == (0.49, "here")
    np.testing.assert_allclose(read.estimate_ms(rows), 0.98 * model.estimate_ms(rows))
    # The machine was further from the state that is stored now than from the earlier one.
    assert read.stated_error > model.stated_error
    np.testing.assert_allclose(read.calibration, 0.98 * np.array(model.calibration))


def test_a_table_of_this_device_in_another_state_is_refused(tmp_path):
    """Ratios to the reference change with the machine's speed, each network's by its own slope."""
    cost = AdditiveCost(0.1, np.linspace(0.1, 0.3, SPACE.allowed.size).reshape(SPACE.allowed.shape))
    path = tmp_path / "mine.json"
    path.write_text(sealed({**json.loads(made_up(Device.here(), cost).to_json()), "origin": "here"}))
    keep_reference(TASK, Device.here(), ReferenceTime(0.52, (0.5, 0.53)))
    with pytest.raises(InputError, match=r"reference latency of this device was 0\.5 ms, and now 0\.52 ms"):
        read_device_table(path, SPACE, TASK)


def test_of_another_device_whose_reference_is_vague_it_is_said(elsewhere):
    latencies = EstimatedElsewhere(SPACE, table_of(elsewhere[0]), None)
    assert "is known within" not in latencies.remark({})
    ms = latencies.model.reference_ms
    assert "is known within 50% only" in replace(latencies, reference_ms_interval=(ms, 1.5 * ms)).remark({})


class MeasuringError(Exception):
    """Stands for a measurement that has begun."""


@pytest.mark.skipif(reference.fcntl is None, reason="there are no such locks here")
@pytest.mark.parametrize(
    "measures",
    [
        lambda _: profile([f"{SPACE.name}:0-0-0-0-0"], seed=0, resolution=8, classes=10, channels=1),
        lambda _: measure_archs(SPACE, [SPACE.arch([0] * 5)], TASK, 1.0, np.random.default_rng(0)),
        lambda file: measure_file(file, TASK),
        lambda _: measure_model(SPACE, TASK, Device.here(), seed=0),
    ],
)
def test_whatever_measures_does_so_alone(tmp_path, monkeypatch, measures):
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))

    def new_processes():
        with (tmp_path / "home" / ".measuring.lock").open("w") as file, pytest.raises(BlockingIOError):
            reference.fcntl.flock(file, reference.fcntl.LOCK_EX | reference.fcntl.LOCK_NB)
        raise MeasuringError

    for module in (runtime, measuring):
        monkeypatch.setattr(module, "new_processes", new_processes)
    with pytest.raises(MeasuringError):
        measures(tmp_path / "model.onnx")


@pytest.mark.parametrize(("cache", "said"), [(2**30, True), (2**20, False), (None, False)])
def test_a_cache_larger_than_what_flushes_it_is_said(monkeypatch, capsys, cache, said):
    monkeypatch.setattr(devices, "last_level_cache_bytes", lambda: cache)
    devices.print_here(devices.show_here())
    assert ("cache          of 1024 MiB, more than is written" in capsys.readouterr().out) is said


def test_this_device_is_shown_and_measured(tmp_path, monkeypatch, capsys):
    for module in ("measuring", "runtime"):  # in this process, so that the small buffer holds
        monkeypatch.setattr(f"latency.{module}.new_processes", lambda: nullcontext(lambda fn, *args: fn(*args)))
    monkeypatch.setattr("latency.rounds.FLUSH_BYTES", 2**16)
    place = {"monkeypatch": monkeypatch, "cwd": tmp_path}
    shown = json.loads(device("show", "--json", **place)[0])
    assert shown["device"]["fingerprint"] == Device.here().fingerprint
    assert "CPUExecutionProvider" in shown["providers"]
    assert (shown["reference_ms"], shown["tables"]) == ({}, [])
    stdout, stderr = device("measure", "--space", SPACE.name, *TASK_OPTIONS, "--budget", "1s", "--json", **place)
    made = json.loads(stdout)
    assert f"measuring {SPACE.name} on {Device.here()}" in stderr
    assert made["of_this_device"] is True
    assert made["seconds"] > made["budget_s"] == 1
    devices.print_measured(made)
    assert (
        f"took           {made['seconds']:.0f} s, {made['seconds'] - 1:.0f} s more than the budget"
        in capsys.readouterr().out
    )
    devices.print_measured({**made, "seconds": 0.8})
    assert "budget" not in capsys.readouterr().out
    shown = json.loads(device("show", "--json", **place)[0])
    assert shown["tables"] == [made["file"]]
    assert shown["reference_ms"] == {"1x8x8-10": made["reference_ms"]}
    low, high = shown["reference_ms_interval"]["1x8x8-10"]
    assert 0 < low <= made["reference_ms"] <= high
    assert made["reference_ms_interval"] == [low, high]
    assert read_device_table(Path(made["file"]), SPACE, TASK)
    assert made["device"]["fingerprint"] in device("show", **place)[0]


@pytest.mark.parametrize(("high", "vague"), [(0.52, False), (0.6, True)])
def test_of_a_vague_reference_it_is_said_what_helps(tmp_path, monkeypatch, high, vague):
    place = {"monkeypatch": monkeypatch, "cwd": tmp_path}
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    keep_reference(TASK, Device.here(), ReferenceTime(0.5, (0.49, high)))
    fingerprint = Device.here().fingerprint
    kept = reference.reference_file(fingerprint)
    remove = f"when less runs beside it, remove {kept}, and "
    shown, said = json.loads(device("show", "--json", **place)[0])["remarks"], device("show", **place)[0]
    assert [remark.startswith("1x8x8-10: the reference latency was stored while") for remark in shown] == [True] * vague
    assert (f"known within 20% only: so are the milliseconds of all latencies here; {remove}the" in said) is vague
    (tmp_path / "table.json").write_text(stored(Device.here(), reference_now_ms=0.75))
    assert (
        "while the table was measured, its device ran 50% slower than when" in device("show", "table.json", **place)[0]
    )
    for origin, helps in (
        ("here", f"{remove}measure the table anew"),
        ("kit", f"begun-{fingerprint}.json beside its measure.py and {kept}, and measure again by the kit"),
    ):
        (tmp_path / "table.json").write_text(
            stored(Device.here(), origin=origin, reference_ms=0.5, reference_ms_interval=[0.49, high])
        )
        assert (helps in device("show", "table.json", **place)[0]) is vague
    other, two_threads = replace(Device.here(), cpu="other"), Device.here(threads=2)
    for its, origin, helps in (
        (other, "kit", f"remove begun-{other.fingerprint}.json beside its measure.py, and measure again by the kit"),
        (other, "here", f"remove devices/{other.fingerprint}.json in $HWNAS_HOME there, and measure the table anew"),
        (two_threads, "kit", f"beside its measure.py and {reference.reference_file(two_threads.fingerprint)}, and"),
    ):
        (tmp_path / "table.json").write_text(
            stored(its, origin=origin, reference_ms=0.5, reference_ms_interval=[0.49, high])
        )
        assert (helps in device("show", "table.json", **place)[0]) is vague


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "none.json"], "none.json cannot be read"),
        (["show", "notes.txt"], "notes.txt must be JSON"),
        (["show", "list.json"], "list.json must be a JSON object"),
        (["show", "deep.json"], "deep.json must be JSON"),
        (["measure", "--space", "mobile", *TASK_OPTIONS], "there is no space 'mobile'"),
        (["measure", "--space", "proxyless", *TASK_OPTIONS, "--budget", "soon"], "a budget is a time"),
        (["measure", "--space", SPACE.name, *TASK_OPTIONS, "--out", "notes.txt"], "exists and is no latency table"),
        (["measure", "--space", SPACE.name, *TASK_OPTIONS, "--out", "no/x.json"], "no must be a folder"),
        pytest.param(
            ["measure", "--space", SPACE.name, *TASK_OPTIONS, "--out", "/proc/x.json"],
            "the folder /proc must be writable",  # by nobody, whoever runs this
            marks=pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux"),
        ),
        (["measure", "--space", SPACE.name, "--resolution", "0", "--classes", "10"], "resolution must be at least 1"),
        (["kit", "kit", "--space", "mobile", *TASK_OPTIONS], "there is no space 'mobile'"),
        (["kit", ".", "--space", SPACE.name, *TASK_OPTIONS], "exists and is not empty"),
        (["kit", "notes.txt", "--space", SPACE.name, *TASK_OPTIONS], "exists and is not empty"),
        (["kit", "kit", "--space", SPACE.name, *TASK_OPTIONS, "--seed", "-1"], "--seed must be 0 or more"),
        (["import", "none.json", "--out", "x.json"], "none.json cannot be read"),
        (["import", "notes.txt", "--out", "x.json"], "notes.txt must be JSON"),
    ],
)
def test_mistakes_are_one_line_and_touch_nothing(tmp_path, monkeypatch, arguments, message):
    texts = {"notes.txt": "years of work", "list.json": "[1, 2]", "deep.json": "[" * 100_000}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    out, err = device(*arguments, monkeypatch=monkeypatch, cwd=tmp_path, code=2)
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == texts


def test_a_result_is_no_table_and_says_how_it_becomes_one(elsewhere, tmp_path, monkeypatch):
    place, *_ = elsewhere
    _, err = device("show", "kit/result.json", monkeypatch=monkeypatch, cwd=place, code=2)
    assert "hwnas device import kit/result.json --out FILE" in err
    with pytest.raises(InputError, match="not yet a latency table") as refused:
        read_device_table(place / "kit" / "result.json", SPACE, TASK)
    assert refused.value.hint == f"hwnas device import {place / 'kit' / 'result.json'} --out FILE"
    (tmp_path / "models.json").write_text(json.dumps({"format": "hwnas kit models"}))
    _, err = device("show", "models.json", monkeypatch=monkeypatch, cwd=tmp_path, code=2)
    assert "models.json is what measure.py wrote of ONNX files, and no latency table" in err
    assert "import what measure.py writes without --models" in err
