"""Triton's model repository: `config.pbtxt`, and `model.py` for the Python backend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from search_spaces.onnx_model import FILE_NAME, OnnxModel, OnnxTensor
from search_spaces.triton_space import (
    DYNAMIC_BATCHING,
    INSTANCES,
    MAX_BATCH_SIZE,
    PREFERRED,
    QUEUE_DELAY,
    THREADS,
    PreferredBatch,
)
from tuner.device import DeviceKind
from tuner.errors import ModelError
from tuner.parameter import Config


class Backend(Enum):
    """What runs the model inside Triton; the value is Triton's name."""

    ONNXRUNTIME = "onnxruntime"
    PYTHON = "python"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """One model's entry in a repository.

    Attributes:
        name: of the model, and of its folder.
        backend: what runs it.
        kind: what it runs on.
        max_batch_size: 0 for a model that cannot batch.
        queue_delay_us: longest wait for a larger batch; `None` without dynamic batching.
        preferred: batch sizes that end the wait.
        instances: copies of the model.
        threads: of each copy; 0 leaves it to onnxruntime.
    """

    name: str
    backend: Backend
    kind: DeviceKind
    max_batch_size: int
    queue_delay_us: int | None
    preferred: tuple[int, ...]
    instances: int
    threads: int

    @classmethod
    def of(cls, config: Config, *, name: str, backend: Backend, kind: DeviceKind, rows: int | None) -> ModelSettings:
        """What `config` means; `rows` of a request are `None` for a model that cannot batch."""
        batching = config.get(DYNAMIC_BATCHING) is True
        size = int(config[MAX_BATCH_SIZE]) if batching else rows or 0
        return cls(
            name=name,
            backend=backend,
            kind=kind,
            max_batch_size=size,
            queue_delay_us=int(config[QUEUE_DELAY]) if batching else None,
            preferred=PreferredBatch(str(config[PREFERRED])).sizes(size) if batching else (),
            instances=int(config[INSTANCES]),
            threads=int(config[THREADS]),
        )


def repository_texts(model: OnnxModel, settings: ModelSettings) -> dict[str, str]:
    """The repository's texts, by path relative to it.

    Raises:
        ModelError: the Python backend cannot carry one of the model's tensors.
    """
    texts = {f"{settings.name}/config.pbtxt": config_pbtxt(model, settings)}
    if settings.backend is Backend.PYTHON:
        for tensor in (*model.inputs, *model.outputs):
            if tensor.datatype in ("BYTES", "BF16"):
                raise ModelError(
                    f"{tensor.name!r} of {model.path.name} is {tensor.datatype}, which Triton's Python backend does "
                    "not take here. Use backend: onnxruntime, with NVIDIA's image."
                )
        texts[f"{settings.name}/1/model.py"] = Path(__file__).with_name("triton_model.py").read_text(encoding="utf-8")
    return texts


def repository_links(model: OnnxModel, name: str) -> dict[str, Path]:
    """The repository's large files, by path relative to it: where they are on this machine."""
    folder = model.path.parent
    return {f"{name}/1/{FILE_NAME}": model.path} | {f"{name}/1/{file}": folder / file for file in model.external_files}


def config_pbtxt(model: OnnxModel, settings: ModelSettings) -> str:
    """The model configuration, complete: nothing is left for Triton to guess.

    See docs/user_guide/model_configuration.md of triton-inference-server/server.
    """
    kind = "KIND_GPU" if settings.kind is DeviceKind.GPU else "KIND_CPU"
    lines = [
        f"name: {_quoted(settings.name)}",
        f"backend: {_quoted(settings.backend.value)}",
        f"max_batch_size: {settings.max_batch_size}",
        *_tensors("input", model.inputs, batched=settings.max_batch_size > 0),
        *_tensors("output", model.outputs, batched=settings.max_batch_size > 0),
        f"instance_group [ {{ count: {settings.instances} kind: {kind} }} ]",
    ]
    if settings.queue_delay_us is not None:
        lines.append("dynamic_batching {")
        if settings.preferred:
            lines.append(f"  preferred_batch_size: {list(settings.preferred)}")
        lines += [f"  max_queue_delay_microseconds: {settings.queue_delay_us}", "}"]
    lines += _parameters({"intra_op_thread_count": str(settings.threads)})
    return "\n".join(lines) + "\n"


def _tensors(kind: str, tensors: tuple[OnnxTensor, ...], *, batched: bool) -> list[str]:
    lines = [f"{kind} ["]
    for index, tensor in enumerate(tensors):
        dims = [-1 if dim.size is None else dim.size for dim in tensor.dims[batched:]]
        # Triton knows no tensor without dimensions: a column is sent instead, and its width taken away.
        shape = f"dims: {dims}" if dims else "dims: [1] reshape { shape: [] }"
        datatype = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
        comma = "," if index + 1 < len(tensors) else ""
        lines.append(f"  {{ name: {_quoted(tensor.name)} data_type: TYPE_{datatype} {shape} }}{comma}")
    return [*lines, "]"]


def _parameters(parameters: Mapping[str, str]) -> list[str]:
    return [
        f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"
        for key, value in parameters.items()
    ]


def _quoted(text: str) -> str:
    """A string of protobuf's text format, whose escapes JSON's are a part of, for ASCII."""
    return json.dumps(text, ensure_ascii=False)
