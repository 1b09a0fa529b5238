"""The study file as pydantic sees it: every key, its kind, its default, a description and an example.

Names here are those of the file; units are gone once a value is read (seconds, bytes, requests/s, USD).
Where a section may be written in several ways, the keys present decide which one is meant.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from tuner.device import DeviceKind
from tuner.study.definition import AUTO, Stopping
from tuner.study.fields import (
    Bytes,
    CpuSet,
    GpuId,
    Money,
    Name,
    Never,
    ObjectiveName,
    PositiveSeconds,
    Price,
    Scalar,
    Seconds,
    Section,
    Share,
    SloLine,
    Text,
    choice,
)
from tuner.study.traffic_sections import (
    ClosedLoopSection,
    LengthsSection,
    OpenLoopSection,
    RateRange,
    TraceSection,
    WorkloadSection,
)
from tuner.trial import TrialPlan


def _stopping(name: str) -> Any:
    """When a search ends by default."""
    return Stopping.__dataclass_fields__[name].default


def _planned(name: str) -> Any:
    """What a trial plan has by default."""
    return TrialPlan.__dataclass_fields__[name].default


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
    gpu_ids: list[GpuId] | None = Field(
        default=None, description="Ids or UUIDs of this machine's GPUs to use; any where absent.", examples=[[0, 1]]
    )
    gpu_memory: Bytes | None = Field(default=None, description="Memory of one GPU.", examples=["24 GiB"])
    price: Price | None = Field(
        default=None, description="Price of the whole device type per hour; costs need it.", examples=["0.80 USD/h"]
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


class StopSection(Section):
    """When the search ends before its budget; 0% of gain and 100% of probability are never reached."""

    after: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=_stopping("after"), description="Search trials before which it never ends.", examples=[10]
    )
    gain: Share = Field(
        default=_stopping("gain"),
        description="It ends when one more trial is expected to gain less than this share of the incumbent.",
        examples=["5%"],
    )
    probability: Share = Field(
        default=_stopping("probability"),
        description="It ends when the incumbent is within the tolerance of the best with this probability.",
        examples=["95%"],
    )
    tolerance: Share = Field(default=_stopping("tolerance"), description="Share of the best.", examples=["5%"])


def _stop_form(value: object) -> str:
    return "<StopSection>" if isinstance(value, dict) else "<never>"


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
    sampler: Text = Field(
        default=AUTO,
        description="auto (ours; meta where earlier tasks fit), meta, random, an Optuna sampler by name, or "
        "module:Class.",
        examples=["TPESampler"],
    )
    priors: Text = Field(
        default=AUTO,
        description="Earlier tasks to stand on: auto (those of your library for this engine), none, or the path of a "
        "prior or of a folder of them.",
        examples=["auto"],
    )
    remember: bool = Field(
        default=False, description="Add the study to your library of earlier tasks when it ends.", examples=[True]
    )
    stop: Annotated[
        Annotated[Never, Tag("<never>")] | Annotated[StopSection, Tag("<StopSection>")], Discriminator(_stop_form)
    ] = Field(
        default_factory=StopSection,
        description="When the search ends before its budget, as little is left to find; or never.",
        examples=[{"after": 10, "gain": "5%"}],
    )
    predictions: bool = Field(
        default=True,
        description="Let the performance model choose the first trials and lead the search, where it can predict.",
        examples=[False],
    )
    early_end: bool = Field(
        default=True,
        description="End a trial's load once it surely misses the SLO or cannot beat the best so far; what it showed "
        "counts as a bound.",
        examples=[False],
    )
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
        StopSection,
        AdapterSection,
    )
}
"""The section that each tag of a union stands for."""
