"""The study file as pydantic sees it: every key, its kind, its default, a description and an example.

Names here are those of the file; units are gone once a value is read (seconds, bytes, requests/s, USD).
Where a section may be written in several ways, the keys present decide which one is meant.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from tuner.device import DeviceKind
from tuner.study.definition import AUTO
from tuner.study.fields import (
    Bytes,
    Count,
    CpuSet,
    Money,
    Name,
    ObjectiveName,
    PositiveSeconds,
    Price,
    RequestRate,
    Scalar,
    Seconds,
    Share,
    SloLine,
    Text,
    UrlPath,
    choice,
    refused,
)
from tuner.trial import TrialPlan
from tuner.workload import ArrivalProcess, LengthShape


def _planned(name: str) -> Any:
    """What a trial plan has by default."""
    return TrialPlan.__dataclass_fields__[name].default


class Section(BaseModel):
    """A mapping of known keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelPath(Section):
    """A model in a file or folder."""

    path: Text = Field(description="Path of the model, relative to the study file.", examples=["./model.onnx"])


class ModelHub(Section):
    """A model by name."""

    hub: Text = Field(description="Name of the model on its hub.", examples=["Qwen/Qwen2.5-0.5B-Instruct"])


class DeviceSection(Section):
    """A kind of machine share that can be had at a price."""

    name: Name = Field(description="What the study calls this device type.", examples=["cpu-2"])
    kind: Annotated[DeviceKind, choice("kind of device", DeviceKind)] | None = Field(
        default=None, description="What computes; gpu where GPUs are given, else cpu.", examples=["cpu"]
    )
    cpus: Annotated[float, Field(gt=0, le=4096)] | None = Field(
        default=None, description="CPU share in cores, may be fractional; unlimited where absent.", examples=[2]
    )
    cpuset: CpuSet | None = Field(default=None, description="Cores to pin to, as Linux writes them.", examples=["0-1"])
    memory: Bytes | None = Field(
        default=None, description="Limit of host memory; unlimited where absent.", examples=["4 GiB"]
    )
    gpus: Annotated[int, Field(ge=0, le=1024)] | None = Field(
        default=None, description="GPUs that one server may use.", examples=[1]
    )
    gpu: Text | None = Field(default=None, description="Model of the GPU, as catalogues call it.", examples=["L4"])
    gpu_ids: list[Text] | None = Field(
        default=None, description="Ids or UUIDs of this machine's GPUs to use; any where absent.", examples=[["0"]]
    )
    gpu_memory: Bytes | None = Field(default=None, description="Memory of one GPU.", examples=["24 GiB"])
    price: Price | None = Field(
        default=None, description="Price of the whole device type per hour; costs need it.", examples=["0.80 USD/h"]
    )


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


class RangeSection(Section):
    """A range of a parameter's values."""

    low: float = Field(description="Smallest value.", examples=[1])
    high: float = Field(description="Largest value.", examples=[4])
    step: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Every low + n step; the engine's own values between low and high where absent.",
        examples=[1],
    )
    factor: Annotated[float, Field(gt=1)] | None = Field(
        default=None, description="Every low x factor^n, instead of a step.", examples=[2]
    )


def _domain_form(value: object) -> str:
    return "<RangeSection>" if isinstance(value, dict) else "<values>" if isinstance(value, list) else "<value>"


class BudgetSection(Section):
    """What the study may spend; it ends when the first limit is reached."""

    trials: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Configurations to measure; 20 where no limit is given at all.", examples=[15]
    )
    time: PositiveSeconds | None = Field(default=None, description="Wall time of trials.", examples=["20 min"])
    money: Money | None = Field(
        default=None, description="Price of the devices over the time of the trials.", examples=["5 USD"]
    )


class SearchSection(Section):
    """How configurations are searched."""

    space: dict[
        str,
        Annotated[
            Annotated[Scalar, Tag("<value>")]
            | Annotated[list[Scalar], Field(min_length=1, max_length=10_000), Tag("<values>")]
            | Annotated[RangeSection, Tag("<RangeSection>")],
            Discriminator(_domain_form),
        ],
    ] = Field(
        default_factory=dict,
        description="By parameter: a value to fix it, values to search, or a range. Other parameters keep the "
        "engine's own values.",
        examples=[{"max_batch_size": [1, 4, 16], "instance_count": {"low": 1, "high": 4}}],
    )
    budget: BudgetSection = Field(
        default_factory=BudgetSection, description="What the study may spend.", examples=[{"trials": 15}]
    )
    sampler: Text = Field(default=AUTO, description="auto, or an Optuna sampler by name.", examples=["TPESampler"])
    confirmations: Annotated[int, Field(ge=0, le=100)] = Field(
        default=2,
        description="How often winner and default are measured again before the winner is named.",
        examples=[2],
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=0, description="Of every choice of the search.", examples=[0]
    )


