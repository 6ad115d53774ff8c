"""The durable record of a run: an Optuna study in an SQLite file, which optuna-dashboard opens."""

from __future__ import annotations

import csv
import datetime
import json
import os
import sqlite3
import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from spaces import InputError, SearchSpace, parse_arch

from .trial import Trial

STUDY_NAME = "hwnas"
ACCURACY, COST = "accuracy_val", "latency_ms_estimated"


class Study:
    """Trials on disk, each written as soon as it ends; a half-written one is rolled back by the database."""

    def __init__(self, path: Path, space: SearchSpace, *, cost: str = COST) -> None:
        """Open the file, or make it.

        Raises:
            InputError: if the file is no such study or cannot be written.
        """
        optuna.logging.disable_default_handler()  # progress is the caller's to show
        self.path = path
        self.space = space
        self.cost = cost
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._study = optuna.create_study(
                    storage=_storage(path),
                    study_name=STUDY_NAME,
                    directions=["maximize", "minimize"],
                    load_if_exists=True,
                )
                self._study.set_metric_names([ACCURACY, cost])
        except Exception as error:  # sqlalchemy's and sqlite's errors have no common parent but this
            raise self._unusable(error) from error

    def add(self, trial: Trial) -> None:
        """Record one finished trial.

        Raises:
            InputError: if the file cannot be written, as on a full disk; the trials before it stay recorded.
        """
        row = self.space.row(trial.arch)
        distributions: dict[str, BaseDistribution] = {
            f"gene_{i:02d}": IntDistribution(-1, size - 1) for i, size in enumerate(self.space.choices)
        }
        complete = trial.state == "complete"
        objectives = [trial.values.get(ACCURACY), trial.values.get(self.cost)]
        frozen = create_trial(
            state=TrialState.COMPLETE if complete else TrialState.FAIL,
            values=[float(v) for v in objectives if v is not None] if complete else None,
            params={name: int(gene) for name, gene in zip(distributions, row, strict=True)},
            distributions=distributions,
            user_attrs={
                "number": trial.number,
                "arch": str(trial.arch),
                "epochs": trial.epochs,
                "seed": trial.seed,
                "values": dict(trial.values),
                "reason": trial.reason,
                "parent": trial.parent,
                "ended": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            },
        )
        try:
            self._study.add_trial(frozen)
        except Exception as error:
            raise self._unusable(error) from error

    def trials(self) -> list[Trial]:
        """All recorded trials, by number.

        Raises:
            InputError: if the file cannot be read.
        """
        try:
            recorded = self._study.get_trials(deepcopy=False)
        except Exception as error:
            raise self._unusable(error) from error
        return sorted(map(_trial, recorded), key=lambda trial: trial.number)

    def _unusable(self, error: Exception) -> InputError:
        cause: BaseException = error
        while cause.__cause__ is not None:  # optuna and sqlalchemy wrap what sqlite said
            cause = cause.__cause__
        reason = next(iter(str(cause).splitlines()), type(cause).__name__)
        return InputError(
            f"{self.path} must be a study that can be read and written: {reason}",
            hint="is the disk full, or the file damaged or in use? mend that and go on with the same command",
        )


def _storage(path: Path) -> optuna.storages.RDBStorage:
    # The connection is made from the path itself: in a URL, characters such as ? % { would mean something else.
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, check_same_thread=False)  # sqlalchemy's pool guards it

    return optuna.storages.RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect})


def _trial(frozen: FrozenTrial) -> Trial:
    recorded = frozen.user_attrs
    return Trial(
        number=recorded["number"],
        arch=parse_arch(recorded["arch"]),
        epochs=recorded["epochs"],
        seed=recorded["seed"],
        state="complete" if frozen.state == TrialState.COMPLETE else "failed",
        values=recorded["values"],
        reason=recorded["reason"],
        parent=recorded.get("parent"),  # records of earlier versions have none
    )


def write_csv(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write rows as CSV, atomically; the columns are the union of the rows' keys in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def trial_rows(trials: Sequence[Trial]) -> list[dict[str, object]]:
    """Trials as rows of `trials.csv`."""
    return [
        {
            "number": trial.number,
            "arch": str(trial.arch),
            "state": trial.state,
            "epochs": trial.epochs,
            "seed": trial.seed,
            "parent": "" if trial.parent is None else trial.parent,
            **trial.values,
            "reason": json.dumps(trial.reason) if trial.reason else "",
        }
        for trial in trials
    ]
