"""Mistakes of users: one line that says what must hold, exit code 2, never a traceback, nothing touched."""

import json
import os
import subprocess
import sys

import pytest
import typer
from commands import run_here

from hwnas.execution import WorkerDiedError
from latency.rounds import in_new_process
from pipelines.cli import _guarded

MISTAKES = [
    (["--data", "digits", "--trials", "4", "--space", "mobile"], "there is no space 'mobile'"),
    (["--data", "digits", "--trials", "4", "--space", "proxyless@half"], "a skeleton of proxyless is"),
    (["--data", "digits", "--trials", "4", "--limit", "latency<3"], "latency<3"),
    (["--data", "digits", "--trials", "4", "--limit", "speed<=3"], "speed"),
    (["--data", "digits"], "exactly one of --budget and --trials"),
    (["--data", "digits", "--budget", "soon"], "a budget is a time"),
    (["--data", "no/such/folder", "--trials", "4"], "no/such/folder"),
    (["--data", "cifar10", "--trials", "4"], "cifar10"),
    (["--data", "digits", "--trials", "4", "--device", "cuda:7"], "cuda:7"),
    (["--data", "digits", "--trials", "4", "--device", "toaster"], "toaster"),
    (["--data", "digits", "--trials", "4", "--resolution", "0"], "resolution"),
    (["--data", "digits", "--trials", "4", "--run", "mine"], "not the folder of a run"),
    (["--data", "digits", "--trials", "4", "--seed", "-3"], "--seed"),
    (["--trials", "4"], "--data"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[m[1][:24] for m in MISTAKES])
def test_a_mistake_is_one_line(tmp_path, arguments, message):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = run_here("search", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize("as_json", [False, True])
def test_a_process_ends_with_what_its_command_says(tmp_path, as_json):
    asked = ["search", "--data", "digits", "--trials", "4", "--limit", "latency<3", *["--json"][: int(as_json)]]
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", *asked]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    if as_json:
        assert set(json.loads(done.stdout)) == {"error", "hint"}
    else:
        assert len(done.stderr.splitlines()) == 1
        assert "latency<3" in done.stderr


@pytest.mark.parametrize("command", ["search", "frontier", "deploy", "profile", "device show", "device kit"])
def test_every_command_has_help_with_an_example_and_needs_no_torch_for_it(tmp_path, command):
    program = (
        "import sys\nfrom pipelines.cli import app\n"
        f"try: app([*'{command}'.split(), '--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'optuna' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"Example: hwnas {command}" in " ".join(done.stdout.split())


def end_at_once():
    os._exit(9)


def run_in_worker():
    raise WorkerDiedError("the worker process died (killed, out of memory, or crashed)")


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (run_in_worker, "the worker process died (killed, out of memory, or crashed)"),
        (lambda: in_new_process(end_at_once), "A process in the process pool was terminated abruptly"),
    ],
)
def test_a_process_that_was_killed_is_no_fault_of_the_command(capsys, work, says):
    with pytest.raises(typer.Exit) as ended:
        _guarded(False, work)
    assert ended.value.exit_code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hwnas: {says}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profile", "nothing"], "a network is a published name"),
        (["profile", "nasnet-b@4x1536"], "the genes of nasnet-b@4x1536 were never published"),
        (["profile", "pnas:0-2-0-0"], "gene 1 (second input of block 1, cell) must be an earlier state"),
        (["profile", "missing.onnx"], "missing.onnx must be an ONNX file, but there is no such file"),
        (["profile", "proxyless:0-6-6-6-6-0-0-0-0-0-0-0-0-0-0-0-0-0-0-0-0-0"], "gene 1 must not be 6"),
        (["deploy", "nowhere"], "must be the folder of a run"),
    ],
)
def test_other_commands_say_what_must_hold_too(tmp_path, arguments, message):
    done = run_here(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
