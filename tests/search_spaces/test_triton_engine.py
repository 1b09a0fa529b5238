"""The triton engine on real servers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from runners.docker import DockerRunner
from runners.process import ProcessRunner
from search_spaces.triton import OWN_IMAGE, TritonSpace
from search_spaces.triton_server import find_installation
from tests.search_spaces.onnx_files import ROWS, doubler, embedder, save
from tuner.device import DeviceType
from tuner.errors import UnavailableError
from tuner.launch import Target
from tuner.parameter import Config, Value
from tuner.ports import ModelSource, Runner, ServingTask
from tuner.trial import Attempt, Infeasible, Measurement, Outcome, Reason, TrialPlan
from tuner.workload import ClosedLoop, TensorShapes, Workload

pytestmark = pytest.mark.engine

CPU = DeviceType(name="cpu-1", price_per_hour=0.05, cpus=1.0, memory_bytes=2**30)

CHANGES: Mapping[str, Mapping[str, Value]] = {
    "default": {},
    "unbatched": {"dynamic_batching": False, "instance_count": 1, "intra_op_thread_count": 1},
    "half": {"max_batch_size": 8, "preferred_batch_size": "half", "max_queue_delay_microseconds": 2_000},
    "quarter": {"max_batch_size": 32, "preferred_batch_size": "quarter", "instance_count": 3},
    "threads": {"max_batch_size": 128, "instance_count": 1, "intra_op_thread_count": 2},
}


def _task(path: Path, shapes: TensorShapes) -> ServingTask:
    workload = Workload(arrival=ClosedLoop(clients=6), requests=shapes)
    return ServingTask(model=ModelSource(name=path.name, path=path), devices=(CPU,), workload=workload)


def _config(engine: TritonSpace, task: ServingTask, changes: Mapping[str, Value]) -> Config:
    space = engine.space(task)
    return space.config({**space.complete(space.default), **changes})


def _run(runner: Runner, target: Target, task: ServingTask, changes: Mapping[str, Value], **options: object) -> Outcome:
    engine = TritonSpace(options)
    spec = engine.launch(task, _config(engine, task, changes), target)
    runner.check(spec, CPU)
    plan = TrialPlan(workload=task.workload, warmup_s=0.5, windows=2, window_s=0.5, start_deadline_s=60.0)
    attempt = Attempt(study_id="triton-engine", trial=0, token=uuid.uuid4().hex[:12])
    return runner.run(spec, CPU, plan, attempt, lambda _: None)


def _answered(outcome: Outcome) -> None:
    assert isinstance(outcome, Measurement), outcome
    assert outcome.completed > 0
    assert (outcome.failed, outcome.timed_out, outcome.errors) == (0, 0, ())


@pytest.fixture
def embedder_path(tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    folder.mkdir()
    # Weights in a file beside the graph must reach the server too.
    onnx.save(
        embedder(), str(folder / "model.onnx"), save_as_external_data=True, location="weights", size_threshold=100
    )
    return folder


@pytest.fixture(scope="module")
def docker_runner() -> DockerRunner:
    try:
        images = subprocess.run(
            ["docker", "image", "inspect", OWN_IMAGE], capture_output=True, timeout=30, check=False
        ).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no Docker here: {error}")
    if images != 0:
        pytest.skip(f"the image {OWN_IMAGE} is not here; run `make image-triton`")
    return DockerRunner({"pull": "never"})


@pytest.fixture(scope="module")
def process_runner() -> ProcessRunner:
    try:
        find_installation(None, None)
    except UnavailableError as error:
        pytest.skip(str(error))
    return ProcessRunner({})


@pytest.mark.docker
@pytest.mark.parametrize("kind", CHANGES)
def test_every_kind_of_configuration_answers_in_a_container(
    docker_runner: DockerRunner, embedder_path: Path, kind: str
) -> None:
    task = _task(embedder_path, TensorShapes(dims=(("sequence", (3, 5)),), rows=2))
    _answered(_run(docker_runner, Target.CONTAINER, task, CHANGES[kind]))


@pytest.mark.parametrize("kind", ["default", "unbatched", "half"])
def test_every_kind_of_configuration_answers_in_a_process(
    process_runner: ProcessRunner, embedder_path: Path, kind: str
) -> None:
    shared_memory = set(os.listdir("/dev/shm"))
    task = _task(embedder_path, TensorShapes(dims=(("sequence", (3, 5)),)))
    _answered(_run(process_runner, Target.PROCESS, task, CHANGES[kind]))
    assert not {name for name in set(os.listdir("/dev/shm")) - shared_memory if "triton" in name}


@pytest.mark.docker
@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ([1, 3], onnx.TensorProto.FLOAT),
        (["batch"], onnx.TensorProto.INT64),
        (["batch", "sequence"], onnx.TensorProto.FLOAT16),
        (["batch", "sequence"], onnx.TensorProto.UINT8),
        (["batch", 3, "height", "width"], onnx.TensorProto.DOUBLE),
    ],
)
def test_models_of_every_shape_answer(
    docker_runner: DockerRunner, tmp_path: Path, shape: list[str | int | None], kind: int
) -> None:
    model = doubler(shape, kind)
    if kind == onnx.TensorProto.UINT8:
        model.graph.node[0].op_type = "BitwiseOr"
        model.opset_import[0].version = 18
    task = _task(save(model, tmp_path / "model.onnx"), TensorShapes())
    _answered(_run(docker_runner, Target.CONTAINER, task, {}))


@pytest.mark.docker
def test_a_configuration_that_triton_refuses_is_invalid(docker_runner: DockerRunner, tmp_path: Path) -> None:
    path = save(embedder(), tmp_path / "encoder.onnx")
    outcome = _run(
        docker_runner, Target.CONTAINER, _task(path, TensorShapes()), {}, model_name="a" * 8, environment={"A": "{b}"}
    )
    _answered(outcome)
    engine = TritonSpace({})
    task = _task(path, TensorShapes())
    spec = engine.launch(task, _config(engine, task, {}), Target.CONTAINER)
    broken = {
        name: text.replace("dynamic_batching {", "dynamic_batching {\n  preferred_batch_size: [ 999 ]")
        for name, text in spec.files.items()
    }
    object.__setattr__(spec, "files", broken)
    plan = TrialPlan(workload=task.workload, warmup_s=0.1, windows=1, window_s=0.1, start_deadline_s=60.0)
    attempt = Attempt(study_id="triton-engine", trial=0, token=uuid.uuid4().hex[:12])
    refused = docker_runner.run(spec, CPU, plan, attempt, lambda _: None)
    assert isinstance(refused, Infeasible)
    assert refused.reason is Reason.INVALID
    assert any("preferred size must be <= max batch size" in line for line in refused.log_tail)


@contextlib.contextmanager
def _started(folder: Path) -> Iterator[str]:
    """What `start.sh` serves: its URL, once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            ["sh", str(folder / "start.sh")], env={**os.environ, "PORT": str(port)}, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            assert server.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server is not ready"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5):
                break
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.mark.docker
@pytest.mark.parametrize("kind", ["default", "unbatched", "half"])
def test_the_export_starts_as_it_is_and_answers_right(
    docker_runner: DockerRunner, embedder_path: Path, tmp_path: Path, kind: str
) -> None:
    engine = TritonSpace({"environment": {"NOTE": "a 'b' $c"}})
    task = _task(embedder_path, TensorShapes(dims=(("sequence", (3,)),)))
    export = tmp_path / "an export"
    for name, text in engine.export(task, _config(engine, task, CHANGES[kind]), "triton").items():
        export.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        export.joinpath(name).write_text(text)
    ids = np.array([[1, 2, ROWS - 1]])
    body = {
        "inputs": [
            {"name": "ids", "datatype": "INT32", "shape": [1, 3], "data": ids.ravel().tolist()},
            {"name": "attention_mask", "datatype": "INT64", "shape": [1, 3], "data": [1, 1, 1]},
        ]
    }
    with _started(export) as url:
        request = urllib.request.Request(f"{url}/v2/models/encoder/infer", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            output = json.load(answer)["outputs"][0]
    table = np.arange(2 * ROWS).reshape(ROWS, 2)
    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), table[ids].mean(axis=1), rtol=1e-5)
    assert "Traceback" not in (export / "log").read_text()
