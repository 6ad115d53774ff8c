"""Reading tables: NAS-Bench-101, NAS-Bench-Macro, and any CSV or parquet file that a person describes."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ValidationError

from latency import DeviceCosts
from latency.counts import COUNTED
from spaces import InputError, Population, SearchSpace, Task, get_space
from spaces.nasbench101 import rows_from_bits

from .restricted import RestrictedSpace
from .table import ArrayTable, Floats, Source, accuracies, costs, numbers, table_of
from .tabular import TabularEvaluator, check_cost_names
from .tfrecord import Record, read_records

CELLS_FILE = "nasbench101_val30001.parquet"
MACRO_FILE = "nas_bench_macro.parquet"
MACRO_RUNS = ("test_acc_run0", "test_acc_run1", "test_acc_run2")
FULL_EPOCHS = 108
TRAINING_TELLS = ("train_seconds",)  # costs of a table that nobody knows of a network before it is trained
CIFAR10 = Task(resolution=32, classes=10)
OPERATION_CODES = {"conv3x3-bn-relu": "0", "conv1x1-bn-relu": "1", "maxpool3x3": "2"}

Column = Sequence[Any]


@dataclass(frozen=True)
class Question:
    """What a search sees of a table, and what judges the network that it chose."""

    accuracy: str
    judged_by: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class TabularBenchmark:
    """A table to search in.

    Attributes:
        questions: seed s asks number s modulo their number.
        costs: columns by the name that trials have them under.
        accuracy_floor: of the hypervolume, as a fraction; None where nobody gave one.
        task: of the networks, by which strategies count params and flops of what they never asked for.
    """

    name: str
    space: SearchSpace
    table: ArrayTable
    questions: tuple[Question, ...]
    costs: Mapping[str, str] = field(default_factory=dict)
    accuracy_floor: float | None = None
    task: Task = CIFAR10

    def question(self, seed: int) -> Question:
        return self.questions[seed % len(self.questions)]

    def evaluator(self, seed: int) -> TabularEvaluator:
        """What answers the search of one seed."""
        asked = self.question(seed)
        return TabularEvaluator(self.space, self.table, asked.accuracy, self.costs, asked.judged_by)

    @cached_property
    def known_costs(self) -> DeviceCosts:
        """What is known of networks before they are trained: by the table's own columns, and counted what it lacks."""
        rows = RestrictedSpace(self.space, self.table.rows)
        told = {
            name: partial(self._read, rows, column)
            for name, column in self.costs.items()
            if name not in TRAINING_TELLS and not self._is_as_counted(name, column)
        }
        return DeviceCosts(self.space, self.task, told=told)

    def _is_as_counted(self, name: str, column: str) -> bool:
        """Whether the table says of all networks what we count: counts are known to grow with a network."""
        if name not in COUNTED:
            return False
        counted = DeviceCosts(self.space, self.task).one(name, self.table.rows)
        return bool((counted == self.table.read(column, np.arange(len(counted)))).all())

    def _read(self, rows: RestrictedSpace, column: str, population: Population) -> Floats:
        places = rows.places(population)
        if (places < 0).any():
            outside = population[int(np.argmin(places))]
            raise InputError(f"{self.space.format(outside)} is not in the table, and nothing tells its {column!r}")
        return self.table.read(column, places)


def read_nasbench101(path: Path) -> TabularBenchmark:
    """NAS-Bench-101: a parquet file of a sample of its cells, or the released TFRecord file.

    Of a sample, the signal is `val_acc_108` and `test_acc_108_run0` judges. Of the released file, the signal is the
    validation accuracy of one of the three runs of 108 epochs, which rotates with the seed, and the mean test accuracy
    of all three judges.

    Raises:
        InputError: if the file cannot be read, or is wrong in a row and column that are named.
    """
    return _cells_as_released(path) if path.suffix == ".tfrecord" else _cells_of_a_sample(path)


