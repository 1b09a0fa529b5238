"""Which cores server and load generator get."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.placement import confined, cpuset, parse_cpuset, place
from tests.runners.trials import a_device
from tuner.errors import UnavailableError, UsageError

MACHINES = st.sets(st.integers(0, 255), min_size=1, max_size=64)


@given(MACHINES, st.floats(0.01, 64))
def test_server_and_generator_share_no_core_and_miss_none(machine: set[int], cpus: float) -> None:
    device = a_device(cpus=cpus)
    if cpus > len(machine):
        with pytest.raises(UnavailableError, match="this machine offers"):
            place(device, machine)
        return
    placement = place(device, machine)
    server, generator = set(placement.server or ()), set(placement.generator or ())
    assert server | generator == machine
    assert not server & generator
    assert len(server) - 1 < cpus <= len(server)
    assert placement.quota == (None if cpus == len(server) else cpus)


@given(MACHINES, MACHINES, st.integers(0, 63))
def test_cores_that_others_have_are_taken_only_where_there_are_no_others(
    machine: set[int], taken: set[int], number: int
) -> None:
    cpus = 1 + number % len(machine)
    placement = place(a_device(cpus=cpus), machine, taken & machine)
    server, generator = set(placement.server or ()), set(placement.generator or ())
    free = machine - taken
    assert len(server) == cpus
    assert server <= free or free <= server
    assert generator == (free - server or machine - server)


@given(st.sets(st.integers(0, 4095), min_size=1))
def test_reading_a_cpuset_undoes_writing_it(cores: set[int]) -> None:
    assert set(parse_cpuset(cpuset(cores))) == cores


def test_ranges_are_read() -> None:
    assert parse_cpuset("0-2,7") == (0, 1, 2, 7)


@pytest.mark.parametrize("text", ["", "one", "3-1", "-1", "1,,2"])
def test_what_is_no_cpuset_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"lists no cores\. Write for example 0-1,4"):
        parse_cpuset(text)


def test_device_without_cpus_is_left_to_the_system() -> None:
    placement = place(a_device(cpus=None), {0, 1})
    assert placement.server is None
    assert placement.generator is None


def test_cpuset_is_taken_as_it_is_written_and_may_have_a_quota() -> None:
    placement = place(a_device(cpus=1.5, cpuset="0,2"), range(4))
    assert placement.server == (0, 2)
    assert placement.generator == (1, 3)
    assert placement.quota == 1.5


def test_confinement_ends_with_its_context() -> None:
    before = os.sched_getaffinity(0)
    with confined({min(before)}):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before
