"""Options of the runners: checked all at once, described by a JSON Schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from runners.placement import parse_cpuset
from tuner.errors import UsageError
from tuner.units import Dimension, parse_quantity


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} has no unit. Write for example 50 ms, 20 s or 5 min")
    try:
        seconds = parse_quantity(value, Dimension.TIME)
    except UsageError as error:
        raise ValueError(str(error).rstrip(".")) from error
    if seconds <= 0:
        raise ValueError(f"{value!r} is no waiting time. Write more than 0 s")
    return seconds


def _cores(value: object) -> object:
    try:
        return parse_cpuset(str(value))
    except UsageError as error:
        raise ValueError(str(error).rstrip(".")) from error


Seconds = Annotated[
    float,
    BeforeValidator(_seconds),
    WithJsonSchema({"type": "string", "examples": ["20 s", "5 min"]}),
]
"""A time with its unit, read into seconds."""

Cores = Annotated[
    tuple[int, ...],
    BeforeValidator(_cores),
    WithJsonSchema({"type": "string", "examples": ["0-1,4"]}),
]
"""A list of cores as Linux writes it."""


class RunnerOptions(BaseModel):
    """Options that every runner of a server has."""

    model_config = ConfigDict(extra="forbid", frozen=True, regex_engine="python-re")

    keep_logs: Path | None = Field(
        default=None,
        description="Folder in which the whole log of every trial's server is kept.",
        json_schema_extra={"format": "path"},
    )
    generator_cpuset: Cores | None = Field(
        default=None, description="Cores of the load generator; by default those that the server does not have."
    )
