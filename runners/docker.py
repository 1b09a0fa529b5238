"""The runner whose servers are containers of this machine's Docker daemon."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import ClassVar, Literal

import docker.errors
from docker.client import DockerClient
from pydantic import Field

from runners.attempt_folder import AttemptFolder, abandoned
from runners.core_claims import claimed
from runners.docker_daemon import (
    absent_image,
    connected,
    daemon_url,
    has_image,
    machine,
    pull,
    require_offered,
    translated,
)
from runners.docker_server import LABEL, DockerServer
from runners.gpus import nvidia_gpus, require_gpus
from runners.host_runner import HostRunner, require_sources
from runners.options import RunnerOptions, Seconds
from runners.owner import Owner
from runners.placement import generator_cores, place
from runners.server_log import Redactor
from runners.verdict import refusals
from tuner.device import DeviceKind, DeviceType
from tuner.errors import UnavailableError
from tuner.launch import LaunchSpec, Target
from tuner.launch_texts import container_texts
from tuner.trial import Attempt, Outcome, Phase, Progress, TrialPlan
from tuner.units import format_bytes

_LEAST_MEMORY_BYTES = 6 * 2**20


class DockerOptions(RunnerOptions):
    """Options of the docker runner."""

    pull: Literal["missing", "never"] = Field(
        default="missing", description="Whether an image that is not on this machine is pulled."
    )
    pull_deadline: Seconds = Field(default=1800.0, description="A pull that takes longer is given up.")
    base_url: str | None = Field(
        default=None,
        pattern=r"^unix:///",
        description="Socket of the daemon; by default DOCKER_HOST, or unix:///var/run/docker.sock.",
    )
    network: str | None = Field(
        default=None,
        pattern=r"^(?!host$|none$|container:)",
        description="Docker network of the servers; by default the bridge. Not host, none or another container's.",
    )
    pids_limit: int = Field(default=4096, ge=16, description="How many processes and threads a server may have.")
    user: str | None = Field(
        default=None,
        pattern=r"^(image|\d+(:\d+)?)$",
        description="UID or UID:GID of the server, or `image` for the image's own; by default an unprivileged one.",
    )
    load_path: Literal["direct", "published"] = Field(
        default="direct",
        description="Load the server at its container's address where that can be reached, or through the published "
        "port, which a process of Docker's forwards.",
    )
    graceful_stop: bool = Field(
        default=False, description="Ask a server to end, and wait up to the stop deadline, before it is killed."
    )
    pass_environment: tuple[str, ...] = Field(
        default=(), description="Names of variables of the tuner's environment that the server gets too."
    )


class DockerRunner(HostRunner[DockerOptions]):
    """Starts servers in containers; see `tuner.ports.Runner`."""

    name: ClassVar[str] = "docker"
    options_type = DockerOptions
    target: ClassVar[Target] = Target.CONTAINER

    def answers(self) -> bool:
        """See `tuner.ports.Runner.answers`."""
        try:
            with connected(daemon_url(self.options.base_url)) as client:
                client.ping()
        except UnavailableError:
            return False
        return True

    def check(self, spec: LaunchSpec, device: DeviceType) -> None:
        """See `tuner.ports.Runner.check`."""
        with connected(daemon_url(self.options.base_url)) as client:
            if spec.image is None:
                raise UnavailableError("There is no image to start. Write one, or use the process runner.")
            here = machine(client)
            generator_cores(place(device, here.cores), self.options.generator_cpuset)
            memory = device.memory_bytes
            if memory is not None and not _LEAST_MEMORY_BYTES <= memory <= here.memory_bytes:
                raise UnavailableError(
                    f"Device {device.name!r} has {format_bytes(memory)} of memory, and Docker gives a container "
                    f"{format_bytes(_LEAST_MEMORY_BYTES)} to {format_bytes(here.memory_bytes)} on this machine."
                )
            if device.kind is DeviceKind.GPU and not here.gives_gpus:
                raise UnavailableError(
                    f"Device {device.name!r} has GPUs, and Docker cannot give any to a container here. Install the "
                    "NVIDIA Container Toolkit, run `nvidia-ctk runtime configure --runtime=docker`, restart Docker."
                )
            require_gpus(device, nvidia_gpus)
            refusals(spec)
            container_texts(spec)
            require_sources(spec)
            if not has_image(client, spec.image):
                if self.options.pull == "never":
                    raise absent_image(spec.image, "and the runner's option pull is never")
                require_offered(client, spec.image)

    def run(
        self,
        spec: LaunchSpec,
        device: DeviceType,
        plan: TrialPlan,
        attempt: Attempt,
        watch: Callable[[Progress], None],
    ) -> Outcome:
        """See `tuner.ports.Runner.run`."""
        options = self.options
        url = daemon_url(options.base_url)
        forwarded = {name: os.environ[name] for name in options.pass_environment if name in os.environ}
        with connected(url) as client, contextlib.ExitStack() as claims:
            self._provide_image(client, spec.image or "", watch)
            placement = claims.enter_context(claimed(device, machine(client).cores))
            server = DockerServer(
                client=client,
                url=url,
                spec=spec,
                device=device,
                folder=AttemptFolder.locate(attempt),
                placement=placement,
                network=options.network,
                pids_limit=options.pids_limit,
                user=options.user,
                forwarded=forwarded,
                redact=Redactor.of(dict(os.environ), spec.environment),
                kept_log=self.kept_log(attempt),
                graceful=options.graceful_stop,
                direct=options.load_path == "direct",
            )
            return self.tried(server, placement, spec, device, plan, watch)

    def reap(self, study_id: str) -> int:
        """See `tuner.ports.Runner.reap`."""
        reaped = 0
        with connected(daemon_url(self.options.base_url)) as client, translated():
            for container in client.containers.list(
                all=True, filters={"label": f"{LABEL}.study={study_id}"}, ignore_removed=True
            ):
                owner = Owner.parse(container.labels.get(f"{LABEL}.owner", ""))
                if owner is None or not owner.is_dead():
                    continue
                try:
                    container.remove(force=True, v=True)
                except docker.errors.APIError as error:
                    # The guardian may be removing it at this moment.
                    if error.status_code not in (404, 409):
                        raise
                reaped += 1
        for one in abandoned(study_id):
            if one.leader is None:
                one.folder.remove()
        return reaped

    def _provide_image(self, client: DockerClient, image: str, watch: Callable[[Progress], None]) -> None:
        if has_image(client, image):
            return
        if self.options.pull == "never":
            raise absent_image(image)
        began = time.monotonic()

        def tell(note: str) -> None:
            watch(Progress(phase=Phase.STARTING, elapsed_s=time.monotonic() - began, note=note))

        pull(client, image, self.options.pull_deadline, tell)