def _cells_of_a_sample(path: Path) -> TabularBenchmark:
    needed = ("adjacency_bits", "op_codes", "params", "macs", "val_acc_108", "test_acc_108_run0", "train_seconds_108")
    read, source = read_columns(path, needed)
    bits = numbers(read["adjacency_bits"], column="adjacency_bits", source=source).astype(np.int64)
    rows = _cells(bits, read["op_codes"], source)
    columns = _checked(read, source, fractions=("val_acc_108", "test_acc_108_run0"), cost=needed[2:4] + needed[6:])
    space = get_space("nasbench101")
    return TabularBenchmark(
        "nasbench101",
        space,
        table_of(space, rows, columns, source=source),
        (Question("val_acc_108", ("test_acc_108_run0",)),),
        {"params": "params", "flops": "macs", "train_seconds": "train_seconds_108"},
        accuracy_floor=0.85,
    )


def _cells(bits: np.ndarray[Any, np.dtype[np.int64]], codes: Column, source: Source) -> Population:
    for row, code in enumerate(codes):
        if not isinstance(code, str) or set(code) - set("012"):
            raise InputError(
                f"{source}: {source.place(row)}, column 'op_codes' must hold 0, 1 or 2 for each vertex inside, got "
                f"{code!r}"
            )
    try:
        return rows_from_bits(bits, codes)
    except InputError as error:
        raise InputError(f"{source}: {error} (cells are counted from 0)", hint=error.hint) from error


def _cells_as_released(path: Path) -> TabularBenchmark:
    cells: dict[str, list[Record]] = {}
    for record in read_records(path):
        if record.epochs == FULL_EPOCHS:
            cells.setdefault(record.key, []).append(record)
    if not cells:
        raise InputError(f"{path} holds no training of {FULL_EPOCHS} epochs")
    kept, runs, source = list(cells.values()), _runs_of_each(cells, path), Source(str(path))
    ends = [[record.evaluations[-1] for record in records] for records in kept]
    columns: dict[str, Floats] = {}
    for run in range(runs):
        for name in ("validation", "test"):
            column = f"{name}_accuracy_run{run}"
            values = numbers([getattr(end[run], f"{name}_accuracy") for end in ends], column=column, source=source)
            columns[column] = accuracies(values, unit="fraction", column=column, source=source)
    columns["params"] = np.array([float(records[0].params) for records in kept])
    columns["train_seconds"] = np.array([np.mean([e.train_seconds for e in end]) for end in ends])
    bits, codes = zip(*(_bits_and_codes(records[0], source) for records in kept), strict=True)
    space = get_space("nasbench101")
    rows = _cells(np.array(bits, dtype=np.int64), codes, source)
    columns["flops"] = space.counts(rows, CIFAR10)[0].astype(np.float64)  # which the release does not hold
    judged_by = tuple(f"test_accuracy_run{run}" for run in range(runs))
    return TabularBenchmark(
        "nasbench101",
        space,
        table_of(space, rows, columns, source=source),
        tuple(Question(f"validation_accuracy_run{run}", judged_by) for run in range(runs)),
        {name: name for name in ("params", "flops", "train_seconds")},
        accuracy_floor=0.85,
    )


def _runs_of_each(cells: Mapping[str, Sequence[Record]], path: Path) -> int:
    """How many trainings each cell has.

    Raises:
        InputError: if not all have as many: the file ends between two of them.
    """
    runs = max(len(records) for records in cells.values())
    for key, records in cells.items():
        if len(records) < runs:
            raise InputError(
                f"{path}: the cell {key} has {len(records)} of {runs} trainings of {FULL_EPOCHS} epochs, and all cells "
                "must have as many",
                hint="the file seems to be cut: fetch it again",
            )
    return runs


def _bits_and_codes(record: Record, source: Source) -> tuple[int, str]:
    vertices = len(record.operations)
    unknown = set(record.operations[1:-1]) - set(OPERATION_CODES)
    if len(record.adjacency) != vertices**2 or unknown:
        raise InputError(
            f"{source}: the cell {record.key} must have {vertices} rows of {vertices} edges and known operations, got "
            f"{record.adjacency!r} and {','.join(record.operations)!r}"
        )
    bits = sum(
        1 << x + y * (y - 1) // 2
        for y in range(vertices)
        for x in range(y)
        if record.adjacency[x * vertices + y] == "1"
    )
    return bits, "".join(OPERATION_CODES[operation] for operation in record.operations[1:-1])


