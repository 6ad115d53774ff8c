"""How the house stands: imports point down, and the floor of the spaces needs no torch to be entered."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("spaces", "latency", "hwnas", "pipelines")


def imported(source: str, package: tuple[str, ...]) -> set[str]:
    """Top-level names of all that a module of `package` imports, anywhere in it, relative names resolved."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            names = [*base, *(node.module or "").split(".")] if node.module else list(base)
            found |= {names[0]} if names else {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__"):
                found.add(str(node.args[0].value).partition(".")[0])
    return found


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("import latency.table as t", {"latency"}),
        ("from hwnas import search", {"hwnas"}),
        ("def f():\n    from pipelines.cli import main", {"pipelines"}),
        ("if TYPE_CHECKING:\n    import hwnas", {"hwnas"}),
        ("from . import graph", {"spaces"}),
        ("from .graph import GraphBatch", {"spaces"}),
        ("from ..graph import GraphBatch", {"spaces"}),
        ("from ...latency import count", {"latency"}),
        ("from ... import pipelines", {"pipelines"}),
        ("importlib.import_module('hwnas.study')", {"hwnas"}),
    ],
)
def test_imports_are_found_however_they_are_written(line, names):
    assert imported(line, ("spaces", "cells")) == names


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_down(package):
    above = set(ORDER[ORDER.index(package) + 1 :])
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        names = imported(file.read_text(encoding="utf-8"), file.relative_to(ROOT).parent.parts)
        assert above.isdisjoint(names), f"{file} imports {above & names} from above"


def test_spaces_can_be_entered_without_torch():
    code = (
        "import sys, numpy as np, spaces\n"
        "task = spaces.Task(32, 10)\n"
        "for space in map(spaces.get_space, spaces.SPACES):\n"
        "    rows = space.sample(3, np.random.default_rng(0))\n"
        "    space.counts(rows, task), space.graphs(rows), space.layers(space.arch(rows[0]), task)\n"
        "unwanted = ('torch', 'torchvision', 'latency', 'hwnas', 'pipelines')\n"
        "print([name for name in unwanted if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
