"""The process runner on real servers."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runners import process_server
from runners.process import ProcessRunner
from tests.runners.brief_load import BriefLoad
from tests.runners.conformance import Bench, RunnerConformance
from tests.runners.trials import a_device, a_plan, a_spec, ignore, some_attempt
from tuner.errors import UnavailableError
from tuner.ports import LoadDriver
from tuner.trial import Attempt, Infeasible, Measurement


@pytest.fixture(autouse=True)
def _this_python_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python3` may be a script of a version manager, many times slower than what it starts."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


class ProcessBench:
    def runner(self, driver: LoadDriver | None, **options: object) -> ProcessRunner:
        return ProcessRunner(options, driver)

    def left(self, attempt: Attempt) -> list[str]:
        return []


class TestProcessRunner(RunnerConformance):
    @pytest.fixture
    def bench(self) -> Bench:
        return ProcessBench()


def test_program_that_is_not_installed_fails_the_check() -> None:
    with pytest.raises(UnavailableError, match=r"'no-such-program' is not on the PATH\. Install it"):
        ProcessRunner({}).check(a_spec("ok", argv=("no-such-program",)), a_device())


def test_fraction_of_a_core_needs_containers() -> None:
    with pytest.raises(UnavailableError, match=r"0.5 cpus, and a process can be given whole cores only"):
        ProcessRunner({}).check(a_spec("ok"), a_device(cpus=0.5))


def test_port_taken_before_the_server_has_it_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = iter([taken.getsockname()[1], process_server.free_port()])
        monkeypatch.setattr(process_server, "free_port", lambda: next(ports))
        outcome = ProcessRunner({}, BriefLoad()).run(a_spec("ok"), a_device(), a_plan(), some_attempt(), ignore)
    assert isinstance(outcome, Measurement)


def test_shared_memory_of_a_killed_server_goes_with_it() -> None:
    outcome = ProcessRunner({}, BriefLoad()).run(
        a_spec("shares memory"), a_device(), a_plan(start_deadline_s=1.5), some_attempt(), ignore
    )
    assert isinstance(outcome, Infeasible)
    (name,) = [line.removeprefix("shares ") for line in outcome.log_tail if line.startswith("shares ")]
    assert not Path("/dev/shm", name).exists()


def test_memory_of_a_process_that_maps_much_and_uses_little_is_no_breach() -> None:
    reserving = (
        "import mmap, runpy, sys; m = mmap.mmap(-1, 2**34); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    spec = a_spec("ok")
    spec = replace(spec, argv=("python3", "-c", reserving, *spec.argv[1:]))
    outcome = ProcessRunner({}, BriefLoad()).run(spec, a_device(), a_plan(), some_attempt(), ignore)
    assert isinstance(outcome, Measurement)
