"""A model server in a container, with as few rights as it can do with."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import docker.errors
import docker.types
from docker.client import DockerClient
from docker.models.containers import Container

from runners.attempt_folder import AttemptFolder
from runners.container_memory import oom_counter, oom_kills
from runners.docker_daemon import FAILURES, absent_image, socket_path, translated
from runners.guardian import Hold, guardian
from runners.owner import Owner
from runners.placement import Placement, cpuset
from runners.readiness import unready
from runners.served_trial import ServerRefusedError
from runners.server_log import SCANNED_LINES, Redactor, log_lines
from runners.verdict import Evidence, ServerExit
from tuner.device import DeviceKind, DeviceType
from tuner.errors import TrialFault, UnavailableError
from tuner.launch import LaunchSpec
from tuner.launch_texts import SCRATCH_IN_CONTAINER, LaunchTexts, container_texts
from tuner.units import format_bytes

LABEL = "serving-tuner"
_NOBODY = 65534
_TMP_BYTES = 2**30
_LOG_SIZE = "32m"
_GONE_S = 30.0
_REACH_S = 1.0
_SEARCHED_FILES = 5000
_READ, _ENTER = 0o004, 0o001
_PORT_ATTEMPTS = 3
_NOT_EXECUTABLE = re.compile(r"OCI runtime create failed.*(exec|executable)|executable file not found", re.DOTALL)


@dataclass(slots=True, kw_only=True)
class DockerServer:
    """A container; see `runners.served_trial.Server`.

    Its root is read-only and what it may write is in memory, so nothing of it survives and a clean exit
    saves nothing: it is killed at the end unless `graceful`.

    Attributes:
        client, url: of the daemon.
        spec, device: what to start, on what.
        folder: of the attempt.
        placement: its cores.
        network: Docker network; `None` for the default bridge.
        pids_limit: how many processes and threads it may have.
        user: `UID[:GID]`, `image` for the image's own, or `None` to choose an unprivileged one where it works.
        forwarded: variables of the tuner's environment that it gets.
        redact: blacks out secrets in its log.
        kept_log: where the whole log is kept; `None` keeps none.
        graceful: ask it to end, and wait for it, before it is killed.
        direct: load it at its own address, where that can be reached, and not through the published port.
    """

    client: DockerClient
    url: str
    spec: LaunchSpec
    device: DeviceType
    folder: AttemptFolder
    placement: Placement
    network: str | None
    pids_limit: int
    user: str | None
    forwarded: Mapping[str, str]
    redact: Redactor
    kept_log: Path | None
    graceful: bool
    direct: bool
    host: str = "127.0.0.1"
    port: int = 0
    _container: Container | None = None
    _exit: ServerExit | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _waiter: threading.Thread | None = None
    _counter: Path | None = None
    _holds: list[Hold] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the container."""
        return f"{LABEL}-{self.folder.path.name}"

    def start(self) -> None:
        """See `runners.served_trial.Server.start`."""
        self._holds = [
            guardian().hold_container(self.name, socket_path(self.url)),
            guardian().hold_folder(self.folder.path),
        ]
        self.folder.create()
        self.folder.link(self.spec.links, symbolic=False)
        texts = container_texts(self.spec, self.forwarded)
        self.folder.write(texts.files)
        with translated():
            self._start_container(texts)

    def exited(self, timeout_s: float) -> ServerExit | None:
        """See `runners.served_trial.Server.exited`."""
        self._ended.wait(timeout_s)
        return self._exit

    def owns_port(self) -> bool:
        """See `runners.served_trial.Server.owns_port`: the daemon published it, so nobody else has it."""
        return True

    def load_address(self) -> tuple[str, int]:
        """See `runners.served_trial.Server.load_address`.

        What arrives at the published port is carried over by a process of Docker's, which doubles the
        latency of a trivial request and takes its CPU time from server and generator
        (`benchmarks/published_port.py`). The container's own address goes without, where it can be reached.
        """
        if self.direct and self._container is not None:
            networks = self._container.attrs["NetworkSettings"]["Networks"].values()
            for address in filter(None, (network.get("IPAddress") for network in networks)):
                if unready(address, self.spec.port, self.spec.health.path, _REACH_S) is None:
                    return address, self.spec.port
        return self.host, self.port

    def evidence(self) -> Evidence:
        """See `runners.served_trial.Server.evidence`."""
        return Evidence(exit=self._exit, memory=self._memory_evidence(), lines=self._lines())

    def stop(self, grace_s: float) -> None:
        """See `runners.served_trial.Server.stop`."""
        with translated():
            if self._container is not None:
                if self.graceful and grace_s > 0 and self._exit is None:
                    with contextlib.suppress(docker.errors.APIError):
                        self._container.kill("SIGTERM")
                        self._ended.wait(grace_s)
                self._keep_log()
            self._remove()
        if self._waiter is not None:
            self._waiter.join(_GONE_S)
        self.folder.remove()
        for hold in self._holds:
            hold.release()
        self._holds = []

    def _start_container(self, texts: LaunchTexts) -> None:
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            try:
                self._container = self._created(texts)
                self._container.start()
                break
            except docker.errors.ImageNotFound as error:
                raise absent_image(self.spec.image or "") from error
            except docker.errors.APIError as error:
                said = str(error.explanation or error)
                if _NOT_EXECUTABLE.search(said):
                    raise ServerRefusedError(f"The container's program cannot be executed: {said}") from error
                if "port is already allocated" not in said or attempt == _PORT_ATTEMPTS:
                    raise
                self._remove()
        assert self._container is not None
        self._waiter = threading.Thread(target=self._wait, name="container-wait", daemon=True)
        self._waiter.start()
        self._container.reload()
        state = self._container.attrs["State"]
        self._counter = oom_counter(state["Pid"]) if state["Pid"] else None
        published = self._container.attrs["NetworkSettings"]["Ports"].get(f"{self.spec.port}/tcp")
        if published:
            self.port = int(published[0]["HostPort"])
        elif state["Running"]:
            raise UnavailableError(
                f"Docker published no port of the container on network {self.network!r}. Choose a network that is "
                "not internal."
            )

    def _created(self, texts: LaunchTexts) -> Container:
        user = self._user()
        environment = dict(texts.environment)
        if user is not None:
            # A user whom the image does not know has no home, and programs that ask for one stop.
            environment = {"HOME": "/tmp", "USER": LABEL, "LOGNAME": LABEL, **environment}  # noqa: S108
        if self.device.kind is DeviceKind.CPU:
            environment.setdefault("NVIDIA_VISIBLE_DEVICES", "void")
        writable = {"/tmp": _TMP_BYTES, **self.spec.writable}  # noqa: S108
        quota = self.placement.quota
        return self.client.containers.create(
            self.spec.image or "",
            list(texts.argv) or None,
            entrypoint=None if self.spec.entrypoint is None else list(self.spec.entrypoint),
            name=self.name,
            labels=labels(self.folder),
            environment=environment,
            user=user,
            ports={f"{self.spec.port}/tcp": ("127.0.0.1", 0)},
            network=self.network,
            nano_cpus=None if quota is None else round(quota * 1e9),
            cpuset_cpus=None if self.placement.server is None else cpuset(self.placement.server),
            mem_limit=self.device.memory_bytes,
            memswap_limit=self.device.memory_bytes,
            pids_limit=self.pids_limit,
            shm_size=self.spec.shm_bytes,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            read_only=True,
            tmpfs={path: f"rw,exec,nosuid,nodev,mode=1777,size={size}" for path, size in writable.items()},
            mounts=self._mounts(),
            device_requests=gpu_requests(self.device),
            log_config=docker.types.LogConfig(
                type=docker.types.LogConfig.types.JSON, config={"max-size": _LOG_SIZE, "max-file": "2"}
            ),
            stdin_open=False,
            tty=False,
        )

    def _mounts(self) -> list[docker.types.Mount]:
        places = [(SCRATCH_IN_CONTAINER, self.folder.scratch)]
        places += [(f"{SCRATCH_IN_CONTAINER}/{name}", source.resolve()) for name, source in self.spec.links.items()]
        places += [(mount.target, mount.source.resolve()) for mount in self.spec.mounts]
        return [docker.types.Mount(target, str(source), type="bind", read_only=True) for target, source in places]

    def _user(self) -> str | None:
        if self.user == "image":
            return None
        if self.user is not None:
            return self.user
        if os.getuid() != 0:
            # What the user may read, the server may read, and no more.
            return f"{os.getuid()}:{os.getgid()}"
        image = self.client.images.get(self.spec.image or "")
        if image.attrs["Config"].get("User") not in (None, "", "0", "root", "0:0"):
            return None
        sources = [*self.spec.links.values(), *(mount.source for mount in self.spec.mounts)]
        return f"{_NOBODY}:{_NOBODY}" if all(map(_readable_by_all, sources)) else None

    def _wait(self) -> None:
        try:
            answer = self.client.api.wait(self.name, timeout=None)
            self._exit = ServerExit(code=int(answer["StatusCode"]))
        except FAILURES:
            # Removed by us, or the daemon has gone: the next call to it says so.
            return
        finally:
            if self._exit is not None:
                self._ended.set()

    def _memory_evidence(self) -> str | None:
        if self._container is None:
            return None
        kills = oom_kills(self._counter)
        with translated():
            self._container.reload()
        state = self._container.attrs["State"]
        # The flag is also set where a child was killed and the server went on to end well.
        flagged = bool(state["OOMKilled"]) and not (self._exit is not None and self._exit.code == 0)
        if not kills and not flagged:
            return None
        limit = self.device.memory_bytes
        told = "" if limit is None else f", whose limit is {format_bytes(limit)}"
        whom = "the server" if self._exit is not None and self._exit.code == 137 else "a process of the server"
        return f"the kernel killed {whom} for want of memory in its container{told}"

    def _lines(self) -> tuple[str, ...]:
        if self._container is None:
            return ()
        with translated():
            return log_lines(self._container.logs(tail=SCANNED_LINES), self.redact)

    def _keep_log(self) -> None:
        if self.kept_log is None or self._container is None:
            return
        text = self._container.logs().decode(errors="replace")
        try:
            self.kept_log.parent.mkdir(parents=True, exist_ok=True)
            self.kept_log.write_text(self.redact(text))
        except OSError as error:
            raise TrialFault(f"{self.kept_log} cannot be written: {error.strerror}. Free some space.") from error

    def _remove(self) -> None:
        """Removes the container by its name: the answer to its creation may never have reached us."""
        deadline = time.monotonic() + _GONE_S
        while True:
            try:
                self.client.api.remove_container(self.name, force=True, v=True)
            except docker.errors.NotFound:
                self._container = None
                return
            except docker.errors.APIError as error:
                if time.monotonic() > deadline:
                    raise TrialFault(
                        f"The container {self.name} cannot be removed: {error.explanation}. "
                        f"Remove it with `docker rm -f {self.name}`."
                    ) from error
            else:
                self._container = None
                return
            time.sleep(0.1)


