"""Options of the runners: checked all at once, described by a JSON Schema, and the runner that has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from runners.load.driver import SubprocessLoadDriver
from runners.placement import parse_cpuset
from tuner.adapter_options import option_faults
from tuner.errors import OptionsError, UsageError
from tuner.ports import LoadDriver
from tuner.trial import Attempt
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


OptionsType = TypeVar("OptionsType", bound=RunnerOptions)


class ConfiguredRunner(Generic[OptionsType]):
    """What every runner of a server does with its options.

    Attributes:
        name: the runner's.
        options_type: its options.
    """

    name: ClassVar[str]
    options_type: type[OptionsType]

    def __init__(self, options: Mapping[str, object], driver: LoadDriver | None = None) -> None:
        """Checks the options.

        Args:
            options: as `options_schema` describes them.
            driver: makes the load; the project's own by default.

        Raises:
            OptionsError: all that is wrong with them.
        """
        try:
            self.options = self.options_type.model_validate(dict(options))
        except ValidationError as error:
            raise OptionsError(self.name, option_faults(self.options_type.model_fields, error.errors())) from error
        self.driver: LoadDriver = SubprocessLoadDriver() if driver is None else driver

    @classmethod
    def options_schema(cls) -> Mapping[str, object]:
        """See `tuner.ports.Runner.options_schema`."""
        return cls.options_type.model_json_schema()

    def kept_log(self, attempt: Attempt) -> Path | None:
        """Where the whole log of an attempt's server is kept; `None` where it is not."""
        keep = self.options.keep_logs
        return None if keep is None else keep / f"trial-{attempt.trial}-{attempt.token}.log"
