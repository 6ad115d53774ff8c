"""Who is told how a run goes on: nobody, or a person at a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class Listener:
    """Hears what happens and says nothing; subclassed by whoever shows it."""

    def say(self, text: str) -> None:
        """One line."""

    @contextmanager
    def steps(self, title: str, total: int) -> Iterator[Steps]:
        """A stretch of work of `total` equal steps."""
        yield Steps()


class Steps:
    """Counts the steps of one stretch of work."""

    def advance(self, note: str = "") -> None:
        """One step is done; `note` is the best news of it."""


class TerminalListener(Listener):
    """Lines and a progress bar with the time left, on stderr."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        elapsed = (f"{time.monotonic() - self.started:6.0f} s", "dim")
        self.console.print(Text.assemble(elapsed, "  ", text), soft_wrap=True)  # no markup: texts hold paths

    @contextmanager
    def steps(self, title: str, total: int) -> Iterator[Steps]:
        columns = (
            TextColumn("          {task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=total, note="")

            class Bar(Steps):
                def advance(self, note: str = "") -> None:
                    progress.advance(task)
                    if note:
                        progress.update(task, note=note)

            yield Bar()
