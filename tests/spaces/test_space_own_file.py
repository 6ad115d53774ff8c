"""A person's own space in a file: what is derived for the example, what is refused, and that it reaches workers."""

import concurrent.futures as cf
import hashlib
import multiprocessing
import pickle
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from latency import count
from spaces import InputError, SearchSpace, Task, get_space
from spaces.own_file import SpaceFile, full_name

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "my_space.py"
TASK = Task(8, 10, 1)


@pytest.fixture(scope="module")
def example() -> SearchSpace:
    return get_space(f"{EXAMPLE}:MySpace")


def every_row() -> np.ndarray:
    rows = np.array(list(product(range(3), *[range(4)] * 6)))
    return rows[rows[:, 1:4].any(axis=1) & rows[:, 4:7].any(axis=1)]


def test_the_example_has_as_many_rows_as_it_should(example):
    rows = every_row()
    assert len(rows) == 3 * (4**3 - 1) ** 2
    assert example.cardinality == len(rows)
    assert example.is_valid(rows).all()


def test_the_example_is_sampled_uniformly(example):
    drawn = example.sample(40_000, np.random.default_rng(0))
    assert example.is_valid(drawn).all()
    by_width_and_first = np.bincount(4 * drawn[:, 0] + drawn[:, 1], minlength=12)
    share = np.tile([15, 16, 16, 16], 3) / (3 * 63)
    assert chisquare(by_width_and_first, share * len(drawn)).pvalue > 1e-3


def test_blocks_of_the_example_that_add_nothing_commute(example):
    rows = every_row()[::11]
    stages = rows[:, 1:4], rows[:, 4:7]
    # By hand: in a stage only the blocks and their order count.
    expected = [(row[0], *(tuple(g for g in stage[i] if g) for stage in stages)) for i, row in enumerate(rows.tolist())]
    numbers: dict = {}
    keys: dict = {}
    assert [keys.setdefault(tuple(k), len(keys)) for k in example.canonical(rows).tolist()] == [
        numbers.setdefault(e, len(numbers)) for e in expected
    ]
    assert len(numbers) < len(rows)


def test_the_counts_of_the_example_by_hand(example):
    """residual:0-1-0-0-0-2-0 at 8 px: 8 channels, one plain block, 16 channels, one separable block."""
    flops, params = example.counts(np.array([[0, 1, 0, 0, 0, 2, 0]]), TASK)
    stem, plain, halve = 9 * 8, 2 * 9 * 8 * 8, 9 * 8 * 16
    depthwise, pointwise, head = 25 * 16, 16 * 16, 16 * 10
    assert flops.tolist() == [64 * (stem + plain) + 16 * (halve + depthwise + pointwise) + head]
    norms = 2 * (8 + 8 + 8 + 16 + 16 + 16)
    assert params.tolist() == [stem + plain + halve + depthwise + pointwise + head + 10 + norms]


def test_mutants_children_texts_and_modules_of_the_example(example):
    rng = np.random.default_rng(1)
    rows = example.sample(200, rng)
    assert example.is_valid(example.mutate(rows, rng)).all()
    assert example.is_valid(example.crossover(rows[:100], rows[100:], rng)).all()
    assert np.array_equal([example.row(example.parse(example.format(row))) for row in rows], rows)
    arch = example.arch(rows[0])
    module = example.build(arch, TASK)
    assert sum(p.numel() for p in module.parameters()) == count(example.layers(arch, TASK)).params
    with pytest.raises(InputError, match="of genes 4-6 one must not be 0"):
        example.parse("residual:0-1-0-0-0-0-0")


# Where it lies, and how it reaches other processes


def test_names_of_files_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert full_name("a/../my_space.py:MySpace") == f"{tmp_path}/my_space.py:MySpace"
    assert full_name("~/my_space.py:MySpace") == f"{tmp_path}/home/my_space.py:MySpace"
    assert full_name(f"{tmp_path}/x.py:X") == f"{tmp_path}/x.py:X"
    assert full_name("proxyless@w0.5") == "proxyless@w0.5"


