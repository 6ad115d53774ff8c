"""A person's own space, from a Python file: loaded, checked, and carried to worker processes."""

from __future__ import annotations

import copyreg
import hashlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import numpy as np

from .errors import InputError
from .layers import Layer
from .space import KEY_TASK, SearchSpace, Task

T = TypeVar("T")

CHECKED_ROWS = 8
CHECK_TASK = Task(KEY_TASK.resolution, classes=7)  # no usual number of classes, so that a fixed one is noticed
_FILE_AND_CLASS = re.compile(r"(?P<file>.+\.py)(?::(?P<name>[^:/\\]*))?")
_SPACE_NAME = re.compile(r"[^\s:]+")


@dataclass(frozen=True, slots=True)
class SpaceFile:
    """A class in a Python file, as `--space FILE.py:CLASS` names it, and the text of that file when it was read.

    The text travels with it, so that a worker process runs what its parent ran, whatever became of the file since.
    """

    path: Path  # absolute
    class_name: str
    text: str  # as it was read, a byte order mark included

    @classmethod
    def is_meant_by(cls, name: str) -> bool:
        """Whether the name of a space is that of a file."""
        return _FILE_AND_CLASS.fullmatch(name) is not None

    @classmethod
    def read(cls, name: str) -> SpaceFile:
        """Read `FILE.py:CLASS`; a relative path counts from the current folder, `~` is the home folder.

        Raises:
            InputError: if the class is not named, or the file cannot be read.
        """
        path, class_name = _split(name)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise InputError(f"the space file {path} cannot be read: {reason}", hint="see --space") from None
        return cls(path, class_name, text)

    @property
    def name(self) -> str:
        return f"{self.path}:{self.class_name}"

    @property
    def sha256(self) -> str:
        """Of the text, in hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def open(self) -> SearchSpace:
        """Run the file and make its space, without looking at what the space gives.

        Raises:
            InputError: with the line, if the file fails; or if the class is missing, is no space or cannot be made.
        """
        module = _run(self)
        found = getattr(module, self.class_name, None)
        if found is None:
            theirs = [
                name for name, value in vars(module).items() if _is_space(value) and value.__module__ == module.__name__
            ]
            raise InputError(
                f"{self.path} must hold the class {self.class_name!r}, and does not",
                hint=f"its spaces: {', '.join(theirs) or 'none'}",
            )
        if not _is_space(found):
            raise InputError(f"{self.name} must be a subclass of spaces.SearchSpace, and is not")
        if inspect.isabstract(found):
            raise InputError(
                f"{self.name} must give name, choices, is_valid and layers; "
                f"missing: {', '.join(sorted(found.__abstractmethods__))}"
            )
        if found.__module__ != module.__name__:
            raise InputError(
                f"{self.name} must be written in that file, but is {found.__name__} of {found.__module__}",
                hint=f"derive a class of your own from it: class My{found.__name__}({self.class_name}): ...",
            )
        # Pickled as its file: the module that the class stands in exists in no other process.
        copyreg.pickle(found, lambda _: (SpaceFile.open, (self,)))
        space: SearchSpace = _ours(self, "it must be made without arguments", found)
        return space

    def opened(self, task: Task = CHECK_TASK) -> SearchSpace:
        """`open`, and look at what the space gives, on a few random rows.

        Args:
            task: what the layer records are asked for.
        Raises:
            InputError: as `open`, or naming what is wrong, with the line where the file fails.
        """
        space = self.open()
        self._check_name_and_choices(space)
        self._check_is_valid(space)
        rows = _ours(self, "sample()", lambda: space.sample(CHECKED_ROWS, np.random.default_rng(0)))
        for row in rows:
            arch = space.arch(row)
            network = _ours(self, f"layers() of {arch}", lambda arch=arch: space.layers(arch, task))  # type: ignore[misc]
            self._check_network(str(arch), network, task)
        return space

    def _check_name_and_choices(self, space: SearchSpace) -> None:
        name = _ours(self, "name", lambda: space.name)
        if not isinstance(name, str) or not _SPACE_NAME.fullmatch(name):
            raise InputError(f"{self.name}: name must be a text without colon and blanks, got {name!r}")
        choices = _ours(self, "choices", lambda: space.choices)
        whole = isinstance(choices, tuple) and all(isinstance(size, int) and size >= 1 for size in choices)
        if not whole or max(choices, default=1) < 2:
            raise InputError(
                f"{self.name}: choices must be a tuple of whole numbers from 1, one at least 2; got {choices!r}",
                hint="choices[i] is the number of values of gene i, such as (3, 3, 2)",
            )

    def _check_is_valid(self, space: SearchSpace) -> None:
        genes = len(space.choices)
        outside = np.zeros((genes + 1, genes), dtype=np.int64)
        outside[np.arange(genes), np.arange(genes)] = space.choices
        outside[genes] = -1
        valid = _ours(self, "is_valid() of rows out of range", lambda: space.is_valid(outside))
        if not isinstance(valid, np.ndarray) or valid.shape != (genes + 1,) or valid.dtype != np.bool_:
            got = f"{valid.dtype} {valid.shape}" if isinstance(valid, np.ndarray) else type(valid).__name__
            raise InputError(
                f"{self.name}: is_valid() of {genes + 1} rows must be an array of as many booleans, got {got}"
            )
        if valid.any():
            row = outside[int(np.flatnonzero(valid)[0])]
            raise InputError(
                f"{self.name}: is_valid() must be false for {row.tolist()}, where choices are {space.choices}",
                hint="begin with self.in_range(population)",
            )

    def _check_network(self, arch: str, network: object, task: Task) -> None:
        if not isinstance(network, tuple) or not network or not all(isinstance(layer, Layer) for layer in network):
            raise InputError(
                f"{self.name}: layers() of {arch} must be a tuple of layer records, got {type(network).__name__}",
                hint="end with return net.network",
            )
        if network[0].op != "input" or network[0].shape != task.input_shape:
            raise InputError(
                f"{self.name}: layers() of {arch} must begin with the input {task.input_shape}, but begins with "
                f"{network[0].op} {network[0].shape}",
                hint="begin with net = NetworkBuilder(task.input_shape)",
            )
        if network[-1].shape != (task.classes,):
            raise InputError(
                f"{self.name}: layers() of {arch} must end with ({task.classes},) class scores, but ends with "
                f"{network[-1].op} {network[-1].shape}",
                hint="end with net.classifier(x, classes=task.classes)",
            )


def full_name(name: str) -> str:
    """The name of a space that means the same from every folder: the path of a file becomes absolute.

    Raises:
        InputError: if it is a file without a class.
    """
    if not SpaceFile.is_meant_by(name):
        return name
    path, class_name = _split(name)
    return f"{path}:{class_name}"


def _split(name: str) -> tuple[Path, str]:
    match = _FILE_AND_CLASS.fullmatch(name)
    if match is None or not (match["name"] or "").isidentifier():
        raise InputError(
            f"a space of your own is given as FILE.py:CLASS, got {name!r}", hint="for example my_space.py:MySpace"
        )
    # Not resolve(): a link keeps its own name, as the person gave it.
    return Path(os.path.abspath(os.path.expanduser(match["file"]))), match["name"]


def _is_space(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, SearchSpace) and value is not SearchSpace


def _run(file: SpaceFile) -> ModuleType:
    """The file's module, run once in a process; a changed file is another module."""
    name = f"space_file_{hashlib.sha256(f'{file.path}{file.text}'.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(file.path)
    code = file.text.removeprefix("\ufeff")  # the byte order mark, which Python takes off files but not off texts
    sys.modules[name] = module  # before it runs: dataclasses look for it there
    try:
        _ours(
            file,
            "it must run as Python",
            lambda: exec(compile(code, str(file.path), "exec", dont_inherit=True), module.__dict__),
        )
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _ours(file: SpaceFile, what: str, work: Callable[[], T]) -> T:
    """Do what the file's own code does; its errors become one line that says where in the file they arose."""
    try:
        return work()
    except (Exception, SystemExit) as error:
        if isinstance(error, SyntaxError) and error.filename == str(file.path):
            line, reason = error.lineno, f"{error.msg}"
        else:
            lines = [
                frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file.path)
            ]
            line = lines[-1] if lines else None
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        where = f"{file.path}, line {line}" if line else file.name
        hint = error.hint if isinstance(error, InputError) else ""
        raise InputError(f"{where}: {what}: {reason}", hint=hint) from error
