"""The guardian, apart from any runner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runners.guardian import Guardian
from runners.process_tree import MARKER, ProcessTree

_GONE_S = 15.0


@pytest.fixture
def guarded() -> Iterator[Guardian]:
    guardian = Guardian()
    yield guardian
    guardian.close()


def test_what_is_held_goes_and_what_is_released_stays(tmp_path: Path, guarded: Guardian) -> None:
    held, released = tmp_path / "held", tmp_path / "released"
    for folder in (held, released):
        folder.mkdir()
    guarded.hold_folder(held)
    guarded.hold_folder(released).release()
    guarded.close()
    assert not held.exists()
    assert released.exists()


def test_guardian_that_was_killed_is_replaced_and_told_everything(tmp_path: Path, guarded: Guardian) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    guarded.hold_folder(first)
    for child in psutil.Process().children():
        if "runners.guardian" in " ".join(child.cmdline()):
            child.kill()
    guarded.hold_folder(second)
    guarded.close()
    assert not first.exists()
    assert not second.exists()


def test_processes_are_killed_by_their_marker(guarded: Guardian) -> None:
    environment = {**os.environ, MARKER: "guardian-test"}
    with subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE) as process:
        guarded.hold_processes(ProcessTree(token="guardian-test"))
        guarded.close()
        assert process.wait(_GONE_S) == -signal.SIGKILL


def test_forked_child_that_lives_on_does_not_hold_the_guardian_back(tmp_path: Path) -> None:
    folder = tmp_path / "held"
    folder.mkdir()
    program = (
        "import os, sys, time; from pathlib import Path; from runners.guardian import guardian\n"
        "guardian().hold_folder(Path(sys.argv[1]))\n"
        "if os.fork(): os._exit(0)\n"
        "os.close(1); time.sleep(60)"
    )
    environment = {**os.environ, MARKER: "fork-test"}
    subprocess.run([sys.executable, "-c", program, str(folder)], env=environment, check=True)
    deadline = time.monotonic() + _GONE_S
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    tree = ProcessTree(token="fork-test")
    assert tree.members()
    tree.kill(_GONE_S)
    assert not folder.exists()