def in_worker(space, row):
    return space.name, space.counts(row[None], TASK)[0].tolist(), type(space).__name__


def test_a_space_reaches_a_spawned_process_as_it_was_read(tmp_path):
    """Though the file is changed, and then removed, in between."""
    file = tmp_path / "my_space.py"
    file.write_text(EXAMPLE.read_text())
    space = get_space(f"{file}:MySpace")
    file.write_text("raise RuntimeError")
    row = space.sample(1, np.random.default_rng(0))[0]
    with cf.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(in_worker, space, row).result() == in_worker(space, row)
        file.unlink()
        assert pool.submit(in_worker, space, row).result() == in_worker(space, row)
    assert type(pickle.loads(pickle.dumps(space))) is type(space)


def test_a_changed_file_is_another_class(tmp_path):
    file = tmp_path / "my_space.py"
    file.write_text(EXAMPLE.read_text())
    first = get_space(f"{file}:MySpace")
    assert type(get_space(f"{file}:MySpace")) is type(first)
    file.write_text(EXAMPLE.read_text().replace("WIDTHS = (8, 12, 16)", "WIDTHS = (4, 12, 16)"))
    second = get_space(f"{file}:MySpace")
    row = np.array([[0, 1, 0, 0, 1, 0, 0]])
    assert first.counts(row, TASK)[0][0] > second.counts(row, TASK)[0][0]


# What a person can get wrong

START = "import numpy as np\nfrom spaces import NetworkBuilder, SearchSpace\n"
GOOD = f"""{START}
class Good(SearchSpace):
    name = "good"
    choices = (2, 3)
    def is_valid(self, population):
        return self.in_range(population)
    def layers(self, arch, task):
        net = NetworkBuilder(task.input_shape)
        net.classifier(net.conv(0, 4, kernel=(1, 3)[self.row(arch)[0]]), classes=task.classes)
        return net.network
"""


