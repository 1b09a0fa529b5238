"""The triton engine, up to the point where a server would start."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from search_spaces.triton import NVIDIA_IMAGE, OWN_IMAGE, TritonSpace
from search_spaces.triton_options import TritonOptions
from search_spaces.triton_space import build_space
from tests.search_spaces.onnx_files import ROWS, doubler, embedder, save
from tuner.device import DeviceKind, DeviceType
from tuner.errors import ModelError, OptionsError, UnavailableError, UnknownNameError, UsageError
from tuner.launch import KServeRequest, Target
from tuner.metric import TOKEN_METRICS
from tuner.parameter import Config
from tuner.ports import ModelSource, ServingTask
from tuner.space import Space
from tuner.strategies.candidates import Candidates
from tuner.workload import ClosedLoop, Lengths, RequestShapes, TensorShapes, TokenShapes, Workload

CPU = DeviceType(name="cpu-1", price_per_hour=0.05, cpus=1.0, memory_bytes=2**30)
GPU = DeviceType(name="l4", kind=DeviceKind.GPU, price_per_hour=0.8, gpus=1)


def a_task(path: Path, requests: RequestShapes | None = None, devices: tuple[DeviceType, ...] = (CPU,)) -> ServingTask:
    return ServingTask(
        model=ModelSource(name=path.name, path=path),
        devices=devices,
        workload=Workload(arrival=ClosedLoop(clients=4), requests=TensorShapes() if requests is None else requests),
    )


@pytest.fixture
def embedder_path(tmp_path: Path) -> Path:
    return save(embedder(), tmp_path / "encoder.onnx")


def request_of(task: ServingTask, **options: object) -> KServeRequest:
    engine = TritonSpace(options)
    request = engine.launch(task, engine.space(task).default, Target.CONTAINER).request
    assert isinstance(request, KServeRequest)
    return request


def pbtxt_of(task: ServingTask, config: Config, **options: object) -> str:
    files = TritonSpace(options).launch(task, config, Target.CONTAINER).files
    return next(text for path, text in files.items() if path.endswith("config.pbtxt"))


# --- the space


def test_default_is_what_triton_does_when_nothing_is_set(embedder_path: Path) -> None:
    default = TritonSpace({}).space(a_task(embedder_path)).default
    assert dict(default.values) == {
        "device": "cpu-1",
        "dynamic_batching": True,
        "max_batch_size": 4,
        "max_queue_delay_microseconds": 0,
        "preferred_batch_size": "none",
        "instance_count": 2,
        "intra_op_thread_count": 0,
    }


def test_default_on_a_gpu_is_one_instance(embedder_path: Path) -> None:
    assert TritonSpace({}).space(a_task(embedder_path, devices=(GPU,))).default["instance_count"] == 1


def test_one_device_has_more_than_500_valid_configurations(embedder_path: Path) -> None:
    assert len(Candidates.of(TritonSpace({}).space(a_task(embedder_path))).rows) >= 500


def test_a_model_that_cannot_batch_has_no_batching_parameters(tmp_path: Path) -> None:
    path = save(doubler([1, 3]), tmp_path / "fixed.onnx")
    engine, task = TritonSpace({}), a_task(path)
    space = engine.space(task)
    assert space.names == ("device", "instance_count", "intra_op_thread_count")
    text = pbtxt_of(task, space.default)
    assert "max_batch_size: 0" in text
    assert "dims: [1, 3]" in text
    assert "dynamic_batching" not in text


@given(
    cpus=st.floats(0.25, 96.0),
    rows=st.integers(1, 300),
    batches=st.booleans(),
    gpus=st.booleans(),
)
def test_every_space_holds_its_default_and_a_valid_configuration(
    cpus: float, rows: int, batches: bool, gpus: bool
) -> None:
    devices = (replace(CPU, cpus=cpus), *((GPU,) if gpus else ()))
    space = build_space(devices, batches=batches, rows=rows)
    assert space.config(space.complete(space.default)) == space.default
    assert bool(space.violations(space.default)) == (batches and rows > 4)
    largest = {parameter.name: parameter.values[-1] for parameter in space.parameters}
    if batches:
        assert int(largest["max_batch_size"]) >= rows


def test_a_batch_smaller_than_a_request_is_a_violation(embedder_path: Path) -> None:
    space = TritonSpace({}).space(a_task(embedder_path, TensorShapes(rows=8)))
    assert "at least the 8 rows" in space.violations(space.default)[0]
    assert not space.violations(space.config({**space.complete(space.default), "max_batch_size": 8}))


def test_more_threads_than_four_times_the_cores_are_a_violation(embedder_path: Path) -> None:
    task = a_task(embedder_path, devices=(replace(CPU, cpus=8.0),))
    space = TritonSpace({}).space(task)
    values = {**space.complete(space.default), "instance_count": 16, "intra_op_thread_count": 8}
    assert "4 times the device's cores" in space.violations(space.config(values))[0]


def test_no_metric_of_tokens_is_reported() -> None:
    assert not TritonSpace({}).reports & TOKEN_METRICS


# --- config.pbtxt


def every_kind(space: Space) -> list[Config]:
    full = space.complete(space.default)
    changes: list[dict[str, object]] = [
        {},
        {"dynamic_batching": False},
        {"max_batch_size": 32, "preferred_batch_size": "half", "max_queue_delay_microseconds": 5_000},
        {"max_batch_size": 32, "preferred_batch_size": "quarter", "instance_count": 3, "intra_op_thread_count": 2},
    ]
    return [space.config({**full, **change}) for change in changes]  # type: ignore[dict-item]


def test_pbtxt_says_what_the_configuration_means(embedder_path: Path) -> None:
    task = a_task(embedder_path, TensorShapes(rows=2))
    space = TritonSpace({}).space(task)
    default, unbatched, half, quarter = (pbtxt_of(task, config) for config in every_kind(space))
    assert 'name: "encoder"' in default
    assert "max_batch_size: 4" in default
    assert re.search(r"dynamic_batching \{\s+max_queue_delay_microseconds: 0\s+\}", default)
    assert "count: 2 kind: KIND_CPU" in default
    assert "max_batch_size: 2" in unbatched
    assert "dynamic_batching" not in unbatched
    assert "preferred_batch_size: [16, 32]" in half
    assert "max_queue_delay_microseconds: 5000" in half
    assert "preferred_batch_size: [8, 16, 32]" in quarter
    assert "count: 3" in quarter
    assert 'key: "intra_op_thread_count" value { string_value: "2" }' in quarter


def test_pbtxt_names_tensors_without_their_batch(embedder_path: Path) -> None:
    task = a_task(embedder_path)
    text = pbtxt_of(task, TritonSpace({}).space(task).default)
    assert '{ name: "ids" data_type: TYPE_INT32 dims: [-1] },' in text
    assert '{ name: "attention_mask" data_type: TYPE_INT64 dims: [-1] }\n' in text
    assert '{ name: "embedding" data_type: TYPE_FP32 dims: [2] }\n' in text


def test_a_tensor_of_the_batch_alone_is_sent_as_a_column(tmp_path: Path) -> None:
    task = a_task(save(doubler(["batch"]), tmp_path / "column.onnx"), TensorShapes(rows=3))
    assert "dims: [1] reshape { shape: [] }" in pbtxt_of(task, TritonSpace({}).space(task).default)
    assert request_of(task).inputs[0].dims == ((3,), (1,))


# --- requests


def test_token_ids_stay_within_the_table_and_nothing_is_masked(embedder_path: Path) -> None:
    ids, mask = request_of(a_task(embedder_path)).inputs
    assert (ids.name, ids.datatype, ids.low, ids.high) == ("ids", "INT32", 0, ROWS)
    assert (mask.name, mask.datatype, mask.low, mask.high) == ("attention_mask", "INT64", 1, 2)


def test_sizes_come_from_the_workload_by_dimension_or_input(embedder_path: Path) -> None:
    by_dim = request_of(a_task(embedder_path, TensorShapes(dims=(("sequence", (8, 16)),), rows=2)))
    by_input = request_of(a_task(embedder_path, TensorShapes(dims=(("ids", (8,)),))))
    assert [tensor.dims for tensor in by_dim.inputs] == [((2,), (8, 16))] * 2
    assert [tensor.labels for tensor in by_dim.inputs] == [("", "sequence")] * 2
    assert by_input.inputs[0].dims == ((1,), (8,))


@pytest.mark.parametrize(
    ("shape", "kind", "expected"),
    [
        (["batch", "sequence_length", 8], TensorProto.FLOAT, ((1,), (128,), (8,))),
        (["batch", None], TensorProto.INT64, ((1,), (128,))),
        (["batch", 3, "height", "width"], TensorProto.FLOAT, ((1,), (3,), (224,), (224,))),
        ([1, 3, None, None], TensorProto.FLOAT, ((1,), (3,), (224,), (224,))),
    ],
)
def test_sizes_are_guessed_for_sequences_and_images(
    tmp_path: Path, shape: list[str | int | None], kind: int, expected: tuple[tuple[int, ...], ...]
) -> None:
    assert request_of(a_task(save(doubler(shape, kind), tmp_path / "model.onnx"))).inputs[0].dims == expected


def test_a_size_that_cannot_be_guessed_is_asked_for(tmp_path: Path) -> None:
    task = a_task(save(doubler(["batch", "features"]), tmp_path / "model.onnx"))
    with pytest.raises(UsageError, match=r"'features'.*{features: SIZE} under workload.requests.tensors.dims"):
        TritonSpace({}).space(task)


def test_unknown_dimensions_bring_their_neighbours(embedder_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'sequense'. Did you mean 'sequence'"):
        TritonSpace({}).space(a_task(embedder_path, TensorShapes(dims=(("sequense", (8,)),))))
    with pytest.raises(UsageError, match=r"batch dimension .* Write rows"):
        TritonSpace({}).space(a_task(embedder_path, TensorShapes(dims=(("batch", (8,)),))))
    with pytest.raises(UsageError, match=r"no input called 'idz'. Did you mean 'ids'"):
        TritonSpace({"inputs": {"idz": {"high": 3}}}).space(a_task(embedder_path))


def test_sizes_of_an_input_that_has_only_one_are_refused(tmp_path: Path) -> None:
    task = a_task(save(doubler(["batch", 3]), tmp_path / "model.onnx"), TensorShapes(dims=(("x", (8,)),)))
    with pytest.raises(UsageError, match="has one size only"):
        TritonSpace({}).space(task)


def test_rows_need_a_model_that_batches(tmp_path: Path) -> None:
    task = a_task(save(doubler([1, 3]), tmp_path / "model.onnx"), TensorShapes(rows=2))
    with pytest.raises(UsageError, match=r"2 rows, but model.onnx cannot batch"):
        TritonSpace({}).space(task)


def test_values_of_an_input_can_be_set(embedder_path: Path) -> None:
    ids, _ = request_of(a_task(embedder_path), inputs={"ids": {"low": 3, "high": 7}}).inputs
    assert (ids.low, ids.high) == (3, 7)


def test_token_workloads_are_refused(embedder_path: Path) -> None:
    tokens = TokenShapes(input_tokens=Lengths.constant(8), output_tokens=Lengths.constant(8))
    with pytest.raises(UsageError, match=r"carry no tensors. Write workload.requests.tensors"):
        TritonSpace({}).space(a_task(embedder_path, tokens))


# --- the model


def test_a_folder_with_one_onnx_file_is_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    save(embedder(), folder / "model.onnx")
    assert request_of(a_task(folder)).model_name == "encoder"


def test_missing_models_name_the_remedy(tmp_path: Path) -> None:
    engine = TritonSpace({})
    with pytest.raises(ModelError, match="holds no ONNX file"):
        engine.space(a_task(tmp_path))
    with pytest.raises(ModelError, match="There is no "):
        engine.space(a_task(tmp_path / "absent.onnx"))
    save(embedder(), tmp_path / "a.onnx")
    save(embedder(), tmp_path / "b.onnx")
    with pytest.raises(ModelError, match=r"several ONNX files: a.onnx, b.onnx"):
        engine.space(a_task(tmp_path))
    hub = ServingTask(model=ModelSource(name="owner/model"), devices=(CPU,), workload=a_task(tmp_path).workload)
    with pytest.raises(ModelError, match=r"hub id.*optimum-cli export onnx --model owner/model"):
        engine.space(hub)


@given(cut=st.integers(0, 400), noise=st.binary(max_size=64))
def test_a_damaged_file_is_a_model_error_or_a_model(
    tmp_path_factory: pytest.TempPathFactory, cut: int, noise: bytes
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    path.write_bytes(embedder().SerializeToString()[:cut] + noise)
    engine = TritonSpace({})
    fault: UsageError | None = None
    try:
        engine.space(a_task(path))
    except UsageError as error:
        fault = error
    assert fault is None or path.name in str(fault)


def test_missing_external_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(embedder(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    engine = TritonSpace({})
    task = a_task(path)
    links = engine.launch(task, engine.space(task).default, Target.CONTAINER).links
    assert tmp_path / "weights.bin" in links.values()
    (tmp_path / "weights.bin").unlink()
    path.touch()
    with pytest.raises(ModelError, match=r"weights in 'weights.bin', and there is no such file"):
        engine.space(task)


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    model = embedder()
    constant = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(constant, location="../secret")
    constant.data_location = TensorProto.EXTERNAL
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside its folder"):
        TritonSpace({}).space(a_task(path))


def test_scalars_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'x' of model.onnx is a scalar"):
        TritonSpace({}).space(a_task(save(doubler([]), tmp_path / "model.onnx")))


# --- launching and deploying


def test_the_image_follows_the_device_and_the_backend(embedder_path: Path) -> None:
    task = a_task(embedder_path, devices=(CPU, GPU))

    def launched(device: str, **options: object) -> tuple[str | None, bool]:
        engine = TritonSpace(options)
        config = engine.space(task).config(
            {**engine.space(task).complete(engine.space(task).default), "device": device}
        )
        spec = engine.launch(task, config, Target.CONTAINER)
        return spec.image, any(path.endswith("model.py") for path in spec.files)

    assert launched("cpu-1") == (OWN_IMAGE, True)
    assert launched("l4") == (f"{NVIDIA_IMAGE}:24.10-py3", False)
    assert launched("cpu-1", backend="onnxruntime", version="25.01") == (f"{NVIDIA_IMAGE}:25.01-py3", False)
    assert launched("cpu-1", image="registry:5000/triton") == ("registry:5000/triton", False)
    assert launched("cpu-1", image="registry:5000/serving-tuner/triton") == ("registry:5000/serving-tuner/triton", True)
    assert launched("l4", image="mine", backend="python") == ("mine", True)


def test_the_python_backend_refuses_tensors_of_text(tmp_path: Path) -> None:
    path = save(doubler(["batch", 1], TensorProto.STRING), tmp_path / "text.onnx")
    engine, task = TritonSpace({}), a_task(path)
    with pytest.raises(ModelError, match=r"'x' of text.onnx is BYTES.*backend: onnxruntime"):
        engine.launch(task, engine.space(task).default, Target.CONTAINER)


def test_a_named_server_folder_is_used_with_its_best_backend(embedder_path: Path, tmp_path: Path) -> None:
    program = tmp_path / "triton {x}" / "bin" / "tritonserver"
    program.parent.mkdir(parents=True)
    program.touch()
    backends = program.parents[1] / "backends"
    (backends / "python").mkdir(parents=True)
    (backends / "onnxruntime").mkdir()
    engine, task = TritonSpace({"server": str(program.parents[1])}), a_task(embedder_path)
    spec = engine.launch(task, engine.space(task).default, Target.PROCESS)
    assert spec.argv[0] == str(program).replace("{x}", "{{x}}")
    assert 'backend: "onnxruntime"' in spec.files["repository/encoder/config.pbtxt"]
    assert spec.image is None
    (backends / "onnxruntime").rmdir()
    named = TritonSpace({"server": str(program.parents[1]), "backend": "onnxruntime"})
    with pytest.raises(UnavailableError, match=r"has no backend 'onnxruntime', only python"):
        named.launch(task, engine.space(task).default, Target.PROCESS)


def test_an_absent_server_folder_is_named(embedder_path: Path, tmp_path: Path) -> None:
    engine, task = TritonSpace({"server": str(tmp_path)}), a_task(embedder_path)
    with pytest.raises(UnavailableError, match=r"There is no .*bin/tritonserver"):
        engine.launch(task, engine.space(task).default, Target.PROCESS)


def test_the_export_is_a_repository_with_a_script(embedder_path: Path) -> None:
    engine, task = TritonSpace({}), a_task(embedder_path)
    files = engine.export(task, engine.space(task).default, "triton")
    assert set(files) == {"repository/encoder/config.pbtxt", "repository/encoder/1/model.py", "start.sh"}
    assert str(embedder_path) in files["start.sh"]
    assert OWN_IMAGE in files["start.sh"]
    with pytest.raises(UnknownNameError, match="Known: triton"):
        engine.export(task, engine.space(task).default, "x")


# --- options


def test_all_faulty_options_are_reported_at_once() -> None:
    with pytest.raises(OptionsError) as caught:
        TritonSpace(
            {
                "backnd": "python",
                "backend": "tensorrt",
                "version": "latest",
                "shm_size": 64,
                "start_deadline": "5 lightyears",
                "extra_args": ["--http-port=1", "grpc"],
                "environment": {"HF_TOKEN": "x", "a b": "y"},
                "inputs": {"ids": {"low": 5, "high": 5}, "mask": {"lo": 1, "high": 2}},
                "model_name": "../up",
            }
        )
    told = {fault.where: str(fault) for fault in caught.value.faults}
    assert "Did you mean 'backend'" in told["backnd"]
    assert "'tensorrt'" in told["backend"]
    assert "'latest'" in told["version"]
    assert "no unit" in told["shm_size"]
    assert "lightyears" in told["start_deadline"]
    assert "set by the tuner" in told["extra_args.0"]
    assert "no flag" in told["extra_args.1"]
    assert "secret" in told["environment.HF_TOKEN"]
    assert "no name of a variable" in told["environment.a b"]
    assert "no range" in told["inputs.ids"]
    assert "low" in told["inputs.mask.lo"]
    assert "'../up'" in told["model_name"]


@given(
    st.dictionaries(
        st.sampled_from([*TritonOptions.model_fields, "other"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.lists(st.text())
        | st.dictionaries(st.text(), st.text()),
    )
)
def test_any_options_are_taken_or_refused_with_their_places(options: dict[str, object]) -> None:
    places = ["fine"]
    try:
        TritonSpace(options)
    except OptionsError as error:
        places = [fault.where for fault in error.faults]
    assert places
    assert all(places)


def test_the_schema_names_every_option() -> None:
    properties = TritonSpace.options_schema()["properties"]
    assert isinstance(properties, dict)
    assert set(properties) == set(TritonOptions.model_fields)


# --- an installation from PyPI


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of nvidia-pytriton that matter, found before any other, with no other Triton around."""
    root = tmp_path / "site" / "pytriton"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name in (
        "__init__.py",
        "tritonserver/bin/tritonserver",
        "tritonserver/backends/python/libtriton_python.so",
        f"tritonserver/python_backend_stubs/{version}/triton_python_backend_stub",
        f"../nvidia_pytriton.libs/libpython{version}.so.1.0",
    ):
        (root / name).resolve().parent.mkdir(parents=True, exist_ok=True)
        (root / name).resolve().touch()
    monkeypatch.syspath_prepend(str(root.parent))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(root.parent / "nvidia_pytriton.libs"))
    if Path("/opt/tritonserver/bin/tritonserver").exists():
        pytest.skip("this machine has a Triton of its own")
    return root


