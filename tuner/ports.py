"""The seams: what an adapter promises.

Adapters are found by entry point (`tuner.search_spaces`, `tuner.runners`, `tuner.profilers`); each
entry point names a class that is called with its options from the study file, checks all of them, and
raises one `OptionsError` with every fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from tuner.device import DeviceType
from tuner.launch import LaunchSpec, RequestSpec, Target
from tuner.metric import Metric
from tuner.parameter import Config
from tuner.serving import ServedModel
from tuner.space import Space
from tuner.trial import Attempt, Measurement, Outcome, Progress, TrialPlan
from tuner.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where the model is.

    Attributes:
        name: as the user wrote it: a path or a hub id.
        path: absolute path where it is on this machine, `None` for a hub id.
    """

    name: str
    path: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingTask:
    """What is to be served, on what, for whom.

    Attributes:
        model, devices, workload: as the study has them.
        serves: whether servers will be started, so that all their files must be there; without, what describes the
            model is enough.
    """

    model: ModelSource
    devices: tuple[DeviceType, ...]
    workload: Workload
    serves: bool = True

    def device(self, name: str) -> DeviceType:
        """The device type called `name`, which must be one of the task's."""
        return next(device for device in self.devices if device.name == name)


class SearchSpace(Protocol):
    """An engine: what may be set, how it is started, how it is deployed.

    Constructed as `cls(options)`, options being the study file's `engine` entries beside its name.

    Attributes:
        formats: what `export` writes beside what every engine gets (`triton`, `vllm-args`, `script`).
    """

    formats: ClassVar[tuple[str, ...]]

    @property
    def reports(self) -> frozenset[Metric]:
        """Metrics that the engine's protocol yields (costs follow from throughput)."""
        ...

    @classmethod
    def options_schema(cls) -> Mapping[str, object]:
        """JSON Schema of the options; strings of the format `path` start at the study file's folder."""
        ...

    def space(self, task: ServingTask) -> Space:
        """Parameters with the engine's own defaults, and the rules, for this model, traffic and devices.

        Raises:
            ModelError: the model is missing or none that this engine serves.
            UsageError: the workload's requests do not fit the model.
        """
        ...

    def launch(self, task: ServingTask, config: Config, target: Target) -> LaunchSpec:
        """How to start `config`.

        Raises:
            UnavailableError: the engine is not installed (process target).
        """
        ...

    def export(self, task: ServingTask, config: Config, form: str) -> Mapping[str, str]:
        """Files for deployment in one of `formats`, by relative path; they start as they are."""
        ...


@runtime_checkable
class Predictable(Protocol):
    """What an engine has beside `SearchSpace` where its configurations can be predicted."""

    def served_model(self, task: ServingTask) -> ServedModel:
        """The model, and what a configuration makes of its server, in the performance model's words.

        Raises:
            ModelError, UsageError: as `SearchSpace.space`.
        """
        ...


class Runner(Protocol):
    """Starts servers and measures them.

    Constructed as `cls(options)`, options being the study file's `runner` entries beside its name.

    Attributes:
        target: what servers are started in.
    """

    target: ClassVar[Target]

    @classmethod
    def options_schema(cls) -> Mapping[str, object]:
        """JSON Schema of the options; strings of the format `path` start at the study file's folder."""
        ...

    def answers(self) -> bool:
        """Whether what servers are started in is there at all (a daemon); quick, and never raises."""
        ...

    def check(self, spec: LaunchSpec, device: DeviceType) -> None:
        """That this runner can start such a server here, without starting it.

        Raises:
            UnavailableError: the daemon, the image, the program or the device is not there.
        """
        ...

    def run(
        self,
        spec: LaunchSpec,
        device: DeviceType,
        plan: TrialPlan,
        attempt: Attempt,
        watch: Callable[[Progress], None],
    ) -> Outcome:
        """One trial: start, load, stop; nothing is left behind, whatever happens (Ctrl-C included).

        Raises:
            TrialFault: a fault of our own or of the machine.
            UnavailableError: the daemon or image has gone.
        """
        ...

    def reap(self, study_id: str) -> int:
        """Removes what dead attempts of this study left behind; returns how many servers that were."""
        ...


class LoadDriver(Protocol):
    """Drives a server that already runs; found by entry point group `tuner.load_drivers`."""

    def drive(self, url: str, request: RequestSpec, plan: TrialPlan, watch: Callable[[Progress], None]) -> Measurement:
        """Load `url` (scheme, host and port) as `plan` says, from a process of its own.

        Raises:
            UnavailableError: nothing answers at `url`.
            GeneratorBoundError: lateness of the generator, not the server, set the numbers.
            TrialFault: the generator itself failed.
        """
        ...
