"""How a search begins, is refused before it trains, and is gone on with."""

import pytest

from hwnas import InfeasibleError
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
