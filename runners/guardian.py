"""A small process that outlives the tuner by a moment and ends what it left running.

`kill -9` leaves a program no last word. So the first trial starts a guardian in a session of its own and
tells it, before each thing is started, what that will be; once the tuner has died, the guardian
removes what was not released, and ends. It reads only the standard library, to start fast and stay small.

Messages are lines of JSON on its standard input: `{"hold": id, "kind": kind, ...}`, `{"release": id}`.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runners.process_tree import ProcessTree

_CONTAINER_DEADLINE_S = 30.0
_UNBORN_S = 5.0
"""A container that was announced and is not there may still be in the making for so long."""
_PROCESS_DEADLINE_S = 10.0
_EXIT_DEADLINE_S = 5.0
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from runners.guardian import main; main(int(sys.argv[2]))"


class Guardian:
    """The tuner's end of the guardian; `guardian()` gives the one of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Mapping[str, str | float]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = os.getpid()
        atexit.register(self.close)

    def hold_container(self, name: str, socket_path: str) -> Hold:
        """The container called `name` is removed if this process dies before the release."""
        return self._hold({"kind": "container", "name": name, "socket": socket_path})

    def hold_processes(self, tree: ProcessTree) -> Hold:
        """The processes of `tree` are killed if this process dies before the release."""
        return self._hold({"kind": "processes", "token": tree.token, "leader": tree.leader or 0, "since": tree.since})

    def hold_folder(self, path: Path) -> Hold:
        """The folder is removed if this process dies before the release."""
        return self._hold({"kind": "folder", "path": str(path)})

    def release(self, key: str) -> None:
        """Forgets what `key` stands for: it is gone."""
        with self._lock:
            self._held.pop(key, None)
            self._tell({"release": key})

    def close(self) -> None:
        """Ends the guardian; it first removes what is still held."""
        with self._lock:
            process, self._process = self._process, None
            if process is None or os.getpid() != self._pid:
                return
            if _ended(process) != 0 and self._held:
                _ended(self._replacement())

    def _hold(self, thing: Mapping[str, str | float]) -> Hold:
        key = uuid.uuid4().hex
        with self._lock:
            self._held[key] = thing
            self._tell({"hold": key, **thing})
        return Hold(guardian=self, key=key)

    def _tell(self, message: Mapping[str, str | float]) -> None:
        if self._process is not None and self._process.poll() is None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                return
        # None yet, or somebody killed it: a new one is told everything that is held now.
        if self._process is not None:
            _ended(self._process)
        self._process = self._replacement()

    def _replacement(self) -> subprocess.Popen[bytes]:
        process = _spawn()
        assert process.stdin is not None
        for key, thing in self._held.items():
            process.stdin.write(json.dumps({"hold": key, **thing}).encode() + b"\n")
        return process


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Something that the guardian removes unless it is released first."""

    guardian: Guardian
    key: str

    def release(self) -> None:
        """To be called when the thing is gone."""
        self.guardian.release(self.key)


_guardians: dict[int, Guardian] = {}


def guardian() -> Guardian:
    """The guardian of this process, the same one on every call; it is started by the first thing to hold."""
    pid = os.getpid()
    if pid not in _guardians:
        _guardians[pid] = Guardian()
    return _guardians[pid]


def _spawn() -> subprocess.Popen[bytes]:
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    root = str(Path(__file__).resolve().parents[1])
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, root, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        cwd="/",
        env=kept,
        start_new_session=True,
    )


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """Tells a guardian to end; its exit status, or `None` where it is still clearing up."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if process.stdin is not None:
            process.stdin.close()
        return process.wait(_EXIT_DEADLINE_S)
    return None


def main(parent: int) -> None:
    """Waits until the process `parent`, which started this one, has died or closed the pipe; then clears up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    held: dict[str, dict[str, str | float]] = {}
    for line in _lines_until_death(parent):
        message = json.loads(line)
        if "release" in message:
            held.pop(message["release"], None)
        else:
            held[message.pop("hold")] = message
    for kind in ("container", "processes", "folder"):
        for thing in held.values():
            if thing["kind"] == kind:
                _remove(thing)


def _lines_until_death(parent: int) -> Iterator[bytes]:
    """Lines of standard input up to its end, or to the death of `parent`.

    The end alone is not enough: a child that the tuner forked may hold the other end of the pipe open.
    """
    stdin = sys.stdin.fileno()
    os.set_blocking(stdin, False)
    poll = select.poll()
    poll.register(stdin, select.POLLIN | select.POLLHUP)
    dead = False
    try:
        poll.register(os.pidfd_open(parent), select.POLLIN)
        dead = os.getppid() != parent
    except OSError:
        dead = True
    pending = b""
    while True:
        if not dead:
            dead = any(descriptor != stdin for descriptor, _ in poll.poll())
        try:
            chunk = os.read(stdin, 65536)
        except BlockingIOError:
            if dead:
                return
            continue
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        yield from lines


def _remove(thing: Mapping[str, str | float]) -> None:
    # What fails here has no one to tell; `Runner.reap` finds it at the next run.
    with contextlib.suppress(Exception):
        if thing["kind"] == "container":
            remove_container(str(thing["socket"]), str(thing["name"]))
        elif thing["kind"] == "processes":
            tree = ProcessTree(
                token=str(thing["token"]), leader=int(thing["leader"]) or None, since=float(thing["since"])
            )
            tree.kill(_PROCESS_DEADLINE_S)
        else:
            shutil.rmtree(str(thing["path"]), ignore_errors=True)


def remove_container(socket_path: str, name: str) -> None:
    """Removes a container by force; one that is still in the making is waited for, shortly."""
    began = time.monotonic()
    while time.monotonic() < began + _CONTAINER_DEADLINE_S:
        status = _delete(socket_path, f"/containers/{urllib.parse.quote(name)}?force=true&v=true")
        if status in (200, 204) or (status == 404 and time.monotonic() > began + _UNBORN_S):
            return
        time.sleep(0.2)


def _delete(socket_path: str, path: str) -> int:
    connection = http.client.HTTPConnection("docker", timeout=_CONTAINER_DEADLINE_S)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(_CONTAINER_DEADLINE_S)
        connection.sock.connect(socket_path)
        connection.request("DELETE", path)
        return connection.getresponse().status
    finally:
        connection.close()
