"""How a search begins, is refused before it trains, and is gone on with."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hwnas import InfeasibleError
from latency import Device
from latency.files import write_atomically, write_json
from latency.reference import keep_reference
from latency.runtime import ReferenceTime
from pipelines import run_folder, search
from pipelines.cli import app
from pipelines.config import RunConfig
from pipelines.deploy import deploy
from pipelines.latencies import measure_model, read_device_table
from pipelines.progress import Listener
from pipelines.run_folder import MODEL_KEYS, RunFolder
from pipelines.search import guessing_remark, run_search
from spaces import InputError, SearchSpace, Task, get_space

SPACE = "proxyless@8,8x1,16x2s2,24x2s2,64"


def config(**changed):
    fields = {"job": "search", "data": "digits", "data_root": "data", "space": SPACE, "trials": 2, "device": "cpu"}
    return RunConfig.of(**{**fields, **changed})


@pytest.mark.parametrize("kind", ["new", "empty", "link"])
def test_a_refused_search_leaves_the_run_folder_as_it_was(tmp_path, kind):
    path, target = tmp_path / "run", tmp_path / "elsewhere"
    if kind == "empty":
        path.mkdir()
    elif kind == "link":
        target.mkdir()
        path.symlink_to(target)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InfeasibleError, match="proved by the table"):
        run_search(config(limits=("params<=100",)), path, Listener())
    assert sorted(tmp_path.iterdir()) == before
    assert path.is_symlink() == (kind == "link")
    assert not any(any(folder.iterdir()) for folder in before)


@pytest.fixture(scope="module")
def quick_table(tmp_path_factory):
    """What a search measures first, in two visits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_HOME", str(tmp_path_factory.mktemp("home")))
        return measure_model(get_space(SPACE), Task(8, 10, 1), Device.here(), seed=0, budget_s=0.1)


