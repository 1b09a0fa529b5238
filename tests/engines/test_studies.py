"""Whole studies on real engines in containers: tuned, stored, exported, and the exports answer."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import docker.errors
import optuna
import pytest

import tuner
from runners.docker_daemon import connected, daemon_url
from tuner.errors import UnavailableError
from tuner.strategies.history import Kind
from tuner.study.record import State
from tuner.study.result import Result

ROOT = Path(__file__).parents[2]
TRITON_IMAGE = "serving-tuner/triton:2.51"
VLLM_IMAGE = "serving-tuner/vllm-cpu:0.32.0"

TRITON_STUDY = """\
model: encoder.onnx
engine: triton
devices:
  - {name: cpu-1, cpus: 1, memory: 1 GiB, price: 0.05 USD/h}
workload:
  arrival: {clients: 16}
  requests: {tensors: {dims: {sequence: 16}}}
slo: [p99(latency) <= 5 s, error_rate <= 1%]
objective: throughput
search: {budget: {trials: 8}, confirmations: 1}
trial: {warmup: 0.5 s, windows: 3, window: 1 s}
runner: docker
"""

VLLM_STUDY = """\
model: llama
engine: {name: vllm, load_format: dummy, max_model_len: 512}
devices:
  - {name: cpu-2, cpus: 2, memory: 8 GiB, price: 0.1 USD/h}
workload:
  arrival: {clients: 4}
  requests: {tokens: {input: 64, output: 16}}
slo: [p95(ttft) <= 20 s]
objective: output_throughput
search:
  space: {max_num_seqs: [1, 4, 256], dtype: bfloat16}
  budget: {trials: 4}
  confirmations: 0
trial: {warmup: 2 s, windows: 2, window: 3 s, start_deadline: 300 s}
runner: docker
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[docker.DockerClient]:
    """The Docker daemon."""
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(connected(daemon_url(None)))
        except UnavailableError as error:
            pytest.skip(f"no Docker daemon answers: {error}")
        yield client


def require_image(daemon: docker.DockerClient, image: str) -> None:
    """Skips where an image has not been built."""
    try:
        daemon.images.get(image)
    except docker.errors.ImageNotFound:
        pytest.skip(f"the image {image} is not built: make images")


def compose_command() -> list[str] | None:
    """Docker Compose: Docker's plug-in, or a program of its own."""
    plugin = ["docker", "compose"]
    if (
        shutil.which("docker")
        and subprocess.run([*plugin, "version"], check=False, capture_output=True).returncode == 0
    ):
        return plugin
    alone = shutil.which("docker-compose")
    return None if alone is None else [alone]


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str, deadline_s: float, alive: Callable[[], bool]) -> bool:
    """Whether `url` answers 200 before the deadline, while `alive`."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline and alive():
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:
            time.sleep(0.25)
    return False


def searched(result: Result) -> int:
    """Search trials that were carried out."""
    return sum(record.kind is Kind.SEARCH and record.state is State.DONE for record in result.records)


def left_behind(daemon: docker.DockerClient, study: tuner.Study) -> list[str]:
    """Containers that trials of a study left."""
    study_id = optuna.load_study(study_name=study.name, storage=study.storage).user_attrs["study_id"]
    labels = {"label": f"serving-tuner.study={study_id}"}
    return [str(container.name) for container in daemon.containers.list(all=True, filters=labels)]


@pytest.mark.engine
@pytest.mark.docker
def test_triton_study_is_tuned_and_its_exports_answer(daemon: docker.DockerClient, tmp_path: Path) -> None:
    require_image(daemon, TRITON_IMAGE)
    subprocess.run(
        [sys.executable, ROOT / "examples/quickstart/make_encoder.py", "--out", tmp_path / "encoder.onnx"], check=True
    )
    (tmp_path / "study.yaml").write_text(TRITON_STUDY)
    result = tuner.tune(tuner.load_study(tmp_path / "study.yaml"))
    assert searched(result) == 8
    assert result.best is not None
    assert result.default is not None
    gain = result.gain
    assert gain is not None
    assert gain.high >= 1.0
    assert left_behind(daemon, result.study) == []

    result.export("compose", tmp_path / "compose")
    result.export("triton", tmp_path / "triton")
    assert (tmp_path / "triton/repository/encoder/config.pbtxt").exists()
    compose = compose_command()
    if compose is None:
        pytest.skip("the study ran; docker-compose is not installed, so its Compose file was not started")
    port = free_port()
    command = [*compose, "-f", str(tmp_path / "compose/compose.yaml"), "-p", f"tuner-test-{port}"]
    environment = {"PORT": str(port), "PATH": "/usr/bin:/bin:/usr/local/bin"}
    try:
        subprocess.run([*command, "up", "-d"], check=True, env=environment, timeout=120)
        assert answers(f"http://127.0.0.1:{port}/v2/models/encoder/ready", 60.0, lambda: True)
    finally:
        subprocess.run([*command, "down", "-t", "1"], check=True, env=environment, timeout=120)


@pytest.mark.engine
@pytest.mark.docker
def test_vllm_study_is_tuned_and_its_command_line_answers(daemon: docker.DockerClient, tmp_path: Path) -> None:
    require_image(daemon, VLLM_IMAGE)
    subprocess.run([sys.executable, ROOT / "examples/vllm/make_llama.py", tmp_path / "llama"], check=True)
    (tmp_path / "study.yaml").write_text(VLLM_STUDY)
    result = tuner.tune(tuner.load_study(tmp_path / "study.yaml"))
    assert searched(result) == 4
    assert result.best is not None
    measurement = result.best.records[0].measurement
    assert measurement is not None
    assert {"p95(ttft)", "p99(tpot)", "p50(itl)", "output_throughput"} <= set(measurement.metrics)
    assert left_behind(daemon, result.study) == []
    (written,) = result.export("vllm-args", tmp_path / "serve.sh")
    assert "vllm serve" in written.read_text()
