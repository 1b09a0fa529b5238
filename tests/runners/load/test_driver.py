"""The driver with its real generator process against a real server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest

from runners.load.driver import SubprocessLoadDriver
from tests.runners.load.conftest import ServerStarter
from tuner.errors import TunerError, UnavailableError, UsageError
from tuner.launch import CompletionRequest, KServeRequest, RequestSpec, TemplateRequest, TensorInput
from tuner.slo import Slo
from tuner.trial import Measurement, Phase, Progress, TrialPlan
from tuner.workload import (
    Arrival,
    ClosedLoop,
    Lengths,
    OpenLoop,
    RateBracket,
    TemplateShapes,
    TensorShapes,
    TokenShapes,
    TraceReplay,
    TraceRequest,
    Workload,
)

TOKENS = TokenShapes(input_tokens=Lengths.constant(20), output_tokens=Lengths.constant(6))


def a_plan(arrival: Arrival, *slos: str) -> TrialPlan:
    return TrialPlan(
        workload=Workload(arrival=arrival, requests=TensorShapes()),
        slos=tuple(Slo.parse(text) for text in slos),
        warmup_s=0.2,
        windows=2,
        window_s=0.3,
        request_timeout_s=3.0,
        max_error_rate=1.0,
        seed=3,
    )


def a_template(path: str, **changes: object) -> TemplateRequest:
    return TemplateRequest(shapes=TemplateShapes(path=path, **changes))  # type: ignore[arg-type]


def a_kserve(model: str) -> KServeRequest:
    inputs = (TensorInput(name="x", datatype="FP32", dims=((1,), (8,)), labels=("", "")),)
    return KServeRequest(model_name=model, inputs=inputs, outputs=("y",))


def ignore(progress: Progress) -> None:
    """Nobody watches."""


OPEN = OpenLoop(rate_rps=100.0)
CASES: Mapping[str, tuple[RequestSpec, Arrival]] = {
    "template": (a_template("/", body="{request_id}", expect="hello"), OPEN),
    "kserve": (a_kserve("m"), OPEN),
    "kserve lies": (a_kserve("lies"), OPEN),
    "completions": (CompletionRequest(model_name="m", shapes=TOKENS, token_ids=(1, 9), path="/stream"), OPEN),
    "texts": (CompletionRequest(model_name="m", shapes=TOKENS, token_ids=None, path="/texts"), OPEN),
    "pieces": (a_template("/pieces", streamed=True), OPEN),
    "tenth fails": (a_template("/tenth"), OPEN),
    "hang": (a_template("/hang"), OPEN),
    "dies": (a_template("/die"), OPEN),
    "closed loop": (a_template("/slow"), ClosedLoop(clients=4)),
    "thinking": (a_template("/slow"), ClosedLoop(clients=4, think_time_s=0.035)),
    "closed loop, dead server": (a_template("/die"), ClosedLoop(clients=4)),
    "trace": (
        a_template("/"),
        TraceReplay(source="t", requests=tuple(TraceRequest(arrival_s=index / 50) for index in range(10))),
    ),
}


@pytest.fixture(scope="module")
def found(start_server: ServerStarter) -> Mapping[str, Measurement]:
    """All cases, several at a time: what takes long is starting interpreters."""
    shared = start_server()

    def run(name: str) -> Measurement:
        request, arrival = CASES[name]
        url = start_server() if "/die" in str(request) else shared
        return SubprocessLoadDriver().drive(url, request, a_plan(arrival, "p99(latency) <= 500 ms"), ignore)

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(CASES, pool.map(run, CASES), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_every_request_is_accounted_for(found: Mapping[str, Measurement], name: str) -> None:
    measured = found[name]
    assert measured.sent > 0
    assert measured.sent == measured.completed + measured.failed + measured.timed_out
    assert len(measured.windows) == 2
    assert "p99(latency)" in measured.metrics


@pytest.mark.parametrize(
    "name",
    [
        "template",
        "kserve",
        "completions",
        "texts",
        "pieces",
        "closed loop",
        "trace",
    ],
)
def test_good_answers_are_all_counted(found: Mapping[str, Measurement], name: str) -> None:
    assert found[name].errors == ()
    assert found[name].completed == found[name].sent
    assert found[name].metrics["error_rate"].value == 0.0


def test_texts_are_as_long_as_their_server_says(found: Mapping[str, Measurement]) -> None:
    def prompt_tokens_per_request(name: str) -> float:
        metrics = found[name].metrics
        prompts = metrics["total_throughput"].value - metrics["output_throughput"].value
        return prompts / metrics["throughput"].value

    assert prompt_tokens_per_request("texts") == pytest.approx(1000, rel=0.2)
    assert prompt_tokens_per_request("completions") == pytest.approx(20, rel=0.2)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("kserve lies", "no inference answer"),
        ("dies", "cannot connect"),
        ("closed loop, dead server", "cannot connect"),
    ],
)
def test_bad_answers_are_failures_with_their_reason(
    found: Mapping[str, Measurement], name: str, complaint: str
) -> None:
    measured = found[name]
    assert measured.failed == measured.sent
    assert any(complaint in error for error in measured.errors)
    assert all(len(error) < 230 for error in measured.errors)
    assert measured.metrics["p50(latency)"].value == 3.0


def test_load_ends_early_once_too_many_requests_have_failed(start_server: ServerStarter) -> None:
    plan = replace(a_plan(OPEN), window_s=30.0, max_error_rate=0.01)
    measured = SubprocessLoadDriver().drive(start_server(), a_template("/die"), plan, ignore)
    assert measured.metrics["error_rate"].value > plan.max_error_rate
    assert "too many requests had failed" in measured.errors[-1]
    assert measured.sent < 500


def test_hanging_server_times_every_request_out(found: Mapping[str, Measurement]) -> None:
    assert found["hang"].timed_out == found["hang"].sent


def test_one_failure_in_ten_is_an_error_rate_of_a_tenth(found: Mapping[str, Measurement]) -> None:
    assert found["tenth fails"].metrics["error_rate"].value == pytest.approx(0.1, abs=0.02)
    assert any(error.startswith("HTTP 500: out of luck") for error in found["tenth fails"].errors)


def test_stream_reports_tokens_and_gaps(found: Mapping[str, Measurement]) -> None:
    metrics = {name: estimate.value for name, estimate in found["completions"].metrics.items()}
    assert 0.004 < metrics["p50(ttft)"] < metrics["p50(latency)"]
    assert metrics["p50(tpot)"] >= 0.004
    assert metrics["p50(itl)"] >= 0.004
    assert metrics["output_throughput"] > metrics["throughput"]
    assert metrics["total_throughput"] > metrics["output_throughput"]


def test_streamed_template_reports_ttft_without_tokens(found: Mapping[str, Measurement]) -> None:
    assert "p50(ttft)" in found["pieces"].metrics
    assert "output_throughput" not in found["pieces"].metrics


def test_thinking_clients_send_no_more_than_their_pauses_allow(found: Mapping[str, Measurement]) -> None:
    assert 0 < found["thinking"].metrics["throughput"].value <= 4 / 0.035


def test_dead_server_is_not_hammered(found: Mapping[str, Measurement]) -> None:
    """Four clients that try at 0, 20, 60, 140, 300… ms within a second."""
    assert found["closed loop, dead server"].sent < 60


def test_same_seed_sends_the_same_number_of_requests_whatever_the_server_does(found: Mapping[str, Measurement]) -> None:
    assert len({found[name].sent for name, (_, arrival) in CASES.items() if arrival is OPEN}) == 1


def test_progress_names_its_phase_and_how_long_it_takes(start_server: ServerStarter) -> None:
    seen: list[Progress] = []
    SubprocessLoadDriver().drive(start_server(), a_template("/"), replace(a_plan(OPEN), window_s=0.7), seen.append)
    assert [progress.phase for progress in seen][:1] == [Phase.WARMING_UP]
    assert seen[-1].phase is Phase.LOADING
    assert seen[-1].expected_s == pytest.approx(1.4)


def test_highest_rate_of_one_worker_is_found(start_server: ServerStarter) -> None:
    """One worker of 5 ms on average serves less than 200 rps."""
    arrival = OpenLoop(rate_rps=RateBracket(low=40.0, high=800.0, resolution=0.4))
    plan = replace(a_plan(arrival, "p90(latency) <= 100 ms"), window_s=0.5)
    measured = SubprocessLoadDriver().drive(start_server(), a_template("/queue"), plan, ignore)
    assert 40 < measured.metrics["max_arrival_rate"].value < 240
    assert measured.metrics["p90(latency)"].value <= 0.1
    assert measured.probes[-1].held
    assert any(not probe.held for probe in measured.probes)


def test_rate_search_that_holds_nothing_shows_by_how_much(start_server: ServerStarter) -> None:
    arrival = OpenLoop(rate_rps=RateBracket(low=20.0, high=60.0))
    plan = a_plan(arrival, "p50(latency) <= 1 ms")
    measured = SubprocessLoadDriver().drive(start_server(), a_template("/slow"), plan, ignore)
    assert "max_arrival_rate" not in measured.metrics
    assert measured.metrics["p50(latency)"].value > 0.004
    assert measured.probes[-1].rate_rps == 20.0


def test_nothing_at_the_address_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=r"Nothing answers at 127\.0\.0\.1"):
            SubprocessLoadDriver().drive(url, a_template("/"), a_plan(OPEN), ignore)


def test_request_that_cannot_be_sent_is_a_usage_error(start_server: ServerStarter) -> None:
    with pytest.raises(UsageError, match="header 'Host'"):
        SubprocessLoadDriver().drive(start_server(), a_template("/", headers=(("Host", "x"),)), a_plan(OPEN), ignore)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


class Interrupted(BaseException):
    """As KeyboardInterrupt is, without stopping pytest."""


def test_interrupt_leaves_no_process(start_server: ServerStarter) -> None:
    def interrupt(progress: Progress) -> None:
        raise Interrupted

    url = start_server()
    before = children()
    with pytest.raises(Interrupted):
        SubprocessLoadDriver().drive(url, a_template("/"), a_plan(OPEN), interrupt)
    assert children() <= before


def test_generator_ends_when_its_parent_is_killed(start_server: ServerStarter) -> None:
    script = f"""
        import sys
        from runners.load.driver import SubprocessLoadDriver
        from tests.runners.load.test_driver import OPEN, a_plan, a_template
        from dataclasses import replace
        def show(progress):
            print("on", flush=True)
        plan = replace(a_plan(OPEN), window_s=30.0)
        SubprocessLoadDriver().drive({start_server()!r}, a_template("/"), plan, show)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"on\n"
        generators = psutil.Process(parent.pid).children()
        assert generators
        os.kill(parent.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(generators, timeout=10)
        assert not alive


def test_generator_that_dies_is_a_fault_of_ours(start_server: ServerStarter) -> None:
    def kill(progress: Progress) -> None:
        for child in set(psutil.Process().children()) - before:
            child.kill()

    url = start_server()
    before = set(psutil.Process().children())
    with pytest.raises(TunerError, match="ended without a result"):
        SubprocessLoadDriver().drive(url, a_template("/"), a_plan(OPEN), kill)
