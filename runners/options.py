"""Options of the runners: checked all at once, described by a JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from runners.placement import parse_cpuset
from tuner.errors import Fault, OptionsError, UsageError, did_you_mean
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

    keep_logs: str | None = Field(
        default=None,
        description="Folder in which the whole log of every trial's server is kept.",
        json_schema_extra={"format": "path"},
    )
    generator_cpuset: Cores | None = Field(
        default=None, description="Cores of the load generator; by default those that the server does not have."
    )


OptionsType = TypeVar("OptionsType", bound=RunnerOptions)


def checked_options(adapter: str, model: type[OptionsType], options: Mapping[str, object]) -> OptionsType:
    """The options as `model` reads them.

    Raises:
        OptionsError: all that is wrong with them.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        raise OptionsError(
            adapter, [_fault(model, one["loc"], one["type"], one["msg"], one["input"]) for one in error.errors()]
        ) from error


def _fault(model: type[RunnerOptions], place: tuple[int | str, ...], kind: str, message: str, value: object) -> Fault:
    where = ".".join(map(str, place))
    if kind == "extra_forbidden":
        return Fault(where=where, problem="is no option.", remedy=did_you_mean(where, model.model_fields))
    told = message.removeprefix("Value error, ")
    problem, _, remedy = told.partition(". ")
    seen = "" if repr(value) in told else f" (it is {value!r})"
    return Fault(where=where, problem=f"{problem}{seen}.", remedy=f"{remedy}." if remedy else "")