class TrialSection(Section):
    """How one configuration is measured."""

    warmup: Seconds = Field(default=_planned("warmup_s"), description="Load before anything counts.", examples=["2 s"])
    windows: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=_planned("windows"), description="Number of steady windows.", examples=[5]
    )
    window: PositiveSeconds = Field(default=_planned("window_s"), description="Length of a window.", examples=["2 s"])
    request_timeout: PositiveSeconds = Field(
        default=_planned("request_timeout_s"),
        description="An answer later than this is a miss.",
        examples=["30 s"],
    )
    max_error_rate: Share = Field(
        default=_planned("max_error_rate"),
        description="Above this share of failed requests a configuration is infeasible.",
        examples=["5%"],
    )
    start_deadline: PositiveSeconds = Field(
        default=_planned("start_deadline_s"), description="The server must be ready within.", examples=["300 s"]
    )
    stop_deadline: PositiveSeconds = Field(
        default=_planned("stop_deadline_s"), description="The server must be gone within.", examples=["20 s"]
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=_planned("seed"),
        description="Of arrivals and request contents, the same in every trial.",
        examples=[0],
    )


class AdapterSection(BaseModel):
    """An engine or a runner with options; the adapter checks them."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: Text = Field(description="Which one.", examples=["triton"])


def _adapter_form(value: object) -> str:
    return "<AdapterSection>" if isinstance(value, dict) else "<name>"


_Adapter = Annotated[
    Annotated[Text, Tag("<name>")] | Annotated[AdapterSection, Tag("<AdapterSection>")], Discriminator(_adapter_form)
]


def _model_form(value: object) -> str:
    if isinstance(value, dict):
        return "<ModelHub>" if "hub" in value else "<ModelPath>"
    return "<name>"


def _many_form(value: object) -> str:
    return "<several>" if isinstance(value, list) else "<one>"


class StudySections(Section):
    """A study file of serving-tuner."""

    name: Name | None = Field(
        default=None,
        description="Name of the study in its storage; the file's name where absent.",
        examples=["encoder"],
    )
    model: Annotated[
        Annotated[Text, Tag("<name>")]
        | Annotated[ModelPath, Tag("<ModelPath>")]
        | Annotated[ModelHub, Tag("<ModelHub>")],
        Discriminator(_model_form),
    ] = Field(description="The model: a path relative to this file, or its name on a hub.", examples=["./model.onnx"])
    engine: _Adapter = Field(description="The model server, with its options.", examples=["triton"])
    devices: Annotated[list[DeviceSection], Field(min_length=1, max_length=1000)] = Field(
        description="Device types to choose from.",
        examples=[[{"name": "cpu-2", "cpus": 2, "memory": "4 GiB", "price": "0.10 USD/h"}]],
    )
    workload: WorkloadSection = Field(
        description="Traffic to tune for.",
        examples=[{"arrival": {"process": "poisson", "rate": "50 rps"}}],
    )
    slo: Annotated[
        Annotated[SloLine, Tag("<one>")] | Annotated[list[SloLine], Field(max_length=100), Tag("<several>")],
        Discriminator(_many_form),
    ] = Field(
        default_factory=list,
        description="Bounds that the configuration must hold.",
        examples=[["p99(latency) <= 50 ms"]],
    )
    objective: Annotated[
        Annotated[ObjectiveName, Tag("<one>")]
        | Annotated[list[ObjectiveName], Field(min_length=1, max_length=2), Tag("<several>")],
        Discriminator(_many_form),
    ] = Field(
        description="What the best configuration is best at; two metrics ask for a Pareto front.",
        examples=["cost_per_million_requests"],
    )
    search: SearchSection = Field(
        default_factory=SearchSection,
        description="How configurations are searched.",
        examples=[{"budget": {"trials": 15}}],
    )
    trial: TrialSection = Field(
        default_factory=TrialSection, description="How one configuration is measured.", examples=[{"windows": 5}]
    )
    runner: _Adapter = Field(
        default=AUTO,
        description="What starts the servers: docker, process, or auto (docker where a daemon answers).",
        examples=["docker"],
    )
    storage: Text | None = Field(
        default=None,
        description="Optuna storage URL of a database; paths are relative to this file, ${NAME} stands for an "
        "environment variable. A SQLite file in the folder .tuner beside this file where absent.",
        examples=["sqlite:///study.db"],
    )
    export: dict[str, Text] = Field(
        default_factory=dict,
        description="By format: the folder to write to when the study ends, relative to this file.",
        examples=[{"compose": "./deploy"}],
    )


FORMS: dict[str, type[BaseModel]] = {
    f"<{section.__name__}>": section
    for section in (
        ModelPath,
        ModelHub,
        RateRange,
        OpenLoopSection,
        ClosedLoopSection,
        TraceSection,
        LengthsSection,
        RangeSection,
        AdapterSection,
    )
}
"""The section that each tag of a union stands for."""
