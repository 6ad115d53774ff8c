"""DESIGN section 6, its rows of the tabular benchmarks: measured beside published, to the unit."""

from pathlib import Path

import numpy as np
import pytest

from spaces import Population, Task, get_space
from spaces.nasbench101 import rows_from_bits

CIFAR10 = Task(resolution=32, classes=10)
TABLES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "tables"
CELLS = TABLES / "nasbench101_val30001.parquet"
MACRO = TABLES / "nas_bench_macro.parquet"


def needs(table: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not table.exists(), reason=f"the shared table {table.name} is not beside this checkout")


def distinct(rows: Population) -> int:
    """How many rows differ; genes lie in -1..2, so each row is one number."""
    return len(np.unique((rows + 1) @ 4 ** np.arange(rows.shape[1], dtype=np.int64)))


def column(table: Path, *names: str) -> list[np.ndarray]:
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = parquet.read_table(table, columns=list(names))
    return [columns[name].to_numpy() for name in names]


def cells_of_the_table() -> Population:
    bits, codes = column(CELLS, "adjacency_bits", "op_codes")
    return rows_from_bits(bits.astype(np.int64), codes.tolist())


# distinct NAS-Bench-101 cells with at most 3..7 vertices | 7 / 91 / 2,532 / 64,542 / 423,624


def test_distinct_cells_of_nasbench101():
    space, found, cells = get_space("nasbench101"), {}, 0
    for vertices in range(2, 8):
        cells += distinct(space.canonical(space.of_size(vertices)))
        found[vertices] = cells
    assert found == {2: 1, 3: 7, 4: 91, 5: 2_532, 6: 64_542, 7: 423_624}


@needs(CELLS)
def test_cells_of_the_table_are_as_distinct_as_their_hashes():
    (hashes,) = column(CELLS, "hash")
    assert distinct(get_space("nasbench101").canonical(cells_of_the_table())) == len(set(hashes)) == 30_001


@needs(CELLS)
def test_keys_are_the_cells_that_the_table_lists():
    """Of all isomorphic matrices the released generator keeps the first: so do the keys."""
    rows = cells_of_the_table()
    assert np.array_equal(get_space("nasbench101").canonical(rows), rows)


# NAS-Bench-101 parameters | equal to the table's, every row (and its multiply-adds)


@needs(CELLS)
def test_parameters_and_multiply_adds_of_nasbench101():
    params, macs = column(CELLS, "params", "macs")
    flops, ours = get_space("nasbench101").counts(cells_of_the_table(), CIFAR10)
    assert np.array_equal(ours, params)
    assert np.array_equal(flops, macs)


def test_the_inception_like_cell_of_the_release():
    """As NASBench.ipynb of the release asks for it, and the cell and the parameters that it prints in answer."""
    space = get_space("nasbench101")
    asked = space.parse("nasbench101:0-1-1-1-0-1-0-1-0-1-0-0-0-0-0-0-0-1-1-2-1-0-0-0-0-1")
    printed = space.parse("nasbench101:0-0-1-1-1-1-0-1-2-1-0-0-1-0-1-0-0-0-0-0-0-0-0-0-1-1")
    assert np.array_equal(space.canonical(space.row(asked)[None])[0], space.row(printed))
    for arch in (asked, printed):
        flops, params = space.counts(space.row(arch)[None], CIFAR10)
        network = space.layers(arch, CIFAR10)
        assert int(params[0]) == sum(layer.params for layer in network) == 2_694_282
        assert int(flops[0]) == sum(layer.flops for layer in network)


# NAS-Bench-Macro: parameters and FLOPs; distinct networks | equal to the table's, every row; 3,969 of 6,561


def macro_rows() -> Population:
    return np.stack(column(MACRO, *(f"layer{i}" for i in range(8))), axis=1).astype(np.int64)


@needs(MACRO)
def test_parameters_and_multiply_adds_of_nasbench_macro():
    """The table's flops are multiply-adds of convolutions and the classifier, and nothing else: the relation is 1."""
    params, table_flops = column(MACRO, "params", "flops")
    flops, ours = get_space("nasbench_macro").counts(macro_rows(), CIFAR10)
    assert len(params) == 6_561
    assert np.array_equal(ours, params)
    assert np.array_equal(flops, table_flops)


def test_distinct_networks_of_nasbench_macro(all_rows, record_key):
    space = get_space("nasbench_macro")
    rows = all_rows(space)
    assert len(rows) == space.cardinality == 6_561
    assert distinct(space.canonical(rows)) == 3_969
    assert len({record_key(space, row, CIFAR10) for row in rows}) == 3_969


@needs(MACRO)
def test_equal_networks_of_the_macro_table_have_equal_accuracies():
    runs = np.stack(column(MACRO, *(f"test_acc_run{i}" for i in range(3))), axis=1)
    keys = get_space("nasbench_macro").canonical(macro_rows())
    _, first, key = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    assert np.array_equal(runs, runs[first][key])
    assert len(np.unique(runs, axis=0)) == 3_969
