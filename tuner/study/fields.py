"""Kinds of values in a study file: quantities with units, choices, metrics; each with its JSON Schema."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from tuner.errors import UsageError, did_you_mean
from tuner.metric import Metric, MetricRef
from tuner.objective import Objective
from tuner.slo import Slo
from tuner.study.faults import shown
from tuner.units import Dimension, example, parse_quantity, unit_names

TOLD = "told"
"""Type of the pydantic errors whose text is already written for the user."""

QUANTITY = "x-quantity"
"""Key of JSON Schemas of quantities, with the unit that their defaults are in; `tuner.study.schema` reads it."""

_NUMBER = r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?"
_Choice = TypeVar("_Choice", bound=enum.Enum)


class Section(BaseModel):
    """A mapping of known keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def refused(message: str) -> PydanticCustomError:
    """The error of a validator, with a message as written in `tuner.errors`."""
    return PydanticCustomError(TOLD, "{message}", {"message": message})


def _quantity(dimension: Dimension) -> tuple[BeforeValidator, WithJsonSchema]:
    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise refused(f"{shown(value)} is no quantity. Write for example {example(dimension)}.")
        try:
            return parse_quantity(value, dimension)
        except UsageError as error:
            raise refused(str(error)) from None

    names = unit_names(dimension)
    form = rf"{_NUMBER}\s*{_either(unit for unit in names if unit)}{'?' if '' in names else ''}"
    if dollars := [unit[1:] for unit in names if unit.startswith("$")]:
        form = rf"({form}|\$\s*{_NUMBER}{_either(dollars)})"
    schema: dict[str, Any] = {
        QUANTITY: dimension.value,
        "type": ["string", "number"] if "" in names else "string",
        "pattern": rf"^\s*{form}\s*$",
        "description": f"A quantity with its unit: {', '.join(unit for unit in names if unit)}.",
        "examples": [example(dimension)],
    }
    return BeforeValidator(parse), WithJsonSchema(schema)


def _either(texts: Iterable[str]) -> str:
    return f"({'|'.join(re.escape(text) for text in sorted(texts, key=len, reverse=True))})"


_TIME = _quantity(Dimension.TIME)
_BYTES = _quantity(Dimension.BYTES)
_RATE = _quantity(Dimension.RATE)
_SHARE = _quantity(Dimension.SHARE)
_MONEY = _quantity(Dimension.MONEY)
_PRICE = _quantity(Dimension.PRICE)

Seconds = Annotated[float, Field(ge=0, le=1e7), *_TIME]
PositiveSeconds = Annotated[float, Field(gt=0, le=1e7), *_TIME]
Bytes = Annotated[float, Field(ge=1, le=2.0**60), *_BYTES]
RequestRate = Annotated[float, Field(gt=0, le=1e7), *_RATE]
Share = Annotated[float, Field(ge=0, le=1), *_SHARE]
Money = Annotated[float, Field(gt=0, le=1e12), *_MONEY]
Price = Annotated[float, Field(ge=0, le=1e9), *_PRICE]
Count = Annotated[int, Field(ge=1, le=10_000_000)]


def _matching(pattern: str, what: str, remedy: str, *, numbers: bool = False) -> tuple[BeforeValidator, WithJsonSchema]:
    """Texts of one form; with `numbers`, also a whole number that YAML made of one."""
    expression = re.compile(pattern)

    def match(value: object) -> str:
        text = str(value) if numbers and isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(text, str) and expression.fullmatch(text):
            return text
        raise refused(f"{shown(value)} is no {what}. {remedy}")

    kind = ["string", "integer"] if numbers else "string"
    return BeforeValidator(match), WithJsonSchema({"type": kind, "pattern": f"^{pattern}$"})


Name = Annotated[
    str,
    *_matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "name", "Write up to 64 letters, digits, dots, dashes and underscores."
    ),
]
Never = Annotated[str, *_matching("never", "way to stop", "Write never, or for example {after: 10, gain: 5%}.")]
CpuSet = Annotated[
    str,
    *_matching(r"\d+(-\d+)?(,\d+(-\d+)?)*", "list of cores", "Write for example 0-3 or 0,2.", numbers=True),
]
GpuId = Annotated[
    str, *_matching(r"[A-Za-z0-9][A-Za-z0-9-]*", "id of a GPU", "Write for example 0 or GPU-3a…", numbers=True)
]
UrlPath = Annotated[str, *_matching(r"/[^\s\x00-\x1f]*", "path on a server", "Begin it with a slash: /predict.")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]


def _scalar(value: object) -> object:
    if isinstance(value, bool | int | float | str):
        return value
    raise refused(f"{shown(value)} is no value of a parameter. Write a number, a text, true or false.")


Scalar = Annotated[Any, BeforeValidator(_scalar), WithJsonSchema({"type": ["boolean", "number", "string"]})]
"""What a parameter can be set to."""


def choice(kind: str, options: type[_Choice]) -> BeforeValidator:
    """Reads a member of an enum by its value, with its neighbours in the message."""
    known = [str(option.value) for option in options]

    def parse(value: object) -> _Choice:
        try:
            return options(value)
        except ValueError:
            raise refused(f"{shown(value)} is no {kind}. {did_you_mean(str(value), known)}") from None

    return BeforeValidator(parse)


_Parsed = TypeVar("_Parsed")


def _text(kind: str, hint: str, parse: Callable[[str], _Parsed]) -> BeforeValidator:
    def read(value: object) -> _Parsed:
        if not isinstance(value, str):
            raise refused(f"{shown(value)} is no {kind}. Write for example {hint}.")
        try:
            return parse(value)
        except UsageError as error:
            raise refused(str(error)) from None

    return BeforeValidator(read)


def _objective(text: str) -> Objective:
    return Objective(MetricRef.parse(text))


_METRIC_NAMES = ", ".join(metric.value for metric in Metric)

SloLine = Annotated[
    Slo,
    _text("bound", "p99(latency) <= 50 ms", Slo.parse),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^.+(<=|>=|≤|≥).+$",
            "description": f"A bound on a metric. Metrics: {_METRIC_NAMES}; "
            "latency, ttft, tpot and itl need a statistic: mean, p50, p99, p99.9.",
            "examples": ["p99(latency) <= 50 ms", "p95(ttft) <= 300 ms", "error_rate <= 0.1%"],
        }
    ),
]
ObjectiveName = Annotated[
    Objective,
    _text("objective", "cost_per_million_requests", _objective),
    WithJsonSchema(
        {
            "type": "string",
            "anyOf": [
                {"enum": [metric.value for metric in Metric if not metric.is_population]},
                {"pattern": r"^\s*(mean|p\d{1,2}(\.\d+)?)\s*\(\s*(latency|ttft|tpot|itl)\s*\)\s*$"},
            ],
            "description": f"A metric to make as good as possible: {_METRIC_NAMES}.",
            "examples": ["cost_per_million_requests", "throughput", "p99(latency)"],
        }
    ),
]
