"""Serves an ONNX file from Triton's Python backend: the `model.py` of a model repository.

It does what the onnxruntime backend does, for installations that have none: requests that the scheduler
hands over together are concatenated along the batch dimension, run as one, and split again.

Written for Triton's interpreter: it stands alone, and runs where nothing but numpy and onnxruntime is.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

Tensors = dict[str, np.ndarray[Any, Any]]

_CONSUMED = b"used_dltensor"  # of which a capsule keeps the address
_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = (ctypes.py_object, ctypes.c_char_p)


class TritonPythonModel:
    """One instance: an onnxruntime session of its own."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the model that lies beside this file, with the threads that the configuration names."""
        config = json.loads(args["model_config"])
        parameters = {key: entry["string_value"] for key, entry in config.get("parameters", {}).items()}
        self._batches = config["max_batch_size"] > 0
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", "0"))
        options.inter_op_num_threads = 1
        providers: list[Any] = ["CPUExecutionProvider"]
        if args["model_instance_kind"] == "GPU":
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(args["model_instance_device_id"])}))
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]
        _unlink_shared_memory()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request, in order."""
        responses: list[Any] = [None] * len(requests)
        for members in self._groups(requests).values():
            try:
                answers = self._run([inputs for _, inputs in members])
            except Exception as error:
                failure = pb_utils.TritonError(f"onnxruntime: {error}")
                for index, _ in members:
                    responses[index] = pb_utils.InferenceResponse(error=failure)
                continue
            for (index, _), answer in zip(members, answers, strict=True):
                wanted = set(requests[index].requested_output_names())
                tensors = [_tensor(name, value) for name, value in answer.items() if name in wanted]
                responses[index] = pb_utils.InferenceResponse(output_tensors=tensors)
        return responses

    def _groups(self, requests: Iterable[Any]) -> dict[object, list[tuple[int, Tensors]]]:
        """Requests, by position, that can be run as one: all sizes but the batch agree."""
        groups: dict[object, list[tuple[int, Tensors]]] = {}
        for index, request in enumerate(requests):
            inputs = {name: np.from_dlpack(pb_utils.get_input_tensor_by_name(request, name)) for name in self._inputs}
            key: object = tuple(value.shape[1:] for value in inputs.values()) if self._batches else index
            groups.setdefault(key, []).append((index, inputs))
        return groups

    def _run(self, batch: list[Tensors]) -> list[Tensors]:
        if len(batch) == 1:
            return [dict(zip(self._outputs, self._session.run(None, batch[0]), strict=True))]
        joined = {name: np.concatenate([inputs[name] for inputs in batch]) for name in self._inputs}
        rows = [len(inputs[self._inputs[0]]) for inputs in batch]
        results = self._session.run(None, joined)
        pieces = [np.split(result, np.cumsum(rows)[:-1]) for result in results]
        return [dict(zip(self._outputs, parts, strict=True)) for parts in zip(*pieces, strict=True)]


def _tensor(name: str, value: np.ndarray[Any, Any]) -> Any:
    """Hands an array over by DLPack: Triton is compiled for numpy 1 and misreads the arrays of numpy 2.

    A consumed capsule is called `used_dltensor`. Triton calls it `used_dlpack`, at which numpy writes a traceback
    to the log for every tensor, so the name is put right.
    """
    capsule = value.__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    _set_capsule_name(capsule, _CONSUMED)
    return tensor


def _unlink_shared_memory() -> None:
    """Takes the name off the memory that this process shares with the server, which has it mapped by now.

    A server that is killed would leave it behind; without a name, it goes with its last process.
    """
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        _, region, suffix = line.partition("/dev/shm/triton_python_backend_shm_region_")  # noqa: S108 - Triton chose it
        if region and not suffix.endswith("(deleted)"):
            Path(region + suffix).unlink(missing_ok=True)