def read_nasbench_macro(path: Path, *, noisy: bool = False) -> TabularBenchmark:
    """NAS-Bench-Macro: its 3,969 distinct networks, copies merged.

    The table has no validation column. Without noise, the mean of the three runs is searched and judges. With noise,
    one run is searched, which rotates with the seed, and the mean of the other two judges.

    Raises:
        InputError: if the file cannot be read, or is wrong in a row and column that are named.
    """
    genes = [f"layer{i}" for i in range(8)]
    read, source = read_columns(path, [*genes, *MACRO_RUNS, "params", "flops"])
    columns = _checked(read, source, percent=MACRO_RUNS, cost=("params", "flops"))
    columns["test_acc_mean"] = np.mean([columns[name] for name in MACRO_RUNS], axis=0)
    space = get_space("nasbench_macro")
    questions = [Question("test_acc_mean", ("test_acc_mean",))]
    if noisy:
        questions = [Question(run, tuple(other for other in MACRO_RUNS if other != run)) for run in MACRO_RUNS]
    return TabularBenchmark(
        "nasbench_macro",
        space,
        table_of(space, _genes(read, genes, source), columns, source=source),
        tuple(questions),
        {"params": "params", "flops": "flops"},
        accuracy_floor=0.80,
    )


def _genes(read: Mapping[str, Column], names: Sequence[str], source: Source) -> Population:
    found = np.stack([numbers(read[name], column=name, source=source) for name in names], axis=1)
    row, column = np.nonzero(found != np.round(found))
    if len(row):
        raise InputError(
            f"{source}: {source.place(row[0])}, column {names[column[0]]!r} must be a whole number, got "
            f"{found[row[0], column[0]]:g}"
        )
    return found.astype(np.int64)


def _checked(
    read: Mapping[str, Column],
    source: Source,
    *,
    percent: Sequence[str] = (),
    fractions: Sequence[str] = (),
    cost: Sequence[str] = (),
) -> dict[str, Floats]:
    values = {name: numbers(read[name], column=name, source=source) for name in (*percent, *fractions, *cost)}
    for unit, names in (("percent", percent), ("fraction", fractions)):
        values |= {name: accuracies(values[name], unit=unit, column=name, source=source) for name in names}
    return values | {name: costs(values[name], column=name, source=source) for name in cost}


class Description(BaseModel, frozen=True, extra="forbid"):
    """A person's table, as they describe it in TOML.

    Attributes:
        space: its full name, or FILE.py:CLASS.
        file: CSV (first line: names of the columns) or parquet, beside the description.
        key: the column of architecture texts, SPACE:GENES or genes joined by hyphens; or
        genes: the columns of the genes, empty where a row is shorter.
        accuracy: the columns that are searched; of several, one, which rotates with the seed.
        reported: the columns whose mean judges the chosen network; by default, those of `accuracy`, and of several the
            ones that were not searched.
        unit: of all accuracies.
        costs: columns by names such as params, flops or latency_ms.
        accuracy_floor: of the hypervolume, as a fraction.
        resolution, channels, classes: of the task.
    """

    space: str
    file: str
    accuracy: str | tuple[str, ...]
    unit: Literal["percent", "fraction"]
    key: str | None = None
    genes: tuple[str, ...] | None = None
    reported: str | tuple[str, ...] = ()
    costs: dict[str, str] = {}
    accuracy_floor: float | None = None
    resolution: int = CIFAR10.resolution
    channels: int = CIFAR10.channels
    classes: int = CIFAR10.classes


