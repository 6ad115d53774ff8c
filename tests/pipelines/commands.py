"""Commands as a person gives them, in this process: importing torch takes longer than most of them."""

import contextlib
import io
from types import SimpleNamespace

import pytest

from pipelines.cli import app


def run_here(*arguments, cwd, home=None):
    """What the command printed, and the code that it ended with."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.chdir(cwd):
        if home is not None:
            monkeypatch.setenv("HWNAS_HOME", str(home))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                app(list(map(str, arguments)))
            except SystemExit as ended:
                code = ended.code or 0
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def hwnas(*arguments, cwd, home, code=0):
    """Its two outputs, of a command that ends as it should, without a traceback."""
    done = run_here(*arguments, cwd=cwd, home=home)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr
