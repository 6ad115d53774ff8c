"""What tests of this floor compare with: other counters, and real tables where this checkout has them beside it."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch.utils.flop_counter import FlopCounterMode

from spaces import Population, Task
from spaces.nasbench101 import rows_from_bits

TABLES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "tables"
CELLS = TABLES / "nasbench101_val30001.parquet"
MACRO = TABLES / "nas_bench_macro.parquet"
NETWORKS = TABLES / "published_networks.jsonl"


def missing(table: Path) -> str:
    return f"the shared table {table.name} is not beside this checkout"


def needs(table: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not table.exists(), reason=missing(table))


def column(table: Path, *names: str) -> list[np.ndarray]:
    """Columns of a parquet file; the test is skipped where it is not there."""
    if not table.exists():
        pytest.skip(missing(table))
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = parquet.read_table(table, columns=list(names))
    return [columns[name].to_numpy() for name in names]


def cells_of_the_table() -> Population:
    """The rows of `nasbench101` that the table lists."""
    bits, codes = column(CELLS, "adjacency_bits", "op_codes")
    return rows_from_bits(bits.astype(np.int64), codes.tolist())


def macro_rows() -> Population:
    """The rows of `nasbench_macro` that the table lists."""
    return np.stack(column(MACRO, *(f"layer{i}" for i in range(8))), axis=1).astype(np.int64)


def distinct(rows: Population) -> int:
    """How many rows of a NAS-Bench space differ; genes lie in -1..2, so each row is one number."""
    return len(np.unique((rows + 1) @ 4 ** np.arange(rows.shape[1], dtype=np.int64)))


def other_counts(model: torch.nn.Module, task: Task) -> tuple[int, int]:
    """fvcore's conv and linear entries, and torch's own counter, which counts two for a multiply-add."""
    images = torch.zeros(1, *task.input_shape)
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit, by which fvcore traces, warns of its own end
        analysis = FlopCountAnalysis(model, images)
        entries = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return int(entries["conv"] + entries["linear"]), counter.get_total_flops()
