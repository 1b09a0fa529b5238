"""What the `engine` section of a study may say beside `name: command`: its form, see `docs/command.md`."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from search_spaces.environment import VARIABLE
from tuner.errors import Fault, UsageError, did_you_mean
from tuner.parameter import Scale, Value
from tuner.units import Dimension, parse_quantity

_MOST_VALUES: Final = 1000


def _quantity(dimension: Dimension, example: str) -> BeforeValidator:
    def read(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(f"it has no unit; write for example {example}")
        try:
            number = parse_quantity(value, dimension)
        except UsageError as error:
            raise ValueError(str(error).rstrip(".")) from error
        if not number > 0:
            raise ValueError(f"it must be above 0; write for example {example}")
        return number

    return BeforeValidator(read)


def _given(value: object) -> object:
    """What a program can be given: no system takes a NUL in arguments and variables."""
    if isinstance(value, str) and "\0" in value:
        raise ValueError("it contains a NUL, which no program can be given; remove it")
    return value


def _one_or_more(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


def _words(value: object) -> object:
    """A command as its words; a text is split as a shell would, but no shell ever sees it."""
    if isinstance(value, list | tuple):
        return [_given(each) for each in value]
    if not isinstance(value, str):
        return value
    _given(value)
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"it cannot be split into words ({error}); close the quotes, or write a list") from error


Seconds = Annotated[float, _quantity(Dimension.TIME, "60 s"), WithJsonSchema({"type": "string", "examples": ["60 s"]})]
Bytes = Annotated[float, _quantity(Dimension.BYTES, "1 GiB"), WithJsonSchema({"type": "string", "examples": ["1 GiB"]})]
Word = Annotated[str, BeforeValidator(_given)]
Scalar = bool | int | float | str
Scalars = Annotated[
    tuple[Scalar, ...],
    BeforeValidator(_one_or_more),
    Field(min_length=1, max_length=_MOST_VALUES),
    WithJsonSchema({"anyOf": [{"type": ["boolean", "number", "string"]}, {"type": "array"}]}),
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RangeSection(_Section):
    """Numbers from `low` to `high`, by a step or by a factor."""

    low: int | float = Field(description="Smallest value.", examples=[1])
    high: int | float = Field(description="Largest value.", examples=[16])
    step: Annotated[int | float, Field(gt=0)] | None = Field(
        default=None, description="Every low + n step.", examples=[1]
    )
    factor: Annotated[int | float, Field(gt=1)] | None = Field(
        default=None, description="Every low x factor^n.", examples=[2]
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> RangeSection:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"the range from {self.low} to {self.high} is empty; write low <= high")
        if (self.step is None) == (self.factor is None):
            raise ValueError("the range needs a step or a factor, and not both; write step: 1, or factor: 2")
        if self.factor is not None and self.low <= 0:
            raise ValueError(f"a range by factors cannot start at {self.low}; write low above 0, or a step")
        steps = (self.high - self.low) / self.step if self.step else math.log(self.high / self.low, self.factor or 2)
        if steps >= _MOST_VALUES:
            raise ValueError(f"the range has more than {_MOST_VALUES} values; write a larger step")
        return self

    @property
    def values(self) -> tuple[int | float, ...]:
        """The numbers, ascending; whole where low and step (or factor) are."""
        values: list[int | float] = []
        position = 0
        while True:
            value = self.low + position * self.step if self.step else self.low * (self.factor or 2) ** position
            if value > self.high * (1 + 1e-12):
                return tuple(values)
            values.append(value if isinstance(value, int) else round(value, 12))
            position += 1


class ParameterSection(_Section):
    """One thing that may be set."""

    values: Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=_MOST_VALUES)] | None = Field(
        default=None, description="The values to choose from.", examples=[[1, 2, 4]]
    )
    range: RangeSection | None = Field(default=None, description="Numbers to choose from, instead of values.")
    default: Scalar | None = Field(default=None, description="The server's own default; the first value where absent.")
    scale: Literal["categorical", "linear", "log"] | None = Field(
        default=None,
        description="How values are compared; log for numbers that double, linear or categorical where absent.",
    )
    when: dict[str, Scalars] = Field(
        default_factory=dict,
        description="By name of another parameter: its values with which this one matters.",
        examples=[{"batching": True}],
    )
    says: str = Field(default="", description="One line for people.")

    @model_validator(mode="after")
    def _has_a_domain(self) -> ParameterSection:
        for value in self.values or ():
            _given(value)
        if (self.values is None) == (self.range is None):
            raise ValueError("it needs values or a range, and not both; write for example values: [1, 2, 4]")
        return self

    @property
    def domain(self) -> tuple[Value, ...]:
        """The values, in ascending order where they are numbers on a scale."""
        values: Sequence[Value] = self.range.values if self.range is not None else self.values or ()
        return tuple(sorted(values, key=float)) if self.on is not Scale.CATEGORICAL else tuple(values)

    @property
    def on(self) -> Scale:
        """The scale, by the values where it is not given."""
        if self.scale is not None:
            return Scale(self.scale)
        if self.range is not None:
            return Scale.LOG if self.range.factor is not None else Scale.LINEAR
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.values or ())
        return Scale.LINEAR if numeric else Scale.CATEGORICAL


class ConditionalArguments(_Section):
    """Arguments that are only given with some values."""

    when: dict[str, Scalars] = Field(description="By parameter: its values.", examples=[{"keep_alive": True}])
    args: Annotated[tuple[str, ...], BeforeValidator(_words)] = Field(
        description="The arguments.", examples=[["--keep-alive"]]
    )


class FileSource(_Section):
    """A template in a file of its own."""

    source: Annotated[str, Field(min_length=1)] = Field(
        description="Path of the template.", json_schema_extra={"format": "path"}
    )


class HealthSection(_Section):
    """How to know that the server is ready."""

    path: Annotated[str, Field(pattern=r"^/\S*$")] = Field(description="GET of this path answers 2xx when ready.")
    deadline: Seconds = Field(
        default=300.0, description="The server must be ready within this time.", examples=["60 s"]
    )


class MountSection(_Section):
    """A file or folder of this machine that the server reads; always read-only."""

    source: Annotated[str, Field(min_length=1)] = Field(
        description="Path on this machine.", json_schema_extra={"format": "path"}
    )
    target: Annotated[str, Field(pattern=r"^/.*[^/]$")] = Field(description="Absolute path in the container.")


class TensorSection(_Section):
    """One input of a KServe request."""

    name: Annotated[str, Field(min_length=1)] = Field(description="As the server knows it.")
    datatype: Literal[
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"
    ] = Field(description="As the protocol writes it.")
    dims: tuple[Annotated[int, Field(ge=1)] | str, ...] = Field(
        description="Size of each dimension, or the name under which workload.requests.tensors.dims lists sizes."
    )
    low: float = Field(default=0.0, description="Values are drawn from here on.")
    high: float = Field(default=1.0, description="Values are drawn up to here, this one excluded.")


def _json_body(value: object) -> object:
    """A mapping or list as JSON with its braces doubled, as `TemplateShapes` wants them."""
    if isinstance(value, dict | list):
        text = json.dumps(value, ensure_ascii=False).replace("{", "{{").replace("}", "}}")
        return text.replace("{{request_id}}", "{request_id}")
    return value


class RequestSection(_Section):
    """How to ask the server something."""

    protocol: Literal["template", "openai", "kserve"] = Field(
        default="template",
        description="template: any HTTP endpoint; openai: streamed completions; kserve: KServe v2 inference.",
    )
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] | None = Field(
        default=None, description="template: HTTP method."
    )
    path: Annotated[str, Field(pattern=r"^/\S*$")] | None = Field(default=None, description="template, openai: path.")
    headers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")], str] = Field(
        default_factory=dict, description="template, openai: headers by name."
    )
    body: Annotated[str, BeforeValidator(_json_body)] | None = Field(
        default=None,
        description="template: a text, in which {request_id} becomes the request's number and literal braces are "
        "doubled, or a mapping or list, which is sent as JSON.",
    )
    streamed: bool | None = Field(
        default=None, description="template: the answer arrives in pieces; the first one ends TTFT."
    )
    expect: str | None = Field(default=None, description="template: text that a good answer contains.")
    model_name: str | None = Field(default=None, description="openai, kserve: the model's name in the API.")
    vocabulary: tuple[int, int] | None = Field(
        default=None,
        description="openai: prompts are drawn from these token ids, the last one excluded; by default from "
        "the tokenizer in the model's folder.",
    )
    prompt: Literal["ids", "text"] = Field(
        default="ids",
        description="openai: send prompts as token ids, or as text, for servers that take no ids.",
    )
    ignore_eos: bool = Field(default=True, description="openai: ask the server to go on to the drawn output length.")
    inputs: tuple[TensorSection, ...] = Field(default=(), description="kserve: tensors to send.")
    outputs: tuple[str, ...] = Field(default=(), description="kserve: outputs to ask for; empty asks for all.")


class CommandOptions(_Section):
    """Options of the command engine."""

    image: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="Container image, for runner: docker."
    )
    entrypoint: Annotated[tuple[str, ...], BeforeValidator(_words)] | None = Field(
        default=None, description="Replaces the image's entry point."
    )
    command: Annotated[tuple[str | ConditionalArguments, ...], BeforeValidator(_words)] = Field(
        default=(),
        description="Program and arguments with {placeholders}: a list, or a text that is split at spaces as a shell "
        "would (no shell is involved). An entry {when: {parameter: value}, args: [...]} is only given then.",
        examples=[["serve", "--port", "{port}", "--threads", "{threads}"]],
    )
    environment: dict[Annotated[str, Field(pattern=VARIABLE)], Word] = Field(
        default_factory=dict, description="Variables by name, with {placeholders}; no secrets."
    )
    files: dict[str, str | FileSource] = Field(
        default_factory=dict,
        description="Configuration files by path relative to {scratch}: a text with {placeholders}, or its source.",
    )
    parameters: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], ParameterSection] = Field(
        default_factory=dict, description="What may be set, by name."
    )
    rules: tuple[str, ...] = Field(
        default=(),
        description="Comparisons that must hold, of parameters, device, cpus and gpus.",
        examples=[["threads * workers <= cpus"]],
    )
    health: HealthSection = Field(description="How to know that the server is ready.")
    request: RequestSection = Field(
        default=RequestSection(),
        description="How to ask the server something; by default workload.requests.template says it.",
    )
    mounts: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][\w.-]*$")], MountSection] = Field(
        default_factory=dict, description="Files and folders that the server reads, by name, for {mount:name}."
    )
    port: Annotated[int, Field(ge=1, le=65535)] = Field(default=8000, description="Port in the container, for {port}.")
    shm: Bytes | None = Field(default=None, description="Size of /dev/shm in the container.", examples=["1 GiB"])
    writable: dict[Annotated[str, Field(pattern=r"^/.+$")], Bytes] = Field(
        default_factory=dict, description="Container paths that must be writable, with their size."
    )
    refusals: tuple[str, ...] = Field(
        default=(), description="Regular expressions of log lines with which the server refuses a combination."
    )


def read_options(options: Mapping[str, object]) -> tuple[CommandOptions, list[Fault], frozenset[str]]:
    """The options as far as they have the right form.

    Returns:
        The options, a fault for every place that has not the right form, and the sections in which those
        faults are: in the options returned, they are as if not given.
    """
    raw: dict[str, Any] = dict(options)
    try:
        return CommandOptions.model_validate(raw), [], frozenset()
    except ValidationError as error:
        details = error.errors()
    faults = _faults(details)
    broken = frozenset(str(detail["loc"][0]) for detail in details if detail["loc"])
    sound = {name: value for name, value in raw.items() if name not in broken}
    # `health` has no default; what stands in for it is never used, as there is a fault already.
    sound.setdefault("health", {"path": "/"})
    return CommandOptions.model_validate(sound), faults, broken


def _faults(details: Sequence[Any]) -> list[Fault]:
    """One fault per place: where a value may have several forms, that of the form it comes nearest to."""
    faults: dict[str, Fault] = {}
    for detail in details:
        # Pydantic names the alternatives of a union in the path; people do not.
        where = ".".join(str(part) for part in detail["loc"] if not _is_alternative(part))
        if where in faults or (detail["type"] == "string_type" and isinstance(detail["input"], dict)):
            continue  # what is wrong with a mapping, its own form says
        message = str(detail["msg"]).removeprefix("Value error, ")
        if detail["type"] == "missing":
            fault = Fault(where=where, problem="is missing.", remedy=_missing_remedy(where))
        elif detail["type"] == "extra_forbidden":
            name = str(detail["loc"][-1])
            known = _known_keys(detail["loc"][:-1])
            fault = Fault(where=where, problem=f"{name!r} is no option here.", remedy=did_you_mean(name, known))
        else:
            fault = Fault(where=where, problem=f"{_shown(detail['input'])}: {message}.", remedy="")
        faults[where] = fault
    return list(faults.values())


_ALTERNATIVE: Final = re.compile(
    r"^(str|int|float|bool|tuple\[.*|constrained-\w+|function-.*|\[key\]|[A-Z]\w+(Section|Arguments|Source))$"
)


def _is_alternative(part: object) -> bool:
    return isinstance(part, str) and _ALTERNATIVE.match(part) is not None


def _missing_remedy(where: str) -> str:
    if where == "health":
        return "Write for example health: {path: /health}."
    return "Add it."


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at `location`."""
    sections: dict[str, type[_Section]] = {
        "health": HealthSection,
        "request": RequestSection,
        "parameters": ParameterSection,
        "mounts": MountSection,
        "files": FileSource,
        "command": ConditionalArguments,
    }
    if not location:
        return list(CommandOptions.model_fields)
    if "range" in location:
        return list(RangeSection.model_fields)
    if "inputs" in location:
        return list(TensorSection.model_fields)
    return list(sections[str(location[0])].model_fields)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