def test_the_package_from_pypi_is_started_with_the_stub_of_this_python(package: Path, embedder_path: Path) -> None:
    engine, task = TritonSpace({}), a_task(embedder_path)
    spec = engine.launch(task, engine.space(task).default, Target.PROCESS)
    assert spec.argv[0] == str(package / "tritonserver/bin/tritonserver")
    assert "--backend-directory={scratch}/backends" in spec.argv
    assert set(spec.links) == {
        "repository/encoder/1/model.onnx",
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_stub",
    }
    assert spec.environment["LD_LIBRARY_PATH"].startswith(str(package.parent / "nvidia_pytriton.libs"))
    assert spec.environment["PATH"].startswith(str(Path(sys.executable).parent))


def test_what_the_package_lacks_is_named(package: Path, embedder_path: Path) -> None:
    task = a_task(embedder_path)
    config = TritonSpace({}).space(task).default
    with pytest.raises(UnavailableError, match=r"no backend 'onnxruntime'. Write backend: python"):
        TritonSpace({"backend": "onnxruntime"}).launch(task, config, Target.PROCESS)
    (package / "tritonserver/bin/tritonserver").unlink()
    with pytest.raises(UnavailableError, match=r"has no bin/tritonserver .*pip install --no-deps nvidia-pytriton"):
        TritonSpace({}).launch(task, config, Target.PROCESS)