def test_a_search_refused_after_its_table_was_measured_keeps_the_table(tmp_path, monkeypatch, quick_table):
    path, hopeless, said = tmp_path / "my run", config(limits=("latency_ms<=0.0001",)), []
    for name in ("my run-latency_table.json", "my run-latency_table-1.json"):  # never in the place of another
        monkeypatch.setattr(search, "measure_model", lambda *_args, **_kwargs: quick_table)
        with pytest.raises(InfeasibleError, match="proved by the table"):
            run_search(hopeless, path, SimpleNamespace(say=said.append))
        assert said[-1] == f"what was timed stays: --device-table '{tmp_path / name}' saves timing it again"
        monkeypatch.setattr(search, "measure_model", never)
        given = {"device_table": str(tmp_path / name)}
        with pytest.raises(InfeasibleError):
            run_search(config(limits=hopeless.limits, **given), path, Listener())
    assert sorted(kept.name for kept in tmp_path.iterdir()) == [
        "my run-latency_table-1.json",
        "my run-latency_table.json",
    ]
    monkeypatch.setattr(search, "_search_stages", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_search(config(limits=("latency_ms<=1000",), **given), path, Listener())
    assert RunFolder(path).table.read_text() == (tmp_path / name).read_text()


def test_where_nothing_can_be_written_beside_the_folder_the_table_stays_in_it(tmp_path, monkeypatch, quick_table):
    """As where the folder is a disk of its own, in a place that only others may write to."""
    path, said = tmp_path / "run", []

    def read_only(place, data):
        if place.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        write_atomically(place, data)

    monkeypatch.setattr(run_folder, "write_atomically", read_only)
    monkeypatch.setattr(search, "measure_model", lambda *_args, **_kwargs: quick_table)
    with pytest.raises(InfeasibleError):
        run_search(config(limits=("latency_ms<=0.0001",)), path, SimpleNamespace(say=said.append))
    assert said[-1].startswith(f"what was timed stays: --device-table {path / 'latency_table.json'} ")
    assert [file.name for file in path.iterdir()] == ["latency_table.json"]
    assert read_device_table(path / "latency_table.json", get_space(SPACE), Task(8, 10, 1))


def interrupted(*_args, **_kwargs):
    raise KeyboardInterrupt


def test_an_interrupted_search_says_which_folder_to_go_on_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "_run_locked", interrupted)
    with pytest.raises(SystemExit) as ended:
        app(["search", "--data", "digits", "--trials", "2", "--device", "cpu"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    (run,) = tmp_path.glob("runs/*")
    path = run.relative_to(tmp_path)
    assert re.search(rf" s  run {path}\n", said)
    assert f"hwnas: interrupted (the same command with --run {path} goes on)" in said


def test_a_run_goes_on_without_the_folder_of_its_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "_open_job", interrupted)
    rng = np.random.default_rng(0)
    for file in (tmp_path / "pictures" / name / f"{i}.png" for name in ("a", "b") for i in range(10)):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, size=(40, 40, 3), dtype=np.uint8)).save(file)
    command = ["search", "--data", "pictures", "--trials", "2", "--device", "cpu", "--run", "run"]
    for _ in range(2):
        with pytest.raises(SystemExit):
            app(command)
        assert "hwnas: interrupted" in capsys.readouterr().err
        shutil.rmtree(tmp_path / "pictures", ignore_errors=True)
    assert RunConfig.from_toml(tmp_path / "run" / "config.toml").space == "proxyless@w0.5"
    with pytest.raises(SystemExit):
        app([*command, "--resolution", "48"])
    assert "belongs to a run with other settings (resolution: 48 != None)" in capsys.readouterr().err


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A run that was interrupted once it had its images."""
    with monkeypatch.context() as patch:
        patch.setattr(search, "_open_job", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_search(config(), tmp_path / "run", Listener())
    return RunFolder(tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "says"),
    [("{}", "must say 'plan', but does not"), ("[]", "must be a JSON object"), ("{", "must be JSON")],
)
def test_a_damaged_plan_is_the_users_to_mend(begun, text, says):
    begun.plan.write_text(text)
    with pytest.raises(InputError, match=rf"plan\.json {says}"):
        run_search(config(), begun.path, Listener())
    assert begun.plan.read_text() == text


@pytest.mark.parametrize("kind", ["cut", "empty", "zeros", "other", "gone"])
def test_damaged_weights_are_said_and_nothing_is_left(begun, tmp_path, kind):
    space = get_space(SPACE)
    first, second = (space.arch(row) for row in space.sample(2, np.random.default_rng(0)))
    write_json(begun.model("m1") / "model.json", {**dict.fromkeys(MODEL_KEYS), "arch": str(first)})
    file = begun.model("m1") / "weights.pt"
    torch.save(space.build(second, Task(8, 10, 1)).state_dict(), file)
    if kind == "gone":
        file.unlink()
    elif kind != "other":
        file.write_bytes({"cut": file.read_bytes()[:500], "empty": b"", "zeros": bytes(500)}[kind])
    with pytest.raises(InputError, match=r"weights\.pt (does not hold the weights of|cannot be read)"):
        deploy(begun, "m1", tmp_path / "handed")
    assert not list((tmp_path / "handed").iterdir())


def test_a_damaged_model_is_said(begun, tmp_path):
    write_json(begun.model("m1") / "model.json", {})
    with pytest.raises(InputError, match=r"model\.json must say 'arch', but does not"):
        deploy(begun, "best", tmp_path / "handed")


def never(*_args, **_kwargs):
    pytest.fail("this takes time, and the budget is hopeless")


def test_a_hopeless_budget_is_refused_before_anything_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "measure_model", never)
    monkeypatch.setattr(search, "_time_training", never)
    with pytest.raises(InputError, match="a budget must leave time for trainings, but of 20 s") as caught:
        run_search(config(trials=None, budget_s=20), tmp_path / "run", Listener())
    assert caught.value.hint == "give --budget 2m or more"
    assert not (tmp_path / "run").exists()
    late = SimpleNamespace(  # the table took longer than was thought
        config=config(trials=None, budget_s=60),
        run=RunFolder(tmp_path / "run"),
        pool=SimpleNamespace(workers=2),
        clock=SimpleNamespace(elapsed=lambda: 30.0),
    )
    with pytest.raises(InputError, match="of 60 s all else takes 72 s at least"):
        search._first_plan(late)


@pytest.mark.parametrize("strategy", ["pnas", "epnas"])
def test_a_space_that_cannot_grow_is_refused_before_anything_is_timed(tmp_path, monkeypatch, strategy):
    monkeypatch.setattr(search, "measure_model", never)
    monkeypatch.setattr(type(get_space(SPACE)), "grow", SearchSpace.grow)
    with pytest.raises(InputError, match=r"proxyless@.* does not give grow"):
        run_search(config(strategy=strategy), tmp_path / "run", Listener())
    assert not (tmp_path / "run").exists()


def test_that_the_reference_is_timed_first_is_said_where_it_is_not_known(begun, monkeypatch):
    monkeypatch.setattr(search, "measure_model", interrupted)
    task, said = Task(8, 10, 1), []
    listener = SimpleNamespace(say=said.append)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search._table(config(), begun, get_space(SPACE), task, listener)
        keep_reference(task, Device.here(), ReferenceTime(1.0, (0.9, 1.1)))
    assert ["reference" in line for line in said] == [True, False, False]


def test_a_network_that_learned_nothing_is_said_to():
    labels = np.array([0] * 30 + [1] * 50 + [2] * 20)
    assert guessing_remark((0.51, 0.7), labels, 3) == ""
    said = guessing_remark((0.49, 0.6), labels, 1.25)
    assert (
        "no better than always saying the most frequent class (50% of the training images), after 1.25 epochs" in said
    )
