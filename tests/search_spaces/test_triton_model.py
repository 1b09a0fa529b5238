"""The model.py that Triton's Python backend runs, with a stand-in for the backend's own module."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search_spaces
from tests.search_spaces.onnx_files import ROWS, embedder, save

MODEL = Path(search_spaces.__file__).with_name("triton_model.py")


@dataclass
class Tensor:
    """Triton's: exchanged by DLPack, as its arrays are made for another numpy."""

    name: str
    value: np.ndarray[Any, Any]

    @classmethod
    def from_dlpack(cls, name: str, capsule: object) -> Tensor:
        lender = SimpleNamespace(__dlpack__=lambda **_: capsule, __dlpack_device__=lambda: (1, 0))
        return cls(name, np.from_dlpack(lender).copy())

    def __dlpack__(self, **options: Any) -> object:
        return self.value.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.value.__dlpack_device__()


@dataclass
class Response:
    output_tensors: list[Tensor] = field(default_factory=list)
    error: str | None = None


@dataclass
class Request:
    inputs: dict[str, np.ndarray[Any, Any]]
    outputs: tuple[str, ...] = ("embedding",)

    def requested_output_names(self) -> tuple[str, ...]:
        return self.outputs


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    module = ModuleType("triton_python_backend_utils")
    module.__dict__.update(
        Tensor=Tensor,
        InferenceResponse=Response,
        TritonError=str,
        get_input_tensor_by_name=lambda request, name: Tensor(name, request.inputs[name]),
    )
    repository = tmp_path_factory.mktemp("repository") / "encoder"
    (repository / "1").mkdir(parents=True)
    save(embedder(), repository / "1" / "model.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", module)
        spec = importlib.util.spec_from_file_location("served_model", MODEL)
        assert spec is not None
        assert spec.loader is not None
        served = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(served)
        yield SimpleNamespace(module=served, repository=repository)


def instance(backend: Any, max_batch_size: int = 8, threads: str = "1") -> Any:
    model = backend.module.TritonPythonModel()
    config = {
        "max_batch_size": max_batch_size,
        "parameters": {"intra_op_thread_count": {"string_value": threads}},
    }
    model.initialize(
        {
            "model_config": json.dumps(config),
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
            "model_repository": str(backend.repository),
            "model_version": "1",
        }
    )
    return model


def a_request(rows: int, length: int, seed: int) -> Request:
    ids = np.random.default_rng(seed).integers(0, ROWS, (rows, length), dtype=np.int32)
    return Request({"ids": ids, "attention_mask": np.ones((rows, length), np.int64)})


def expected(request: Request) -> np.ndarray[Any, Any]:
    table = np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2)
    return np.asarray(table[request.inputs["ids"]].mean(axis=1))


@settings(max_examples=30)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=8),
    max_batch_size=st.sampled_from([0, 8]),
)
def test_each_request_gets_its_own_answer_whatever_is_joined(
    backend: Any, shapes: list[tuple[int, int]], max_batch_size: int
) -> None:
    requests = [a_request(rows, length, seed) for seed, (rows, length) in enumerate(shapes)]
    responses = instance(backend, max_batch_size).execute(requests)
    for request, response in zip(requests, responses, strict=True):
        assert response.error is None
        assert [tensor.name for tensor in response.output_tensors] == ["embedding"]
        np.testing.assert_allclose(response.output_tensors[0].value, expected(request), rtol=1e-5)


def test_a_request_that_fails_takes_no_other_shape_down(backend: Any) -> None:
    bad, good = a_request(1, 2, 0), a_request(1, 3, 1)
    bad.inputs["ids"] = np.full((1, 2), 10 * ROWS, np.int32)
    failed, answered = instance(backend).execute([bad, good])
    assert "onnxruntime" in failed.error
    assert not failed.output_tensors
    np.testing.assert_allclose(answered.output_tensors[0].value, expected(good), rtol=1e-5)


def test_only_the_outputs_asked_for_are_sent(backend: Any) -> None:
    request = a_request(1, 2, 0)
    request.outputs = ()
    assert instance(backend).execute([request])[0].output_tensors == []