def test_a_file_without_mistakes_is_taken(tmp_path):
    (tmp_path / "good.py").write_text(GOOD)
    space = get_space(f"{tmp_path}/good.py:Good")
    assert (space.name, space.cardinality) == ("good", 6)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "good.py").write_text(GOOD, encoding="utf-8-sig")
    space = get_space(f"{tmp_path}/good.py:Good")
    assert (space.name, space.cardinality) == ("good", 6)
    assert pickle.loads(pickle.dumps(space)).name == "good"
    file = SpaceFile.read(f"{tmp_path}/good.py:Good")
    assert file.sha256 == hashlib.sha256((tmp_path / "good.py").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "line", ["from spaces.pnas import PnasSpace as S", "import spaces.pnas\nS = spaces.pnas.PnasSpace"]
)
def test_a_class_of_another_module_is_refused_and_left_as_it_is(tmp_path, line):
    ours = get_space("pnas@1x4")
    before = pickle.dumps(ours)
    (tmp_path / "theirs.py").write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"must be written in that file, but is PnasSpace of spaces\.pnas"):
        get_space(f"{tmp_path}/theirs.py:S")
    assert pickle.dumps(ours) == before
    assert pickle.loads(before) == ours


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("class Good(", "class Better(", r"good.py must hold the class 'Good', and does not.* its spaces: Better"),
        ("class Good(SearchSpace)", "class Good", "must be a subclass of spaces.SearchSpace"),
        ("net.network\n", "net.network\n        x = = 1\n", r"good.py, line 13: it must run as Python: invalid syntax"),
        ('name = "good"', "name = undefined", r"good.py, line 5: it must run as Python: NameError: .*'undefined'"),
        ("import numpy", "import nonsense_module", "good.py, line 1: .*ModuleNotFoundError"),
        ("import numpy as np\n", "raise SystemExit(3)\n", "good.py, line 1: it must run as Python: SystemExit: 3"),
        ("    def is_valid", "    def is_walid", "must give name, choices, is_valid and layers; missing: is_valid"),
        ("    def is_valid", "    def __init__(self, n): ...\n    def is_valid", "made without arguments: TypeError"),
        ('"good"', '"go od"', "name must be a text without colon and blanks, got 'go od'"),
        ('"good"', '"a:b"', "name must be a text without colon and blanks"),
        ('"good"', '"proxyless@mine"', "'proxyless@mine' is a space of this project"),
        ("(2, 3)\n", "[2, 3]\n", r"choices must be a tuple of whole numbers.* got \[2, 3\]"),
        ("(2, 3)\n", "(2, 3.0)\n", r"choices must be a tuple"),
        ("(2, 3)\n", "(2, 0)\n", r"choices must be a tuple"),
        ("(2, 3)\n", "(1, 1)\n", r"one at least 2"),
        ("(2, 3)\n", "()\n", r"choices must be a tuple"),
        ("self.in_range(population)", "np.ones(len(population), bool)", r"must be false for \[2, .*in_range"),
        ("self.in_range(population)", "population < 2", r"array of as many booleans, got bool \(3, 2\)"),
        ("self.in_range(population)", "True", "array of as many booleans, got bool"),
        ("self.in_range(population)", "np.zeros(len(population), bool)", "0 of 1000 rounds of random rows were valid"),
        (
            "self.in_range(population)",
            "population.all(axis=5)",
            r"good.py, line 8: is_valid\(\) of rows out of range: AxisError",
        ),
        ("classes=task.classes", "classes=10", r"must end with \(7,\) class scores, but ends with linear \(10,\)"),
        ("classes=task", "clases=task", r"good.py, line 11: layers\(\) of good:.*TypeError"),
        (
            "task.input_shape",
            "(1, 8, 8)",
            r"must begin with the input \(3, 224, 224\), but begins with input \(1, 8, 8\)",
        ),
        ("net.network\n", "net.layers\n", "must be a tuple of layer records, got list"),
        ("net.network\n", "net\n", "must be a tuple of layer records, got NetworkBuilder"),
        ("(1, 3)[", "(1, 4)[", r"good.py, line 11: layers\(\) of good:1-.*kernels must be odd"),
    ],
)
def test_each_mistake_is_named_with_its_place(tmp_path, old, new, message):
    assert old in GOOD
    (tmp_path / "good.py").write_text(GOOD.replace(old, new))
    with pytest.raises(InputError) as caught:
        get_space(f"{tmp_path}/good.py:Good")
    assert re.search(message, f"{caught.value} {caught.value.hint}"), caught.value


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py:MySpace", "nowhere.py cannot be read: No such file"),
        ("my_space.py", "given as FILE.py:CLASS, got 'my_space.py'"),
        ("my_space.py:", "given as FILE.py:CLASS"),
        ("my_space.py:My Space", "given as FILE.py:CLASS"),
        (f"{EXAMPLE.parent}.py:MySpace", "cannot be read"),
        ("my_space", "there is no space 'my_space'"),
    ],
)
def test_names_that_mean_nothing(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        get_space(name)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "x.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="it is no UTF-8 text"):
        SpaceFile.read(f"{tmp_path}/x.py:X")


def test_a_space_is_checked_for_the_task_that_it_is_wanted_for(tmp_path):
    text = GOOD.replace(
        "        net.cl", "        if task.resolution < 16: raise ValueError('too small')\n        net.cl"
    )
    (tmp_path / "good.py").write_text(text)
    name = f"{tmp_path}/good.py:Good"
    assert get_space(name, Task(32, 10)).name == "good"
    with pytest.raises(InputError, match=r"good.py, line 11: layers\(\) of good:.*ValueError: too small"):
        get_space(name, TASK)