def read_described(path: Path) -> TabularBenchmark:
    """The table that a TOML file describes, with the fields of `Description`.

    Raises:
        InputError: if the description is wrong, or its table in a row and column that are named.
    """
    described = _description(path)
    check_cost_names(described.costs)
    file = path.parent / described.file
    space = get_space(described.space)
    searched, reported = _tuple(described.accuracy), _tuple(described.reported)
    keys = described.genes if described.genes is not None else (described.key or "",)
    read, source = read_columns(file, [*keys, *searched, *reported, *described.costs.values()])
    named = tuple(dict.fromkeys([*searched, *reported]))
    percent, fractions = (named, ()) if described.unit == "percent" else ((), named)
    columns = _checked(read, source, percent=percent, fractions=fractions, cost=tuple(described.costs.values()))
    if described.genes is not None:
        rows = _genes_of_any_length(read, described.genes, space, source)
    else:
        rows = _rows_of_texts(read[keys[0]], keys[0], space, source)
    questions = []
    for name in searched:
        others = tuple(other for other in searched if other != name)
        questions.append(Question(name, reported or others or (name,)))
    return TabularBenchmark(
        path.stem,
        space,
        table_of(space, rows, columns, source=source),
        tuple(questions),
        described.costs,
        described.accuracy_floor,
        Task(described.resolution, described.classes, described.channels),
    )


def _description(path: Path) -> Description:
    try:
        described = Description.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} must be TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            hint=f"the fields are {', '.join(Description.model_fields)}",
        ) from error
    if (described.key is None) == (described.genes is None):
        raise InputError(f"{path} must name either `key`, a column of texts, or `genes`, columns of numbers")
    if not described.accuracy:
        raise InputError(f"{path} must name at least one column as `accuracy`")
    return described


def _tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _genes_of_any_length(
    read: Mapping[str, Column], names: Sequence[str], space: SearchSpace, source: Source
) -> Population:
    if len(names) != len(space.choices):
        raise InputError(f"{source}: {space.name} has {len(space.choices)} genes, but {len(names)} columns are named")
    filled = {name: [-1 if value in ("", None) else value for value in read[name]] for name in names}
    return _genes(filled, names, source)


def _rows_of_texts(texts: Column, column: str, space: SearchSpace, source: Source) -> Population:
    rows = np.empty((len(texts), len(space.choices)), dtype=np.int64)
    for row, text in enumerate(texts):
        try:
            rows[row] = space.row(space.parse(text if ":" in str(text) else f"{space.name}:{text}"))
        except InputError as error:
            raise InputError(f"{source}: {source.place(row)}, column {column!r}: {error}", hint=error.hint) from error
    return rows


def read_columns(path: Path, names: Sequence[str]) -> tuple[dict[str, Column], Source]:
    """Columns of a CSV or parquet file, and where their rows stand in it.

    Raises:
        InputError: if the file cannot be read, lacks a column, has no rows or a row of another length, or is parquet
            and pyarrow is not installed.
    """
    names = list(dict.fromkeys(names))
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"a table must be a .csv or .parquet file, got {path}")
    try:
        read, lines = _read_csv(path) if path.suffix == ".csv" else (_read_parquet(path, names), None)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    missing = [name for name in names if name not in read]
    if missing:
        raise InputError(
            f"{path} must have a column {missing[0]!r}, and does not",
            hint=f"it has {', '.join(read)}" if path.suffix == ".csv" else "",
        )
    if not len(read[names[0]]):
        raise InputError(f"{path} holds no rows")
    return {name: read[name] for name in names}, Source(str(path), lines)


def _read_csv(path: Path) -> tuple[dict[str, Column], list[int]]:
    """Its columns, and the line at which each row ends: blank lines are no rows."""
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin with a mark of the byte order
        reader = csv.reader(file)
        rows = [(reader.line_num, row) for row in reader if row]
    header = rows[0][1] if rows else []
    if len(set(header)) != len(header):
        raise InputError(f"{path} must name each column once, got {','.join(header)}")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise InputError(f"{path}: line {line} must have {len(header)} values, got {len(row)}")
    return {name: [row[i] for _, row in rows[1:]] for i, name in enumerate(header)}, [line for line, _ in rows[1:]]


def _read_parquet(path: Path, names: Sequence[str]) -> dict[str, Column]:
    try:
        import pyarrow  # noqa: PLC0415  an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise InputError(
            f"reading {path} needs pyarrow, which is not installed",
            hint="install hwnas[tables], or write the table as CSV",
        ) from error
    try:
        known = parquet.read_schema(path).names
        table = parquet.read_table(path, columns=[name for name in names if name in known])
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{path} is no parquet file: {error}") from error
    return {name: table[name].to_pylist() for name in table.column_names}
