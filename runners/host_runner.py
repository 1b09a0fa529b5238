"""What the runners share whose servers are on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from pydantic import ValidationError

from runners.load.driver import SubprocessLoadDriver
from runners.options import RunnerOptions
from runners.placement import Placement, generator_cores
from runners.served_trial import ServedTrial, Server
from tuner.adapter_options import option_faults
from tuner.device import DeviceType
from tuner.errors import OptionsError, UnavailableError
from tuner.launch import LaunchSpec
from tuner.ports import LoadDriver
from tuner.trial import Attempt, Outcome, Progress, TrialPlan

OptionsType = TypeVar("OptionsType", bound=RunnerOptions)


class HostRunner(Generic[OptionsType]):
    """A runner whose servers are on this machine: its options, and the course of a trial once its server is chosen.

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

    def tried(
        self,
        server: Server,
        placement: Placement,
        spec: LaunchSpec,
        device: DeviceType,
        plan: TrialPlan,
        watch: Callable[[Progress], None],
    ) -> Outcome:
        """What comes of a trial of the server; see `ServedTrial.run`."""
        return ServedTrial(
            server=server,
            spec=spec,
            device=device,
            plan=plan,
            driver=self.driver,
            generator_cores=generator_cores(placement, self.options.generator_cpuset),
            watch=watch,
        ).run()

    def kept_log(self, attempt: Attempt) -> Path | None:
        """Where the whole log of an attempt's server is kept; `None` where it is not."""
        keep = self.options.keep_logs
        return None if keep is None else keep / f"trial-{attempt.trial}-{attempt.token}.log"


def require_sources(spec: LaunchSpec) -> None:
    """That everything of this machine that the server is to read is there.

    Raises:
        UnavailableError: something is not.
    """
    for source in (*spec.links.values(), *(mount.source for mount in spec.mounts)):
        if not source.exists():
            raise UnavailableError(f"{source}, which the server is to read, does not exist.")
