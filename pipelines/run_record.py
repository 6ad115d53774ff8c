"""How far a run has come: what `plan.json` holds, so that a run can be gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from latency.files import read_json, write_json
from spaces import InputError

from .plan import Plan, TrainingSpeed


class RecordedFinalist(BaseModel, frozen=True, extra="allow"):
    """What is known of a finalist before its final training; its `model.json` has the same names.

    More stands beside what is named here: how it was measured.
    """

    name: str
    arch: str
    trial: NonNegativeInt
    accuracy_val_search: NonNegativeFloat
    latency_ms_estimated: PositiveFloat
    latency_ms_estimated_interval: tuple[PositiveFloat, PositiveFloat]
    latency_ms: PositiveFloat | None  # None, like the next two, where the run is for another device
    latency_ms_interval: tuple[PositiveFloat, PositiveFloat] | None
    latency_steady: bool | None
    latency_of: str
    device: str
    params: PositiveFloat
    flops: PositiveFloat
    intensity: PositiveFloat
    weight_bytes: PositiveFloat
    peak_memory_bytes: PositiveFloat
    kept_share: NonNegativeFloat
    meets_limits: bool | None


class RunRecord(BaseModel, frozen=True, extra="forbid"):
    """The plan, and what became of it.

    Attributes:
        plan: as it stands; what is left of a budget changes it.
        workers: trainings at once when the run began; what is proposed when depends on it, on other cores too.
        elapsed_s: spent so far, before a break too.
        speed: of training, where there is a budget.
        chosen_planned: whether `speed` and the second part of the plan are as the first trainings showed them.
        n_first: trials that the strategy drew before it used what it learned, where it tells.
        predictor: how good the predictor of the picks was (`judgement.record_of`).
        remarks: what the strategy had to say.
        finalists: by name, once they are chosen.
        failed_finalists: the errors of their final trainings, by name.
        ended: whether the run has come to its end once.
    """

    plan: Plan
    workers: PositiveInt
    elapsed_s: NonNegativeFloat = 0.0
    speed: TrainingSpeed | None = None
    chosen_planned: bool = False
    n_first: NonNegativeInt | None = None
    predictor: dict[str, Any] | None = None
    remarks: tuple[str, ...] = ()
    finalists: dict[str, RecordedFinalist] | None = None
    failed_finalists: dict[str, str] = {}
    ended: bool = False

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Of a run.

        Raises:
            InputError: if the file does not hold one.
        """
        try:
            return cls.model_validate(read_json(path, "plan"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(
                f"{path} must hold what this run recorded, but {where} does not: {first['msg']}",
                hint="restore it, or start a new run",
            ) from None

    def write(self, path: Path, **changed: Any) -> None:
        """With these fields changed; the record itself stays as it was."""
        write_json(path, self.model_validate({**dict(self), **changed}).model_dump())
