"""Trials at once on one machine get cores of their own."""

from __future__ import annotations

import fcntl

import pytest

from runners import core_claims
from runners.attempt_folder import user_folder
from runners.core_claims import claimed
from tests.runners.trials import a_device

CORES = range(5000, 5008)
"""No machine of ours has these, so that no trial that runs meanwhile has claimed any."""


def test_two_servers_at_once_share_no_core(caplog: pytest.LogCaptureFixture) -> None:
    with claimed(a_device(cpus=2), CORES) as first, claimed(a_device(cpus=2), CORES) as second:
        assert first.server == (5006, 5007)
        assert second.server == (5004, 5005)
        assert second.generator == (5000, 5001, 5002, 5003)
    assert caplog.messages == []


def test_cores_are_free_again_after_the_trial() -> None:
    for _ in range(2):
        with claimed(a_device(cpus=8), CORES) as placement:
            assert placement.server == tuple(CORES)


def test_where_there_are_too_few_cores_they_are_shared_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with claimed(a_device(cpus=6), CORES), claimed(a_device(cpus=3), CORES) as second:
        assert second.server is not None
        assert {5000, 5001} < set(second.server)
    assert len(caplog.messages) == 1
    assert "with another trial" in caplog.messages[0]


def test_a_cpuset_is_taken_as_written_and_a_second_server_avoids_it(caplog: pytest.LogCaptureFixture) -> None:
    with claimed(a_device(cpus=2, cpuset="5006-5007"), CORES), claimed(a_device(cpus=2), CORES) as second:
        assert second.server == (5004, 5005)
    with claimed(a_device(cpus=2, cpuset="5000-5001"), CORES), claimed(a_device(cpus=2, cpuset="5000-5001"), CORES):
        assert "5000,5001" in caplog.messages[0]


def test_a_device_without_cpus_claims_nothing() -> None:
    with claimed(a_device(cpus=None), CORES) as first, claimed(a_device(cpus=8), CORES) as second:
        assert first.server is None
        assert second.server == tuple(CORES)


def test_a_trial_that_was_stopped_while_it_chose_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_claims, "_TURN_S", 0.05)
    with claimed(a_device(cpus=1), CORES), (user_folder() / "cores" / "turn").open("ab") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with claimed(a_device(cpus=1), CORES) as placement:
            assert placement.server == (5006,)
