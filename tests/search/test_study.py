"""The study file: names of its folder, and disks that are full."""

import resource
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from hwnas.study import Study, trial_rows
from hwnas.trial import Trial
from spaces import InputError, get_space

SPACE = get_space("proxyless")


def trial(number):
    arch = SPACE.arch(SPACE.sample(1, np.random.default_rng(number))[0])
    return Trial(number, arch, 1, 7, "complete", {"accuracy_val": 0.5, "latency_ms_estimated": 2.0})


def add_trials(study, numbers):
    for number in numbers:
        study.add(trial(number))


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a b#c", "a{b}", "ü"])
def test_a_study_lies_where_its_path_says(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    Study(folder / "study.db", SPACE).add(trial(0))
    assert Study(folder / "study.db", SPACE).trials() == [trial(0)]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in folder.iterdir()] == ["study.db"]
    assert sqlite3.connect(folder / "study.db").execute("select count(*) from trials").fetchone() == (1,)


def test_a_full_disk_is_said_and_nothing_recorded_is_lost(tmp_path):
    path = tmp_path / "study.db"
    study = Study(path, SPACE)
    study.add(trial(0))
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))  # no file may grow beyond it
    try:
        with pytest.raises(InputError, match=r"study\.db must be a study .* written: (disk|database)") as caught:
            add_trials(study, range(1, 200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "full" in caught.value.hint
    assert "\n" not in str(caught.value)
    recorded = study.trials()
    assert [t.number for t in recorded] == list(range(len(recorded)))
    study.add(trial(len(recorded)))
    assert Study(path, SPACE).trials()[-1] == trial(len(recorded))


def test_a_damaged_study_is_said(tmp_path):
    path = tmp_path / "study.db"
    study = Study(path, SPACE)
    study.add(trial(0))
    with sqlite3.connect(path) as connection:
        connection.execute("drop table trials")
    with pytest.raises(InputError, match=r"must be a study .*: no such table: trials"):
        study.trials()
    (tmp_path / "text.db").write_text("no database " * 100)
    with pytest.raises(InputError, match=r"must be a study .*: file is not a database"):
        Study(tmp_path / "text.db", SPACE)


def test_the_parent_of_a_trial_is_kept(tmp_path):
    trials = [replace(trial(number), parent=parent) for number, parent in enumerate((None, 0, 1))]
    study = Study(tmp_path / "study.db", SPACE)
    for each in trials:
        study.add(each)
    assert Study(tmp_path / "study.db", SPACE).trials() == trials
    assert [row["parent"] for row in trial_rows(trials)] == ["", 0, 1]
