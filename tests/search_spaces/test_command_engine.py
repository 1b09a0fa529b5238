"""The command engine on real servers: one that nobody has heard of, and Gunicorn."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from runners.docker import DockerRunner
from runners.process import ProcessRunner
from search_spaces.command import CommandSpace
from tuner.device import DeviceType
from tuner.errors import UnavailableError
from tuner.launch import Target
from tuner.metric import Metric, MetricRef
from tuner.parameter import Value
from tuner.ports import ModelSource, Runner, ServingTask
from tuner.trial import Attempt, Infeasible, Measurement, Outcome, Reason, TrialPlan
from tuner.workload import ClosedLoop, TemplateShapes, Workload

pytestmark = pytest.mark.engine

CPU = DeviceType(name="cpu-1", price_per_hour=0.05, cpus=1.0, memory_bytes=2**28)
IMAGE = os.environ.get("TUNER_BASE_IMAGE", "python:3.11-slim")
SERVER = Path(__file__).with_name("batching_server.py")
ASKED = TemplateShapes(path="/predict", body='{{"inputs": [1, 2]}}', expect="outputs")

UNHEARD_OF: dict[str, object] = {
    "image": IMAGE,
    "command": [
        "python3",
        "{scratch}/server.py",
        "--listen={host}:{port}",
        "--settings={scratch}/conf/server.conf",
        {"when": {"keep_alive": True}, "args": ["--keep-alive"]},
    ],
    "files": {
        "conf/server.conf": "# {{threads}} of them\nthreads = {threads}\nwork_ms = 20\n",
        "server.py": {"source": str(SERVER)},
    },
    "parameters": {"threads": {"values": [1, 4, 16], "scale": "log"}, "keep_alive": {"values": [False, True]}},
    "health": {"path": "/", "deadline": "60 s"},
    "refusals": [r"settings: \d+ threads are more"],
}
GUNICORN: dict[str, object] = {
    "command": [sys.executable, "-m", "gunicorn", "--config", "{scratch}/gunicorn.conf.py", "app:app"],
    "environment": {"PYTHONPATH": "{scratch}", "WORK_MS": "20"},
    "files": {
        "gunicorn.conf.py": 'bind = "{host}:{port}"\nworkers = {workers}\nthreads = {threads}\n'
        'worker_class = "gthread"\ncontrol_socket_disable = True\n',
        "app.py": "import os, time\n\n\ndef app(environ, start_response):\n"
        "    if environ['REQUEST_METHOD'] == 'POST':\n        time.sleep(float(os.environ['WORK_MS']) / 1e3)\n"
        "    start_response('200 OK', [('Content-Type', 'application/json')])\n"
        "    return [b'{\"outputs\": [42]}']\n",
    },
    "parameters": {
        "workers": {"values": [1, 2]},
        "threads": {"range": {"low": 1, "high": 8, "factor": 2}, "default": 1},
    },
    "rules": ["workers * threads <= 8"],
    "health": {"path": "/", "deadline": "60 s"},
}
PLAN = TrialPlan(
    workload=Workload(arrival=ClosedLoop(clients=4), requests=ASKED),
    warmup_s=1.0,
    windows=2,
    window_s=2.0,
    start_deadline_s=60.0,
)


def run(runner: Runner, target: Target, options: dict[str, object], **changes: Value) -> Outcome:
    engine = CommandSpace(options)
    task = ServingTask(model=ModelSource(name="none"), devices=(CPU,), workload=PLAN.workload)
    space = engine.space(task)
    spec = engine.launch(task, space.config({**space.complete(space.default), **changes}), target)
    runner.check(spec, CPU)
    attempt = Attempt(study_id="command-engine", trial=0, token=uuid.uuid4().hex[:12])
    return runner.run(spec, CPU, PLAN, attempt, lambda progress: None)


def throughput(outcome: Outcome) -> float:
    assert isinstance(outcome, Measurement), outcome
    value = outcome.value(MetricRef(Metric.THROUGHPUT))
    assert value is not None
    assert outcome.failed == outcome.timed_out == 0
    return value


def docker_runner() -> DockerRunner:
    try:
        runner = DockerRunner({})
        known = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, timeout=60, check=False)
    except (UnavailableError, FileNotFoundError) as error:
        pytest.skip(str(error))
    if known.returncode:
        pytest.skip(f"there is no image {IMAGE}: docker pull {IMAGE}, or set TUNER_BASE_IMAGE")
    return runner


def test_an_unheard_of_server_as_a_process() -> None:
    runner = ProcessRunner({})
    one = throughput(run(runner, Target.PROCESS, UNHEARD_OF, threads=1, keep_alive=True))
    four = throughput(run(runner, Target.PROCESS, UNHEARD_OF, threads=4, keep_alive=True))
    # One thread that works for 20 ms answers 50 requests/s at most.
    assert 0 < one <= 50 * 1.02
    assert 0 < four <= 200 * 1.02


@pytest.mark.docker
def test_an_unheard_of_server_in_a_container() -> None:
    runner = docker_runner()
    assert throughput(run(runner, Target.CONTAINER, UNHEARD_OF, threads=4, keep_alive=False)) > 0


def test_a_refused_combination_is_infeasible() -> None:
    outcome = run(ProcessRunner({}), Target.PROCESS, UNHEARD_OF, threads=16)
    assert isinstance(outcome, Infeasible)
    assert outcome.reason is Reason.INVALID
    assert "16 threads are more than the 8" in "\n".join(outcome.log_tail)


@pytest.mark.skipif(importlib.util.find_spec("gunicorn") is None, reason="gunicorn is absent: pip install gunicorn")
def test_gunicorn_by_its_configuration_file() -> None:
    runner = ProcessRunner({})
    one = throughput(run(runner, Target.PROCESS, GUNICORN, workers=1, threads=1))
    four = throughput(run(runner, Target.PROCESS, GUNICORN, workers=1, threads=4))
    assert 0 < one <= 50 * 1.02
    assert 0 < four <= 200 * 1.02
