"""What the documents show a reader to type: every architecture, command and Python example works."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer.main

from pipelines.cli import app
from spaces import PUBLISHED, SPACES, get_space

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
TEXT = re.compile(rf"(?<![\w/-])(?:{'|'.join(SPACES)})(?:@[\w.,]*\w(?::\d+(?:-\d+)*)?|:\d+(?:-\d+)*)")
COMMAND = re.compile(r"(?:^ *|`)(hwnas (?:[^`\n]|`(?!\n))*?)(?:`|  +#.*$|$)", re.MULTILINE)


def commands() -> dict:
    """All commands by their words: `search`, `device show`."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {word}": each for word, each in inner.items()}
    return found


def name_of(command: str) -> str:
    """The words of the command that a line calls."""
    words = command.split()[1:3]
    return words[0] if words[0] in commands() else " ".join(words)


def epilogs() -> list[str]:
    return [command.epilog.removeprefix("Example: ") for command in commands().values()]


def shown() -> list[str]:
    """All commands with arguments that the documents and the help texts show."""
    found = [match.strip() for page in (*PAGES, *EXAMPLES) for match in COMMAND.findall(page.read_text())]
    return sorted({command for command in (*found, *epilogs()) if re.match("hwnas [a-z]+ .", command)})


def texts() -> list[str]:
    return sorted({text for page in PAGES for text in TEXT.findall(page.read_text())})


def test_the_documents_show_something_of_every_space_and_command():
    assert {re.split("[@:]", text)[0] for text in texts()} == set(SPACES)
    assert {name_of(command) for command in shown()} == set(commands())
    assert len(shown()) > 12


@pytest.mark.parametrize("text", texts())
def test_every_text_of_a_space_or_architecture_is_read(text):
    space = get_space(text.partition(":")[0])
    if ":" in text:
        assert str(space.parse(text)) == text


@pytest.mark.parametrize("command", shown())
def test_every_command_is_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    name = name_of(command)
    chosen, arguments = commands()[name], shlex.split(command)[1 + len(name.split()) :]
    given = chosen.make_context(name, arguments).params
    if name == "profile":
        known = [network for network in given["networks"] if not network.endswith(".onnx")]
        own = get_space(given["space"]) if given["space"] else None
        assert all(network in PUBLISHED or own.parse(network) for network in known)
    for space in [*(given.get("names") or ()), given.get("space")]:
        if space and not space.startswith("my_space.py"):  # stands for a reader's own file
            get_space(space)


def test_a_command_that_is_none_would_be_noticed():
    with pytest.raises(Exception, match="--limits"):
        typer.main.get_command(app).commands["search"].make_context("search", ["--data", "digits", "--limits", "x"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_python_of_the_guide_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.DOTALL)
    exec(compile(first, "guide.md", "exec"), {})
    mean, text = capsys.readouterr().out.split()
    assert float(mean) > 0
    assert get_space("proxyless@w0.5").parse(text)
    exec(compile(second, "guide.md", "exec"), {})
    for line in capsys.readouterr().out.splitlines():
        accuracy, text = line.split()
        assert float(accuracy) == np.mean(np.array(get_space("nasbench_macro").parse(text).genes) > 1)


@pytest.mark.parametrize("package", ["spaces", "latency", "hwnas", "pipelines"])
def test_the_page_of_the_house_names_every_room(package):
    page = (ROOT / "docs" / "architecture.md").read_text()
    for file in sorted((ROOT / package).rglob("*.py")):
        folder = file.relative_to(ROOT).parent.as_posix()
        named = f"`{folder}/{file.name}`" in page or f"`{file.name}`" in page or f"`{folder}/`" in page
        assert named or file.name == "__init__.py", file
