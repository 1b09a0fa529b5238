"""What every runner that starts servers must do: inherit `RunnerConformance` and give it a `Bench`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from runners.attempt_folder import AttemptFolder
from runners.process_tree import ProcessTree
from tests.runners.brief_load import BriefLoad, InterruptedLoad, LateLoad, UnansweredLoad
from tests.runners.trials import SERVER, TOKEN, a_device, a_plan, a_spec, ignore, some_attempt
from tuner.device import DeviceKind, DeviceType
from tuner.errors import OptionsError, UnavailableError, UsageError
from tuner.launch import LaunchSpec, Mount
from tuner.ports import LoadDriver, Runner
from tuner.trial import Attempt, Infeasible, Measurement, Phase, Progress, Reason, TrialPlan

_GONE_S = 15.0
_BEGUN_S = 30.0
_TUNER = Path(__file__).with_name("long_trial.py")


class Bench(Protocol):
    """What the suite needs to know of a runner."""

    def runner(self, driver: LoadDriver | None, **options: object) -> Runner:
        """A runner with this load driver (`None`: the project's own)."""
        ...

    def left(self, attempt: Attempt) -> list[str]:
        """What is left of an attempt's server, in words."""
        ...


def is_left(bench: Bench, attempt: Attempt) -> list[str]:
    """Everything that is left of an attempt."""
    left = [f"process {pid}" for pid in ProcessTree(token=attempt.token).members()] + bench.left(attempt)
    folder = AttemptFolder.locate(attempt).path
    return [*left, str(folder)] if folder.exists() else left


def wait_until_gone(bench: Bench, attempt: Attempt) -> list[str]:
    """What is left of an attempt after the guardian had its time."""
    deadline = time.monotonic() + _GONE_S
    while (left := is_left(bench, attempt)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


class RunnerConformance:
    """The laws of `tuner.ports.Runner`, shown on real servers."""

    @pytest.fixture
    def bench(self) -> Bench:
        raise NotImplementedError

    def outcome(self, bench: Bench, spec: LaunchSpec, plan: TrialPlan | None = None, **options: object) -> object:
        """The outcome of a trial, after which nothing must be left."""
        attempt = some_attempt()
        runner = bench.runner(BriefLoad(), **options)
        found = runner.run(spec, a_device(), plan or a_plan(), attempt, ignore)
        assert is_left(bench, attempt) == []
        assert TOKEN not in repr(found)
        return found

    def test_good_server_is_measured_with_its_costs_and_phases(self, bench: Bench) -> None:
        seen: list[Phase] = []
        attempt = some_attempt()
        measured = bench.runner(None).run(
            a_spec("ok"), a_device(), a_plan(), attempt, lambda progress: seen.append(progress.phase)
        )
        assert isinstance(measured, Measurement), measured
        assert measured.completed > 0
        assert measured.metrics["cost_per_hour"].value == 0.36
        assert "cost_per_million_requests" in measured.metrics
        assert min(measured.phases.start_s, measured.phases.load_s, measured.phases.stop_s) > 0
        assert seen[0] is Phase.STARTING
        assert seen[-1] is Phase.STOPPING
        assert is_left(bench, attempt) == []

    @pytest.mark.parametrize(
        ("mode", "reason", "words"),
        [
            ("dies at start", Reason.DID_NOT_START, "exit status 1: RuntimeError: no such device"),
            ("refuses", Reason.INVALID, "block size 16 is not supported"),
            ("out of GPU memory", Reason.OUT_OF_MEMORY, "Tried to allocate 2.00 GiB"),
            ("eats memory at start", Reason.OUT_OF_MEMORY, "64 MiB"),
            ("child eats memory", Reason.OUT_OF_MEMORY, "64 MiB"),
            ("dies under load", Reason.DIED, "exit status 3: fatal: the engine loop has died"),
            ("eats memory under load", Reason.OUT_OF_MEMORY, "64 MiB"),
            ("garbage", Reason.ERRORS, "requests failed"),
            ("one in ten", Reason.ERRORS, "500"),
        ],
    )
    def test_failure_is_classified(self, bench: Bench, mode: str, reason: Reason, words: str) -> None:
        found = self.outcome(bench, a_spec(mode))
        assert isinstance(found, Infeasible)
        assert (found.reason, words in found.message) == (reason, True), found.message
        assert any("serving with the token ***" in line for line in found.log_tail)

    @pytest.mark.parametrize("mode", ["never ready", "silent", "babbles"])
    def test_server_that_never_becomes_ready_times_out(self, bench: Bench, mode: str) -> None:
        found = self.outcome(bench, a_spec(mode), a_plan(start_deadline_s=1.0))
        assert isinstance(found, Infeasible)
        assert found.reason is Reason.TIMED_OUT
        assert "not ready within 1 s" in found.message

    def test_server_that_hangs_under_load_times_out(self, bench: Bench) -> None:
        found = self.outcome(bench, a_spec("hangs"), a_plan(request_timeout_s=0.3))
        assert isinstance(found, Infeasible)
        assert found.reason is Reason.TIMED_OUT
        assert "answered none of" in found.message

    def test_errors_keep_the_partial_measurement(self, bench: Bench) -> None:
        found = self.outcome(bench, a_spec("one in ten"))
        assert isinstance(found, Infeasible)
        assert found.partial is not None
        assert found.partial.completed > 0
        assert self.outcome(bench, a_spec("one in ten"), a_plan(max_error_rate=0.5)).__class__ is Measurement

    def test_program_that_cannot_be_executed_did_not_start(self, bench: Bench) -> None:
        found = self.outcome(bench, a_spec("ok", argv=("no-such-program", "{port}")))
        assert isinstance(found, Infeasible)
        assert found.reason is Reason.DID_NOT_START
        assert "no-such-program" in found.message

    def test_generator_that_was_late_once_loads_again(self, bench: Bench) -> None:
        found = bench.runner(LateLoad(times=1)).run(a_spec("ok"), a_device(), a_plan(), some_attempt(), ignore)
        assert isinstance(found, Measurement), found

    def test_late_generator_is_no_fault_of_the_server(self, bench: Bench) -> None:
        found = bench.runner(LateLoad(times=2)).run(a_spec("ok"), a_device(), a_plan(), some_attempt(), ignore)
        assert isinstance(found, Infeasible)
        assert found.reason is Reason.GENERATOR_BOUND

    def test_ready_server_that_answers_no_more_is_no_fault_of_the_user(self, bench: Bench) -> None:
        found = bench.runner(UnansweredLoad()).run(a_spec("ok"), a_device(), a_plan(), some_attempt(), ignore)
        assert isinstance(found, Infeasible)
        assert found.reason is Reason.TIMED_OUT

    def test_interrupt_leaves_nothing(self, bench: Bench) -> None:
        attempt = some_attempt()
        with pytest.raises(KeyboardInterrupt):
            bench.runner(InterruptedLoad()).run(a_spec("ok"), a_device(), a_plan(), attempt, ignore)
        assert is_left(bench, attempt) == []

    def test_interrupt_while_starting_leaves_nothing(self, bench: Bench) -> None:
        attempt = some_attempt()

        def interrupt(progress: Progress) -> None:
            if progress.elapsed_s > 0:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            bench.runner(BriefLoad()).run(a_spec("never ready"), a_device(), a_plan(), attempt, interrupt)
        assert is_left(bench, attempt) == []

    def test_server_that_ignores_being_asked_is_killed(self, bench: Bench) -> None:
        assert self.outcome(bench, a_spec("ignores SIGTERM"), a_plan(stop_deadline_s=0.3)).__class__ is Measurement

    def test_detached_worker_goes_with_its_server(self, bench: Bench) -> None:
        assert self.outcome(bench, a_spec("detaches")).__class__ is Measurement

    def test_server_gets_its_texts_files_and_mounts(self, bench: Bench, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        linked, mounted = tmp_path / "weights.bin", tmp_path / "model"
        linked.write_text("weights")
        mounted.mkdir()
        (mounted / "config.json").write_text("{}")
        spec = a_spec(
            "reports",
            "{scratch}/deep/conf.json",
            "{scratch}/model/1/weights.bin",
            "{mount:model}/config.json",
            environment={"HF_TOKEN": TOKEN, "PLACED": "{{literal}} {port}"},
            files={"server.py": SERVER.read_text(), "deep/conf.json": '{"port": {port}, "x": {"y": "{unknown}"}}'},
            templated_files=frozenset({"deep/conf.json"}),
            links={"model/1/weights.bin": linked},
            mounts=(Mount(name="model", source=mounted, target="/models/mine"),),
        )
        found = self.outcome(bench, spec)
        assert isinstance(found, Infeasible)
        said = "\n".join(found.log_tail)
        assert "HF_TOKEN ***" in said
        assert "PLACED {literal} " in said
        assert "weights.bin weights" in said
        assert "config.json {}" in said
        assert '"x": {"y": "{unknown}"}}' in said
        assert "{port}" not in said

    def test_server_is_pinned_to_as_many_cores_as_it_pays_for(self, bench: Bench) -> None:
        cores = len(os.sched_getaffinity(0))
        found = self.outcome(bench, a_spec("reports"))
        assert isinstance(found, Infeasible)
        assert cores == 1 or f"cores [{cores - 1}]" in found.log_tail

    def test_whole_log_is_kept_on_demand_without_secrets(self, bench: Bench, tmp_path: Path) -> None:
        self.outcome(bench, a_spec("dies at start"), keep_logs=str(tmp_path / "logs"))
        (log,) = (tmp_path / "logs").iterdir()
        assert "RuntimeError: no such device" in log.read_text()
        assert TOKEN not in log.read_text()

    def test_runner_that_can_be_used_answers(self, bench: Bench) -> None:
        assert bench.runner(BriefLoad()).answers()

    def test_good_server_passes_the_check(self, bench: Bench) -> None:
        bench.runner(BriefLoad()).check(a_spec("ok"), a_device())

    @pytest.mark.parametrize(
        ("device", "words"),
        [
            (a_device(cpus=4096), "has 4096 cpus, and this machine offers"),
            (a_device(cpuset="0,4000"), "does not offer 4000"),
            (a_device(memory_bytes=2**50), "of memory"),
            (a_device(kind=DeviceKind.GPU, gpus=900), "GPU"),
        ],
    )
    def test_device_that_is_not_here_fails_the_check(self, bench: Bench, device: DeviceType, words: str) -> None:
        with pytest.raises(UnavailableError, match=words):
            bench.runner(BriefLoad()).check(a_spec("ok"), device)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"argv": ("python3", "{prot}")}, "Did you mean 'port'"),
            ({"argv": ("python3", "{")}, "single '{'"),
            ({"refusals": ("(",)}, "no regular expression"),
            ({"links": {"x": Path("/no/such/file")}}, "does not exist"),
        ],
    )
    def test_specification_that_cannot_work_fails_the_check(
        self, bench: Bench, changes: dict[str, object], words: str
    ) -> None:
        with pytest.raises(UsageError, match=words):
            bench.runner(BriefLoad()).check(a_spec("ok", **changes), a_device())

    def test_generator_cores_that_are_not_here_fail_the_check(self, bench: Bench) -> None:
        with pytest.raises(UnavailableError, match="generator_cpuset names the cores 4000"):
            bench.runner(BriefLoad(), generator_cpuset="4000").check(a_spec("ok"), a_device())

    def test_device_without_limits_is_measured(self, bench: Bench) -> None:
        device = a_device(cpus=None, memory_bytes=None)
        measured = bench.runner(BriefLoad()).run(a_spec("ok"), device, a_plan(), some_attempt(), ignore)
        assert isinstance(measured, Measurement)

    def test_interrupt_while_stopping_leaves_nothing(self, bench: Bench) -> None:
        attempt = some_attempt()

        def interrupt(progress: Progress) -> None:
            if progress.phase is Phase.STOPPING:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            bench.runner(BriefLoad()).run(a_spec("ok"), a_device(), a_plan(), attempt, interrupt)
        assert is_left(bench, attempt) == []

    def test_options_are_refused_together(self, bench: Bench) -> None:
        with pytest.raises(OptionsError) as caught:
            bench.runner(BriefLoad(), keep_log="x", generator_cpuset="one")
        told = {fault.where: str(fault) for fault in caught.value.faults}
        assert "Did you mean 'keep_logs'?" in told["keep_log"]
        assert "Write for example 0-1,4." in told["generator_cpuset"]

    def test_options_are_described(self, bench: Bench) -> None:
        schema = type(bench.runner(BriefLoad())).options_schema()
        assert schema["type"] == "object"

    def test_killed_tuner_leaves_nothing(self, bench: Bench) -> None:
        attempt = some_attempt()
        with _tuner(bench, attempt) as process:
            process.kill()
            process.wait()
        assert wait_until_gone(bench, attempt) == []

    def test_reap_removes_what_a_dead_tuner_and_its_dead_guardian_left(self, bench: Bench) -> None:
        attempt = some_attempt(study_id=uuid.uuid4().hex)
        with _tuner(bench, attempt) as process:
            runner = bench.runner(BriefLoad())
            assert runner.reap(attempt.study_id) == 0
            assert is_left(bench, attempt) != []
            for child in psutil.Process(process.pid).children():
                if "runners.guardian" in " ".join(child.cmdline()):
                    child.kill()
            process.kill()
            process.wait()
        bench.runner(BriefLoad()).reap(attempt.study_id)
        assert wait_until_gone(bench, attempt) == []


@contextlib.contextmanager
def _tuner(bench: Bench, attempt: Attempt) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is in the middle of the attempt's load."""
    runner = type(bench.runner(BriefLoad()))
    command = [sys.executable, str(_TUNER), f"{runner.__module__}:{runner.__name__}", attempt.study_id, attempt.token]
    environment = {**os.environ, "PYTHONPATH": str(_TUNER.parents[2])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            deadline = time.monotonic() + _BEGUN_S
            while process.stdout.readline().strip() != b"LOADING":
                assert process.poll() is None
                assert time.monotonic() < deadline
            yield process
        finally:
            process.kill()
