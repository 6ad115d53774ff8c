"""The folder of a run: what lies where, whose it is, and that only one process writes to it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from latency.files import read_json, write_atomically
from spaces import InputError, SearchSpace, Task, get_space
from spaces.own_file import SpaceFile

from .config import RunConfig

try:
    import fcntl
except ImportError:  # not on Windows, where two processes on one run are not noticed
    fcntl = None  # type: ignore[assignment]

BEGUN = re.compile(r"\.config\.toml\.\d+\.part")  # left where a process was killed as it made the folder
MODEL_KEYS = ("arch", "accuracy_val", "accuracy_test", "latency_ms", "latency_ms_interval", "meets_limits")
LEAST_FREE_BYTES = 200 * 2**20  # models, weights, study and report of an ordinary run


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def space(self) -> Path:
        """The file of a person's own space, as it was when the run began."""
        return self.path / "space.py"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def table(self) -> Path:
        return self.path / "latency_table.json"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def study(self) -> Path:
        return self.path / "study.db"

    @property
    def trials(self) -> Path:
        return self.path / "trials.csv"

    @property
    def frontier(self) -> Path:
        return self.path / "frontier.csv"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def weights(self) -> Path:
        """Where trials leave their weights, if later ones start from them."""
        return self.path / "weights"

    def model(self, name: str) -> Path:
        return self.path / "models" / name

    def models(self) -> dict[str, dict[str, Any]]:
        """`model.json` of every final model, by name.

        Raises:
            InputError: if one is damaged.
        """
        return {
            file.parent.name: read_json(file, *MODEL_KEYS) for file in sorted(self.path.glob("models/*/model.json"))
        }

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """Raises InputError if there is no run."""
        run = cls(path)
        if not run.config.is_file():
            raise InputError(
                f"{path} must be the folder of a run, but it holds no config.toml",
                hint="see what `hwnas search` printed",
            )
        return run

    @classmethod
    def check(cls, path: Path, config: RunConfig) -> RunFolder:
        """The folder of this configuration's run, begun or still to make. Touches nothing.

        Raises:
            InputError: if there is something else, or a run with other settings.
        """
        run = cls(path)
        if run.config.is_file():
            differences = config.differences(RunConfig.from_toml(run.config))
            if differences:
                raise InputError(
                    f"{path} belongs to a run with other settings ({'; '.join(differences)})",
                    hint="give the same settings to go on, or another --run",
                )
        elif path.exists() and (not path.is_dir() or any(not BEGUN.fullmatch(inner.name) for inner in path.iterdir())):
            raise InputError(f"{path} exists and is not the folder of a run", hint="give another --run")
        return run

    @classmethod
    def prepare(cls, path: Path, config: RunConfig, *, needed_bytes: int = 0) -> RunFolder:
        """`check`, and make the folder of a new run.

        Args:
            needed_bytes: what will be stored besides models and records.
        Raises:
            InputError: as `check`, or if the folder cannot be written or the disk is too full.
        """
        run = cls.check(path, config)
        if run.config.is_file():
            return run
        made_here = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            free, needed, mebibyte = shutil.disk_usage(path).free, LEAST_FREE_BYTES + needed_bytes, 2**20
            if free < needed:
                if made_here:
                    path.rmdir()
                raise InputError(
                    f"a run needs {needed // mebibyte} MiB of disk; {path} has {free // mebibyte} MiB free",
                    hint="make room, or give a --run on another disk",
                )
            own = config.space_file()
            if own is not None:
                write_atomically(run.space, own.text.encode())
            write_atomically(run.config, config.to_toml().encode())
        except OSError as error:
            raise InputError(f"the run folder {path} must be writable: {error.strerror}") from None
        return run

    def clear(self, *, but: Path | None, with_folder: bool) -> None:
        """Remove what a run wrote that is not to be gone on with; what cannot be removed stays.

        Args:
            but: a file that stays, if it is one of the run's.
            with_folder: the folder too, where it was made for this run and nothing stays.
        """
        with suppress(OSError):  # why the run ended matters more than what is left of it
            for inner in self.path.iterdir():
                if inner.is_dir():
                    shutil.rmtree(inner)
                elif inner != but:
                    inner.unlink()
            if with_folder:
                self.path.rmdir()

    def keep_table(self) -> Path | None:
        """Copy the latency table beside the folder, before that is cleared.

        Returns:
            Where it stays, which is its own place where none can be written beside the folder; None if there is none.
        """
        if not self.table.exists():
            return None
        folder = self.path.absolute()
        beside = _free_path(folder.parent, f"{folder.name}-latency_table", ".json")
        try:
            write_atomically(beside, self.table.read_bytes())
        except OSError:
            return self.table
        return beside

    def open_space(self, config: RunConfig, task: Task) -> SearchSpace:
        """The space of the run; a person's own one as it was when the run began, whatever became of their file.

        Raises:
            InputError: if the run's copy of that file was changed.
        """
        if config.space_sha256 is None:
            return get_space(config.space)
        name = f"{self.space}:{config.space.rpartition(':')[2]}"
        if SpaceFile.read(name).sha256 != config.space_sha256:
            raise InputError(f"{self.space} must be as it was when the run began", hint="start a new run")
        return get_space(name, task)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the lock goes with the process, however it ends.

        What a killed process left half written is removed.

        Raises:
            InputError: if another process holds it.
        """
        with (self.path / ".lock").open("w") as file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    raise InputError(
                        f"another process is working on {self.path}", hint="wait for it, or end it"
                    ) from None
                self._clear_leftovers()
            yield

    def _clear_leftovers(self) -> None:
        """Only under the lock: elsewhere they may belong to a process that lives."""
        leftovers = [*self.path.glob(f".{self.data.name}-*"), *self.path.glob("models/*/.weights.pt-*")]
        leftovers += self.path.glob("weights/.*")
        for path in (*leftovers, *self.path.glob(".*.part"), *self.path.glob("models/*/.*.part")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def new_run_path(root: Path, data: str) -> Path:
    """A folder name that is free: the data set and the time."""
    return _free_path(root, f"{Path(data).name or 'run'}-{datetime.now():%Y%m%d-%H%M%S}")


def _free_path(folder: Path, stem: str, suffix: str = "") -> Path:
    path, n = folder / f"{stem}{suffix}", 1
    while path.exists():
        path, n = folder / f"{stem}-{n}{suffix}", n + 1
    return path
