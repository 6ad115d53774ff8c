"""What a person asks of a run: validated where text enters, stored in the run folder, compared on going on."""

from __future__ import annotations

import hashlib
import math
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, Field, PositiveInt, ValidationError

from hwnas.objectives import Limit
from hwnas.soft_limits import SoftLimit
from spaces import InputError
from spaces.own_file import SpaceFile, full_name

from .strategies import DEFAULT, EDITS, SOFT, STRATEGIES

MOST_SEED = 2**32 - 1  # what numpy's and scikit-learn's older generators take
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

CONTENTS = {
    "space_sha256": "the space file has other contents",
    "device_table_sha256": "the device table has other contents",
}

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


class RunConfig(BaseModel, frozen=True, extra="forbid"):
    """Everything that decides a run, apart from what is measured while it runs."""

    job: Literal["search", "frontier"]
    data: str
    data_root: str
    download: bool = False
    resolution: PositiveInt | None = None
    space: str  # of a person's own space, the absolute path and the class
    space_sha256: str | None = None  # of that file's text
    limits: tuple[str, ...] = ()
    soft_limits: tuple[str, ...] = ()
    strategy: str = DEFAULT
    warm_start: bool = False
    device_table: str | None = None  # the absolute path of the latency table of the device that is searched for
    device_table_sha256: str | None = None
    budget_s: Positive | None = None
    trials: Annotated[int, Field(ge=2)] | None = None
    epochs: Positive | None = None
    final_epochs: Positive | None = None
    finalists: PositiveInt | None = None
    validation_share: Annotated[float, Field(gt=0, lt=0.9, allow_inf_nan=False)] = 0.15
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 0
    device: str = "auto"
    workers: PositiveInt | None = None

    @classmethod
    def of(cls, **fields: Any) -> RunConfig:
        """Validate fields by name; a limit is normalised to its plain form, the path of a space to an absolute one.

        Raises:
            InputError: naming the first field that does not hold, and why.
        """
        if isinstance(fields.get("space"), str) and SpaceFile.is_meant_by(fields["space"]):
            fields["space"] = full_name(fields["space"])
            if fields.get("space_sha256") is None:
                fields["space_sha256"] = SpaceFile.read(fields["space"]).sha256
        if fields.get("device_table") is not None and fields.get("device_table_sha256") is None:
            path = Path(fields["device_table"]).absolute()
            try:
                fields["device_table_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                raise InputError(f"--device-table {path} cannot be read: {error.strerror}") from None
            fields["device_table"] = str(path)
        fields["limits"] = tuple(str(Limit.parse(text)) for text in fields.get("limits", ()))
        fields["soft_limits"] = tuple(str(SoftLimit.parse(text)) for text in fields.get("soft_limits", ()))
        try:
            config = cls(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            field = "--" + "-".join(str(part) for part in first["loc"]).replace("_", "-")
            raise InputError(f"{field}: {first['msg'].lower()}, got {first['input']!r}") from None
        config._check_strategy()
        if (config.budget_s is None) == (config.trials is None):
            raise InputError(
                "exactly one of --budget and --trials says how long to search",
                hint="for example --budget 3m, or --trials 50",
            )
        return config

    def _check_strategy(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InputError(
                f"--strategy must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}",
                hint=f"without it, {DEFAULT} searches",
            )
        if self.soft_limits and self.strategy not in SOFT:
            raise InputError(
                f"--soft-limit needs a strategy that weighs it ({', '.join(SOFT)}), got {self.strategy}",
                hint="give --limit instead, which every strategy keeps",
            )
        if self.warm_start and self.strategy not in EDITS:
            raise InputError(
                f"--warm-start needs a strategy that makes networks from trained ones ({', '.join(EDITS)}), "
                f"got {self.strategy}",
                hint="leave it out",
            )

    @property
    def parsed_limits(self) -> tuple[Limit, ...]:
        return tuple(Limit.parse(text) for text in self.limits)

    @property
    def parsed_soft_limits(self) -> tuple[SoftLimit, ...]:
        return tuple(SoftLimit.parse(text) for text in self.soft_limits)

    def space_file(self) -> SpaceFile | None:
        """The file of a person's own space, or None where the space is one of this project.

        Raises:
            InputError: if it is no longer what it was when this configuration was made.
        """
        if self.space_sha256 is None:
            return None
        file = SpaceFile.read(self.space)
        if file.sha256 != self.space_sha256:
            raise InputError(f"{file.path} was changed while the command began", hint="give the command again")
        return file

    def to_toml(self) -> str:
        return tomli_w.dumps({k: v for k, v in self.model_dump(mode="json").items() if v is not None})

    @classmethod
    def from_toml(cls, path: Path) -> RunConfig:
        """Raises InputError if the file is no such configuration."""
        try:
            return cls.of(**tomllib.loads(path.read_text()))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} must be TOML: {error}") from None

    def differences(self, other: RunConfig) -> list[str]:
        """The fields that differ, as `name: ours != theirs`; a run may go on with another number of workers."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        return [
            CONTENTS.get(name, f"{name}: {mine[name]!r} != {theirs[name]!r}")
            for name in mine
            if name != "workers" and mine[name] != theirs[name]
        ]


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `3m`, `1h30m`.

    Raises:
        InputError: if the text has no such form or is zero.
    """
    match = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if not 0 < total < math.inf:
        raise InputError(f"a budget is a time such as 90s, 3m or 1h30m, got {text!r}")
    return total


def default_space(resolution: int) -> str:
    """The skeleton for a space that was not named: narrower for smaller images."""
    if resolution < 24:
        return "proxyless@w0.25"
    return "proxyless@w0.5" if resolution < 128 else "proxyless"


def join_limits(limits: Sequence[str]) -> str:
    return " and ".join(limits) if limits else "no limits"
