"""The vllm engine on real servers: a small Llama with random weights, on a CPU, in a container."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from runners.docker import DockerRunner
from search_spaces.vllm import VllmSpace
from tuner.device import DeviceType
from tuner.errors import UnavailableError
from tuner.launch import Target
from tuner.metric import Metric, MetricRef
from tuner.parameter import Config, Value
from tuner.ports import ModelSource, ServingTask
from tuner.trial import Attempt, Infeasible, Measurement, Outcome, Reason, TrialPlan
from tuner.workload import ClosedLoop, Lengths, TokenShapes, Workload

pytestmark = [pytest.mark.engine, pytest.mark.docker]

CPU = DeviceType(name="cpu-2", price_per_hour=0.1, cpuset="0-1", memory_bytes=6 * 2**30)
OUTPUT_TOKENS = 8
PLAN = TrialPlan(
    workload=Workload(
        arrival=ClosedLoop(clients=4),
        requests=TokenShapes(input_tokens=Lengths.constant(32), output_tokens=Lengths.constant(OUTPUT_TOKENS)),
    ),
    warmup_s=5.0,
    windows=1,
    window_s=15.0,
    request_timeout_s=60.0,
)


@pytest.fixture(scope="module")
def runner() -> DockerRunner:
    try:
        return DockerRunner({})
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> ServingTask:
    pytest.importorskip("transformers", reason="transformers is absent: pip install 'serving-tuner[vllm]'")
    script = Path(__file__).parents[2] / "examples" / "vllm" / "make_llama.py"
    folder = tmp_path_factory.mktemp("vllm") / "llama"
    sizes = ["--layers", "2", "--width", "256", "--vocab", "2048"]
    subprocess.run([sys.executable, script, folder, *sizes], check=True, timeout=300, capture_output=True)
    return ServingTask(model=ModelSource(name="llama", path=folder), devices=(CPU,), workload=PLAN.workload)


def run(runner: DockerRunner, task: ServingTask, changes: Mapping[str, Value]) -> Outcome:
    engine = VllmSpace({"max_model_len": 512})
    config = Config({**engine.space(task).default.values, **changes})
    spec = engine.launch(task, config, Target.CONTAINER)
    try:
        runner.check(spec, CPU)
    except UnavailableError as error:
        pytest.skip(f"{error} Build it with runners/images/vllm-cpu/build.")
    attempt = Attempt(study_id="vllm-engine", trial=0, token=uuid.uuid4().hex[:12])
    return runner.run(spec, CPU, PLAN, attempt, lambda progress: None)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "dtype": "float32",
            "cpu_threads": 2,
            "block_size": 32,
            "max_num_seqs": 2,
            "max_num_batched_tokens": 64,
            "enable_prefix_caching": False,
        },
        {
            "tensor_parallel_size": 2,
            "enable_chunked_prefill": False,
            "dtype": "float16",
            "scheduling_policy": "priority",
        },
    ],
    ids=["default", "small steps", "two workers"],
)
def test_a_valid_configuration_streams_every_token(
    runner: DockerRunner, task: ServingTask, changes: Mapping[str, Value]
) -> None:
    if changes.get("tensor_parallel_size", 1) != 1 and len(os.sched_getaffinity(0)) < 4:
        pytest.skip("two workers, the engine and the load generator want four cores")
    outcome = run(runner, task, changes)
    assert isinstance(outcome, Measurement), outcome
    assert outcome.completed > 0
    assert outcome.failed == outcome.timed_out == 0
    requests = outcome.value(MetricRef(Metric.THROUGHPUT))
    tokens = outcome.value(MetricRef(Metric.OUTPUT_THROUGHPUT))
    first = outcome.value(MetricRef(Metric.TTFT, "p50"))
    whole = outcome.value(MetricRef(Metric.LATENCY, "p50"))
    assert requests is not None
    assert tokens == pytest.approx(OUTPUT_TOKENS * requests, rel=0.35)  # tokens of unfinished requests count too
    assert first is not None
    assert whole is not None
    assert 0 < first < whole


def test_a_combination_that_vllm_refuses_is_infeasible_for_that_reason(runner: DockerRunner, task: ServingTask) -> None:
    # The rules would not let it through: the engine dies of blocks that the CPU's attention has no kernel for.
    outcome = run(runner, task, {"block_size": 16})
    assert isinstance(outcome, Infeasible)
    assert outcome.reason is Reason.INVALID, outcome
