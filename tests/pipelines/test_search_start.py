"""How a search begins, is refused before it trains, and is gone on with."""

import re

import pytest

from hwnas import InfeasibleError
from pipelines import search
from pipelines.cli import app
from pipelines.config import RunConfig
from pipelines.progress import Listener
from pipelines.search import run_search

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


def interrupted(*_):
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
