"""The sections of a study file that describe traffic."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from tuner.study.fields import Count, RequestRate, Seconds, Section, Share, Text, UrlPath, choice, refused
from tuner.workload import ArrivalProcess, LengthShape


class RateRange(Section):
    """Where to look for the highest arrival rate that holds the SLO."""

    low: RequestRate = Field(description="A rate that should hold.", examples=["5 rps"])
    high: RequestRate = Field(description="A rate that need not hold.", examples=["500 rps"])
    resolution: Share = Field(default=0.05, description="Stop when the ends are this close.", examples=["5%"])


class OpenLoopSection(Section):
    """Requests arrive whatever the server does."""

    process: Annotated[ArrivalProcess, choice("arrival process", ArrivalProcess)] = Field(
        default=ArrivalProcess.POISSON, description="Distribution of the gaps between arrivals.", examples=["poisson"]
    )
    rate: Annotated[
        Annotated[RequestRate, Tag("<rate>")] | Annotated[RateRange, Tag("<RateRange>")],
        Discriminator(lambda value: "<RateRange>" if isinstance(value, dict) else "<rate>"),
    ] = Field(
        description="Mean arrival rate, or a range in which the highest rate that holds the SLO is searched.",
        examples=["50 rps"],
    )
    cv: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        default=None,
        description="Coefficient of variation of the gaps, for process: gamma (1 is poisson).",
        examples=[2],
    )

    @model_validator(mode="after")
    def _cv_goes_with_gamma(self) -> OpenLoopSection:
        if (self.cv is None) == (self.process is ArrivalProcess.GAMMA):
            if self.cv is None:
                raise refused("process: gamma has no cv. Write cv: 2, or process: poisson.")
            raise refused(f"cv: {self.cv:g} goes with process: gamma only. Write process: gamma, or remove cv.")
        return self


class ClosedLoopSection(Section):
    """A fixed number of clients, each sending its next request when the last is answered."""

    clients: Annotated[int, Field(ge=1, le=100_000)] = Field(description="How many clients.", examples=[32])
    think_time: Seconds = Field(default=0.0, description="Pause before a client's next request.", examples=["0 s"])


class TraceSection(Section):
    """The user's own traffic, replayed."""

    trace: Text = Field(
        description="CSV or JSON Lines file (.gz too), relative to the study file, with a column arrival_s and, "
        "for language models, input_tokens and output_tokens.",
        examples=["./traffic.csv"],
    )
    speed: Annotated[float, Field(gt=0, le=1e6)] = Field(
        default=1.0, description="2 replays twice as fast.", examples=[1]
    )


class TensorsSection(Section):
    """Requests of a classic model."""

    dims: dict[
        str,
        Annotated[
            Annotated[Count, Tag("<size>")]
            | Annotated[list[Count], Field(min_length=1, max_length=1000), Tag("<sizes>")],
            Discriminator(lambda value: "<sizes>" if isinstance(value, list) else "<size>"),
        ],
    ] = Field(
        default_factory=dict,
        description="By name of a dynamic dimension or of an input: its size, or sizes to draw from.",
        examples=[{"sequence": [16, 32]}],
    )
    rows: Annotated[int, Field(ge=1, le=100_000)] = Field(default=1, description="Rows of one request.", examples=[1])


class LengthsSection(Section):
    """A distribution of token counts."""

    shape: Annotated[LengthShape, choice("distribution of lengths", LengthShape)] | None = Field(
        default=None,
        description="Distribution; where absent, normal with a mean and std, uniform with low and high, else constant.",
        examples=["lognormal"],
    )
    mean: Annotated[float, Field(ge=1, le=1e7)] | None = Field(
        default=None, description="Mean, tokens.", examples=[256]
    )
    std: Annotated[float, Field(ge=0, le=1e7)] | None = Field(
        default=None, description="Standard deviation, tokens.", examples=[64]
    )
    low: Count | None = Field(default=None, description="Shortest length.", examples=[1])
    high: Count | None = Field(default=None, description="Longest length; mean + 4 std where absent.", examples=[1024])


_Lengths = Annotated[
    Annotated[Count, Tag("<tokens>")] | Annotated[LengthsSection, Tag("<LengthsSection>")],
    Discriminator(lambda value: "<LengthsSection>" if isinstance(value, dict) else "<tokens>"),
]


class TokensSection(Section):
    """Requests of a language model."""

    input: _Lengths = Field(description="Prompt length, tokens.", examples=[128])
    output: _Lengths = Field(description="Answer length, tokens.", examples=[64])
    shared_prefix: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        default=0, description="Leading prompt tokens that all requests have in common.", examples=[0]
    )


class TemplateSection(Section):
    """Requests to an HTTP endpoint of any kind."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = Field(
        default="POST", description="HTTP method.", examples=["POST"]
    )
    path: UrlPath = Field("/", description="Path on the server.", examples=["/predict"])
    headers: dict[str, str] = Field(
        default_factory=dict, description="Headers by name.", examples=[{"Content-Type": "application/json"}]
    )
    body: Any = Field(
        default="",
        description="What is sent: a text, in which {request_id} becomes the request's number and literal braces are "
        "doubled, or a mapping or list, which is sent as JSON.",
        examples=['{{"inputs": [1, 2, 3]}}'],
    )
    streamed: bool = Field(
        default=False, description="The answer arrives in pieces: the first one ends TTFT.", examples=[True]
    )
    expect: str = Field(
        default="", description="Text that a good answer contains; empty accepts any.", examples=["outputs"]
    )


class RequestsSection(Section):
    """What requests ask for: exactly one of the keys."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    tensors: TensorsSection | None = Field(
        default=None, description="Requests of a classic model.", examples=[{"dims": {"sequence": 32}}]
    )
    tokens: TokensSection | None = Field(
        default=None, description="Requests of a language model.", examples=[{"input": 128, "output": 64}]
    )
    template: TemplateSection | None = Field(
        default=None,
        description="Requests to an HTTP endpoint of any kind.",
        examples=[{"path": "/predict", "body": "{{}}"}],
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> RequestsSection:
        given = [name for name in ("tensors", "tokens", "template") if getattr(self, name) is not None]
        if len(given) != 1:
            count = " and ".join(given) or "none of tensors, tokens and template"
            raise refused(f"The requests are given as {count}. Write exactly one, for example tensors: {{rows: 1}}.")
        return self


def _arrival_form(value: object) -> str:
    keys = value if isinstance(value, dict) else {}
    if "clients" in keys:
        return "<ClosedLoopSection>"
    return "<TraceSection>" if "trace" in keys else "<OpenLoopSection>"


class WorkloadSection(Section):
    """Traffic to tune for."""

    arrival: Annotated[
        Annotated[OpenLoopSection, Tag("<OpenLoopSection>")]
        | Annotated[ClosedLoopSection, Tag("<ClosedLoopSection>")]
        | Annotated[TraceSection, Tag("<TraceSection>")],
        Discriminator(_arrival_form),
    ] = Field(
        description="When requests arrive: at a rate (open loop), from clients (closed loop), or as in a trace.",
        examples=[{"process": "poisson", "rate": "50 rps"}],
    )
    requests: RequestsSection = Field(
        default_factory=lambda: RequestsSection(tensors=TensorsSection()),
        description="What requests ask for; one row per request, with the model's own sizes, where absent.",
        examples=[{"tensors": {"dims": {"sequence": 32}}}],
    )
