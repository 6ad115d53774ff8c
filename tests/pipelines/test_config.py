"""What is asked of a run, and the folder that belongs to it."""

import numpy as np
import pytest
import torch

from pipelines import run_folder
from pipelines.config import RunConfig, default_space, parse_duration
from pipelines.run_folder import RunFolder, new_run_path
from spaces import InputError

FIELDS = {"job": "search", "data": "digits", "data_root": "data", "space": "proxyless", "trials": 8}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("3m", 180), ("1h30m", 5400), ("0.5h", 1800), ("1h1m1s", 3661)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "m", "3 minutes", "-3m", "0s", "3m1h", "9" * 400 + "s"])
def test_malformed_durations(text):
    with pytest.raises(InputError, match="a budget is a time such as 90s, 3m or 1h30m"):
        parse_duration(text)


def test_a_configuration_survives_its_file(tmp_path):
    config = RunConfig.of(**FIELDS, limits=("latency_ms <= 3", "params<=2M"), seed=7, workers=2)
    (tmp_path / "c.toml").write_text(config.to_toml())
    assert RunConfig.from_toml(tmp_path / "c.toml") == config
    assert config.limits == ("latency_ms<=3", "params<=2000000")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trials": None}, "exactly one of --budget and --trials"),
        ({"budget_s": 60.0}, "exactly one of --budget and --trials"),
        ({"trials": 1}, "--trials"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**32}, "--seed"),
        ({"seed": 2**63}, "--seed"),
        ({"epochs": float("inf")}, "--epochs: input should be a finite number"),
        ({"epochs": float("nan")}, "--epochs"),
        ({"final_epochs": float("inf")}, "--final-epochs: input should be a finite number"),
        ({"trials": None, "budget_s": float("inf")}, "--budget-s: input should be a finite number"),
        ({"validation_share": float("nan")}, "--validation-share"),
        ({"validation_share": 1.5}, "--validation-share"),
        ({"workers": 0}, "--workers"),
        ({"limits": ("latency<3",)}, "latency<3"),
        ({"colour": "red"}, "--colour"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        RunConfig.of(**{**FIELDS, **fields})


def test_the_largest_seed_is_one_that_every_generator_takes():
    seed = RunConfig.of(**FIELDS, seed=2**32 - 1).seed
    np.random.default_rng([seed, 0])
    np.random.RandomState(seed)  # what scikit-learn makes of it
    torch.Generator().manual_seed(seed)


def test_default_spaces_are_narrower_for_smaller_images():
    assert [default_space(r) for r in (8, 28, 32, 96, 224)] == [
        "proxyless@w0.25",
        "proxyless@w0.5",
        "proxyless@w0.5",
        "proxyless@w0.5",
        "proxyless",
    ]


def test_a_run_folder_is_made_and_opened_again(tmp_path):
    config = RunConfig.of(**FIELDS)
    RunFolder.prepare(tmp_path / "run", config)
    assert RunFolder.prepare(tmp_path / "run", config).config.is_file()
    assert RunFolder.existing(tmp_path / "run").path == tmp_path / "run"


def test_a_run_of_other_settings_is_left_alone(tmp_path):
    RunFolder.prepare(tmp_path / "run", RunConfig.of(**FIELDS))
    before = (tmp_path / "run" / "config.toml").read_text()
    with pytest.raises(InputError, match="belongs to a run with other settings \\(seed: 1 != 0\\)"):
        RunFolder.prepare(tmp_path / "run", RunConfig.of(**FIELDS, seed=1))
    assert (tmp_path / "run" / "config.toml").read_text() == before


def test_a_folder_that_is_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "mine", tmp_path / "file"):
        with pytest.raises(InputError, match="not the folder of a run"):
            RunFolder.prepare(path, RunConfig.of(**FIELDS))
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match=r"must be the folder of a run"):
        RunFolder.existing(tmp_path / "mine")


def test_a_folder_that_was_just_begun_is_taken(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".config.toml.4711.part").write_text("job = ")
    with monkeypatch.context() as patch:
        patch.setattr(run_folder.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5 * 2**20})())
        with pytest.raises(InputError, match="needs 200 MiB of disk"):
            RunFolder.prepare(run, RunConfig.of(**FIELDS))
    with RunFolder.prepare(run, RunConfig.of(**FIELDS)).locked():
        assert sorted(path.name for path in run.iterdir()) == [".lock", "config.toml"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".film.mp4.4711.part").write_text("someone's")
    with pytest.raises(InputError, match="not the folder of a run"):
        RunFolder.prepare(tmp_path / "other", RunConfig.of(**FIELDS))


def test_what_a_killed_process_left_is_cleared_and_nothing_else(tmp_path):
    run = RunFolder.prepare(tmp_path / "run", RunConfig.of(**FIELDS))
    model = run.model("m1")
    left = [run.path / ".data-k2x", run.path / ".plan.json.12.part", model / ".weights.pt-9aq"]
    kept = [run.data / "train_images.npy", run.plan, model / "weights.pt"]
    left[0].mkdir()
    (left[0] / "train_images.npy").write_text("half")
    for path in (*left[1:], *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    with run.locked():
        assert not any(path.exists() for path in left)
        assert all(path.exists() for path in kept)
        left[0].mkdir()
        with pytest.raises(InputError, match="another process"), RunFolder(run.path).locked():
            pass
        assert left[0].exists()  # it may be the other process's


def test_no_disk_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5 * 2**20})())
    with pytest.raises(InputError, match="needs 200 MiB of disk"):
        RunFolder.prepare(tmp_path / "run", RunConfig.of(**FIELDS))
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="needs 200 MiB of disk"):
        RunFolder.prepare(tmp_path / "mine", RunConfig.of(**FIELDS))
    assert (tmp_path / "mine").is_dir()


def test_an_unwritable_place_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="must be writable"):
        RunFolder.prepare(tmp_path / "file" / "run", RunConfig.of(**FIELDS))


def test_two_processes_do_not_share_a_run(tmp_path):
    run = RunFolder.prepare(tmp_path / "run", RunConfig.of(**FIELDS))
    with run.locked(), pytest.raises(InputError, match="another process"), RunFolder(run.path).locked():
        pass
    with run.locked():
        pass


def test_new_runs_get_names_of_their_own(tmp_path):
    first = new_run_path(tmp_path, "/some/where/flowers")
    assert first.name.startswith("flowers-")
    first.mkdir()
    assert new_run_path(tmp_path, "/some/where/flowers") != first
