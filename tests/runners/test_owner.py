"""Who started a server."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from runners.owner import Owner


def test_reading_an_owner_undoes_writing_it() -> None:
    assert Owner.parse(str(Owner.current())) == Owner.current()
    assert Owner.parse("somebody else's label") is None


def test_living_process_is_not_dead() -> None:
    assert not Owner.current().is_dead()


def test_ended_process_is_dead_before_and_after_it_is_waited_for() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owner = Owner.of(process.pid)
        assert not owner.is_dead()
        process.kill()
        process.wait()
    assert owner.is_dead()


def test_other_process_with_the_same_number_is_not_the_owner() -> None:
    assert replace(Owner.current(), started_ticks=1).is_dead()


def test_process_of_an_earlier_boot_is_dead() -> None:
    assert replace(Owner.current(), boot_id="another").is_dead()


def test_process_that_cannot_be_seen_from_here_is_left_alone() -> None:
    assert not replace(Owner.current(), pid_namespace="pid:[1]", started_ticks=1).is_dead()
