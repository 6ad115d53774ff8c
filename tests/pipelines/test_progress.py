"""What a person at a terminal reads is what was said, whatever brackets it holds."""

import io

import pytest
from rich.console import Console

from pipelines.progress import TerminalListener

TEXTS = ["set[/old]/x", "a[b]c", "[bold]x", "C:\\\\dir\\\\", "runs/:smile:"]


@pytest.mark.parametrize("text", TEXTS)
def test_lines_are_said_as_they_are(text):
    out = io.StringIO()
    TerminalListener(Console(file=out, width=40)).say(f"data {text}: {'x' * 60}")
    assert out.getvalue().endswith(f" s  data {text}: {'x' * 60}\n")


@pytest.mark.parametrize("text", TEXTS)
def test_bars_show_titles_and_notes_as_they_are(text):
    out = io.StringIO()
    listener = TerminalListener(Console(file=out, width=160, force_terminal=True, color_system=None))
    with listener.steps(f"title {text}", 2) as steps:
        steps.advance(f"note {text}")
    assert f"title {text}" in out.getvalue()
    assert f"note {text}" in out.getvalue()