def labels(folder: AttemptFolder) -> dict[str, str]:
    """What a container is marked with, so that `reap` and people know whose it is."""
    return {
        f"{LABEL}.study": folder.attempt.study_id,
        f"{LABEL}.trial": str(folder.attempt.trial),
        f"{LABEL}.attempt": folder.attempt.token,
        f"{LABEL}.owner": str(Owner.current()),
        f"{LABEL}.started": f"{time.time():.0f}",
    }


def gpu_requests(device: DeviceType) -> list[docker.types.DeviceRequest] | None:
    """What `--gpus` would ask for."""
    if device.kind is not DeviceKind.GPU:
        return None
    ids = list(device.gpu_ids[: device.gpus])
    if ids:
        return [docker.types.DeviceRequest(device_ids=ids, capabilities=[["gpu"]])]
    return [docker.types.DeviceRequest(count=device.gpus, capabilities=[["gpu"]])]


def _readable_by_all(source: Path) -> bool:
    """Whether any user may read the file or folder; one too large to look through counts as not."""
    searched = 0
    try:
        if not source.is_dir():
            return bool(source.stat().st_mode & _READ)
        for folder, folders, files in os.walk(source):
            searched += len(folders) + len(files)
            if searched > _SEARCHED_FILES or os.stat(folder).st_mode & (_READ | _ENTER) != _READ | _ENTER:
                return False
            if not all(os.stat(os.path.join(folder, name)).st_mode & _READ for name in files):
                return False
    except OSError:
        return False
    return True
