"""A model server as a process of this machine."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import psutil

from runners import confined_exec
from runners.attempt_folder import AttemptFolder
from runners.guardian import Hold, guardian
from runners.memory_watchdog import MemoryWatchdog
from runners.owner import Owner
from runners.placement import Placement, cpuset
from runners.process_tree import MARKER, ProcessTree
from runners.server_log import SCANNED_LINES, Redactor, log_lines
from runners.verdict import Evidence, ServerExit
from tuner.errors import TrialFault
from tuner.launch import LaunchSpec
from tuner.launch_texts import LaunchTexts, launch_texts

_LOG_BYTES = 2**20
_KILL_S = 10.0
_PORTS = 200
_PORT_ATTEMPTS = 3
_PORT_TAKEN = ("address already in use", "errno 98", "eaddrinuse")


@dataclass(slots=True, kw_only=True)
class ProcessServer:
    """A server process with all that it starts; see `runners.served_trial.Server`.

    Attributes:
        spec: what to start.
        folder: of the attempt.
        placement: its cores.
        memory_bytes: above this it is killed; `None` for no limit.
        environment: what it inherits, before the specification's own variables.
        redact: blacks out secrets in its log.
        kept_log: where the whole log is kept; `None` keeps none.
    """

    spec: LaunchSpec
    folder: AttemptFolder
    placement: Placement
    memory_bytes: int | None
    environment: Mapping[str, str]
    redact: Redactor
    kept_log: Path | None
    host: str = "127.0.0.1"
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _watchdog: MemoryWatchdog | None = None
    _holds: list[Hold] = field(default_factory=list)
    _attempts: int = 0
    _served: bool = False
    _since: float = field(default_factory=time.time)

    def start(self) -> None:
        """See `runners.served_trial.Server.start`."""
        self._holds = [
            guardian().hold_folder(self.folder.path),
            guardian().hold_processes(ProcessTree(token=self.folder.attempt.token, since=self._since)),
        ]
        self.folder.create()
        self.folder.link(self.spec.links, symbolic=True)
        self._launch()

    def exited(self, timeout_s: float) -> ServerExit | None:
        """See `runners.served_trial.Server.exited`; a port that was snatched away is replaced by another."""
        ended = self._ended(timeout_s)
        if ended is None or self._served or self._attempts >= _PORT_ATTEMPTS or not self._lost_its_port():
            return ended
        self._end_processes()
        self._launch()
        return None

    def owns_port(self) -> bool:
        """See `runners.served_trial.Server.owns_port`."""
        for pid in self._tree().members():
            try:
                connections = psutil.Process(pid).net_connections("inet")
            except psutil.NoSuchProcess:
                continue
            except psutil.AccessDenied:
                # A server that changed its user does not show its sockets: it is taken at its word.
                self._served = True
                continue
            if any(one.status == psutil.CONN_LISTEN and one.laddr.port == self.port for one in connections):
                self._served = True
        return self._served

    def load_address(self) -> tuple[str, int]:
        """See `runners.served_trial.Server.load_address`."""
        return self.host, self.port

    def evidence(self) -> Evidence:
        """See `runners.served_trial.Server.evidence`."""
        memory = None if self._watchdog is None else self._watchdog.evidence
        return Evidence(exit=self._ended(0.0), memory=memory, lines=self._lines())

    def stop(self, grace_s: float) -> None:
        """See `runners.served_trial.Server.stop`."""
        if self._process is not None:
            if grace_s > 0 and self._process.poll() is None:
                # Its first process alone is asked, as a container's is; what it leaves is killed.
                self._process.send_signal(signal.SIGTERM)
                self._ended(grace_s)
            self._end_processes()
        self._keep_log()
        self.folder.remove()
        for hold in self._holds:
            hold.release()
        self._holds = []

    def _launch(self) -> None:
        self._attempts += 1
        self.port = free_port()
        texts = process_texts(self.spec, self.folder.scratch, self.port, self.environment)
        self.folder.write(texts.files)
        cores = "" if self.placement.server is None else cpuset(self.placement.server)
        command = [sys.executable, "-I", "-S", confined_exec.__file__, str(os.getpid()), cores, *texts.argv]
        environment = {"TMPDIR": str(self.folder.temporary), **texts.environment, MARKER: self.folder.attempt.token}
        try:
            with self._opened_log() as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
                )
            self._holds.append(guardian().hold_processes(self._tree()))
            self.folder.record(Owner.current(), leader=Owner.of(self._process.pid))
        except OSError as error:
            raise TrialFault(f"The server's process cannot be made: {error}.") from error
        self._watchdog = MemoryWatchdog(self._tree(), self.memory_bytes, self.folder.log, self._kill)

    def _opened_log(self) -> BinaryIO:
        return self.folder.log.open("ab", buffering=0)

    def _ended(self, timeout_s: float) -> ServerExit | None:
        assert self._process is not None
        if self._process.poll() is None and timeout_s > 0:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(self._process.pid)
                try:
                    select.select([descriptor], [], [], timeout_s)
                finally:
                    os.close(descriptor)
        code = self._process.poll()
        if code is None:
            return None
        return ServerExit(code=code if code >= 0 else 128 - code)

    def _lost_its_port(self) -> bool:
        """Whether it ended because somebody took the port between our choice and its start."""
        said = "\n".join(self._lines()[-50:]).lower()
        return any(words in said for words in _PORT_TAKEN)

    def _tree(self) -> ProcessTree:
        assert self._process is not None
        return ProcessTree(token=self.folder.attempt.token, leader=self._process.pid, since=self._since)

    def _kill(self) -> None:
        self._tree().kill(_KILL_S)

    def _end_processes(self) -> None:
        assert self._process is not None
        if self._watchdog is not None:
            self._watchdog.close()
        left = self._tree().kill(_KILL_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_S)
        if left:
            raise TrialFault(f"The server's processes {sorted(left)} cannot be killed; end them by hand.")

    def _lines(self) -> tuple[str, ...]:
        try:
            with self.folder.log.open("rb") as log:
                log.seek(max(log.seek(0, os.SEEK_END) - _LOG_BYTES, 0))
                return log_lines(log.read(), self.redact)[-SCANNED_LINES:]
        except FileNotFoundError:
            return ()

    def _keep_log(self) -> None:
        if self.kept_log is None or not self.folder.log.exists():
            return
        try:
            self.kept_log.parent.mkdir(parents=True, exist_ok=True)
            with self.folder.log.open(errors="replace") as log, self.kept_log.open("w") as kept:
                kept.writelines(map(self.redact, log))
        except OSError as error:
            raise TrialFault(f"{self.kept_log} cannot be written: {error.strerror}. Free some space.") from error


def process_texts(spec: LaunchSpec, scratch: Path, port: int, environment: Mapping[str, str]) -> LaunchTexts:
    """The texts of `spec` for a process of this machine.

    Raises:
        UsageError: a placeholder that means nothing.
    """
    return launch_texts(
        spec,
        host="127.0.0.1",
        port=port,
        scratch=str(scratch),
        mounts={mount.name: str(mount.source) for mount in spec.mounts},
        forwarded=environment,
    )


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at.

    It lies below the range from which the system gives ports to outgoing connections, so that no client
    (the load generator, above all) takes it before the server does.

    Raises:
        TrialFault: none was found.
    """
    low, high = 10_000, 32_768
    with contextlib.suppress(OSError, ValueError):
        high = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if high - low < _PORTS:
        low, high = 20_000, 65_536
    chooser = random.SystemRandom()
    end = time.monotonic() + _KILL_S
    for port in chooser.sample(range(low, high), _PORTS):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
        if time.monotonic() > end:
            break
    raise TrialFault(f"No free port was found on 127.0.0.1 between {low} and {high}.")
