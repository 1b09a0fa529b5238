"""The runner whose servers are processes of this machine: for machines without a container daemon.

A process is kept apart less well than a container: it runs as the user who tunes, sees the user's files, and
its memory limit is kept by watching it. It is started in the tuner's working directory and with the tuner's
environment, as it would be by hand, except that its temporary folder is its own and goes with it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import psutil

from runners.attempt_folder import AttemptFolder, abandoned
from runners.core_claims import claimed
from runners.gpus import nvidia_gpus, require_gpus, visible_gpus
from runners.host_runner import HostRunner, require_sources
from runners.options import RunnerOptions
from runners.placement import Placement, generator_cores, place
from runners.process_server import ProcessServer, process_texts
from runners.process_tree import ProcessTree
from runners.server_log import Redactor
from runners.verdict import refusals
from tuner.device import DeviceType
from tuner.errors import UnavailableError
from tuner.launch import LaunchSpec, Target
from tuner.trial import Attempt, Outcome, Progress, TrialPlan
from tuner.units import format_bytes

_CHECK_PORT = 8000
_KILL_S = 10.0


class ProcessRunner(HostRunner[RunnerOptions]):
    """Starts servers as processes of this machine; see `tuner.ports.Runner`."""

    name: ClassVar[str] = "process"
    options_type = RunnerOptions
    target: ClassVar[Target] = Target.PROCESS

    def answers(self) -> bool:
        """Always: processes need nothing but this machine."""
        return True

    def check(self, spec: LaunchSpec, device: DeviceType) -> None:
        """See `tuner.ports.Runner.check`."""
        placement = place(device, os.sched_getaffinity(0))
        _require_whole_cores(device, placement)
        generator_cores(placement, self.options.generator_cpuset)
        require_gpus(device, nvidia_gpus)
        memory = psutil.virtual_memory().total
        if device.memory_bytes is not None and device.memory_bytes > memory:
            raise UnavailableError(
                f"Device {device.name!r} has {format_bytes(device.memory_bytes)} of memory, and this machine "
                f"{format_bytes(memory)}. Lower memory to what there is."
            )
        refusals(spec)
        texts = process_texts(spec, Path("/scratch"), _CHECK_PORT, {})
        if not texts.argv:
            raise UnavailableError("There is no command line to start. The process runner cannot start an image.")
        path = {**os.environ, **texts.environment}.get("PATH")
        if shutil.which(texts.argv[0], path=path) is None:
            raise UnavailableError(
                f"The program {texts.argv[0]!r} is not on the PATH. Install it, write its full path, "
                "or use the docker runner."
            )
        require_sources(spec)

    def run(
        self,
        spec: LaunchSpec,
        device: DeviceType,
        plan: TrialPlan,
        attempt: Attempt,
        watch: Callable[[Progress], None],
    ) -> Outcome:
        """See `tuner.ports.Runner.run`."""
        environment = {**os.environ, **visible_gpus(device)}
        with claimed(device, os.sched_getaffinity(0)) as placement:
            _require_whole_cores(device, placement)
            server = ProcessServer(
                spec=spec,
                folder=AttemptFolder.locate(attempt),
                placement=placement,
                memory_bytes=device.memory_bytes,
                environment=environment,
                redact=Redactor.of(environment, spec.environment),
                kept_log=self.kept_log(attempt),
            )
            return self.tried(server, placement, spec, device, plan, watch)

    def reap(self, study_id: str) -> int:
        """See `tuner.ports.Runner.reap`."""
        reaped = 0
        for one in abandoned(study_id):
            leader = one.leader.pid if one.leader is not None and not one.leader.is_dead() else None
            tree = ProcessTree(token=one.folder.attempt.token, leader=leader)
            if tree.members():
                tree.kill(_KILL_S)
                reaped += 1
            one.folder.remove()
        return reaped


def _require_whole_cores(device: DeviceType, placement: Placement) -> None:
    if placement.quota is not None:
        raise UnavailableError(
            f"Device {device.name!r} has {placement.quota:g} cpus, and a process can be given whole cores only. "
            f"Write a whole number of cpus, or use the docker runner."
        )
