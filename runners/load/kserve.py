"""KServe v2 inference over HTTP, tensors in Triton's binary extension.

Bodies are prepared before the load: a pool of distinct ones, used in turn. Answers are checked: an
inference answer with every output asked for, whose binary parts are all there.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from runners.load.answer import WholeAnswer
from runners.load.exchange import Prepared
from runners.load.http_head import Endpoint, head, message
from tuner.errors import UsageError
from tuner.launch import KServeRequest, TensorInput

_POOL_BODIES: Final = 256
_POOL_BYTES: Final = 64 * 2**20
_MAX_KNOWN_HEADS: Final = 1024

_FLOATS: Final = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
_INTEGERS: Final = {
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
}


class KServeSource:
    """Prepares inference requests, and reads their answers.

    Raises:
        UsageError: an input has a datatype that the protocol does not know.
    """

    def __init__(self, endpoint: Endpoint, request: KServeRequest, seed: int) -> None:
        self._outputs = frozenset(request.outputs)
        self._known: dict[bytes, int] = {}
        path = f"/v2/models/{request.model_name}/infer"
        self._pool: list[Prepared] = []
        size = 0
        while len(self._pool) < _POOL_BODIES and size < _POOL_BYTES:
            generator = np.random.default_rng([seed, 0x6B7365, len(self._pool)])
            prefix, tensors = _body(request, generator)
            headers = [
                ("Content-Type", "application/octet-stream"),
                ("Inference-Header-Content-Length", str(len(prefix))),
            ]
            wire = message(head(endpoint, "POST", path, headers), prefix + tensors)
            self._pool.append(Prepared(wire=wire))
            size += len(wire)

    def prepare(self, index: int) -> Prepared:
        return self._pool[index % len(self._pool)]

    def answer(self) -> KServeAnswer:
        return KServeAnswer(self._outputs, self._known)


def _body(request: KServeRequest, generator: np.random.Generator) -> tuple[bytes, bytes]:
    """JSON header and binary tensors of one request."""
    sizes: dict[str, int] = {}
    inputs: list[dict[str, object]] = []
    tensors: list[bytes] = []
    for tensor in request.inputs:
        shape = _shape(tensor, sizes, generator)
        data = tensor_bytes(tensor, shape, generator)
        inputs.append(
            {
                "name": tensor.name,
                "shape": list(shape),
                "datatype": tensor.datatype,
                "parameters": {"binary_data_size": len(data)},
            }
        )
        tensors.append(data)
    header: dict[str, object] = {"inputs": inputs}
    if request.outputs:
        header["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in request.outputs]
    else:
        header["parameters"] = {"binary_data_output": True}
    return json.dumps(header, separators=(",", ":")).encode(), b"".join(tensors)


def _shape(tensor: TensorInput, sizes: dict[str, int], generator: np.random.Generator) -> tuple[int, ...]:
    """Draws each dimension; one label has one size within a request."""
    shape = []
    for choices, label in zip(tensor.dims, tensor.labels, strict=True):
        size = sizes.get(label) if label else None
        if size is None:
            size = int(choices[int(generator.integers(len(choices)))])
            if label:
                sizes[label] = size
        shape.append(size)
    return tuple(shape)


def tensor_bytes(tensor: TensorInput, shape: Sequence[int], generator: np.random.Generator) -> bytes:
    """Random contents of one tensor, little-endian and row-major, as the binary extension has them."""
    low, high = tensor.low, tensor.high
    if tensor.datatype in _FLOATS:
        values: npt.NDArray[np.generic] = generator.uniform(low, high, shape).astype(_FLOATS[tensor.datatype])
        return values.tobytes()
    if tensor.datatype in _INTEGERS:
        integer = _INTEGERS[tensor.datatype]
        return generator.integers(int(low), max(int(high), int(low) + 1), shape, dtype=integer).tobytes()
    if tensor.datatype == "BOOL":
        return generator.integers(0, 2, shape, dtype=np.uint8).tobytes()
    if tensor.datatype == "BF16":
        # The upper half of a 32-bit float is its bfloat16, truncated.
        halves = generator.uniform(low, high, shape).astype("<f4").view("<u4") >> 16
        return halves.astype("<u2").tobytes()
    if tensor.datatype == "BYTES":
        texts = [b"%x" % value for value in generator.integers(0, 2**32, int(np.prod(shape, dtype=np.int64)))]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    known = ", ".join([*_INTEGERS, *_FLOATS, "BF16", "BOOL", "BYTES"])
    raise UsageError(f"Input {tensor.name!r} has the datatype {tensor.datatype!r}. KServe v2 knows {known}.")


class KServeAnswer(WholeAnswer):
    """An inference answer: JSON, or JSON followed by the outputs' bytes."""

    __slots__ = ("_header_bytes", "_known", "_outputs")

    def __init__(self, outputs: frozenset[str], known: dict[bytes, int]) -> None:
        """`known` remembers answers' JSON heads and the bytes that follow each: most are alike."""
        super().__init__()
        self._outputs = outputs
        self._known = known
        self._header_bytes: int | None = None

    def header(self, name: bytes, value: bytes) -> None:
        if name == b"inference-header-content-length" and value.isdigit():
            self._header_bytes = int(value)

    def judge(self, body: bytes) -> str | None:
        # Without a binary part the whole body is JSON, different every time.
        end = len(body) if self._header_bytes is None else self._header_bytes
        start = body[:end]
        binary = self._known.get(start)
        if binary is None:
            found = inference_answer(start, self._outputs)
            if isinstance(found, str):
                return found
            binary = found
            if self._header_bytes is not None and len(self._known) < _MAX_KNOWN_HEADS:
                self._known[start] = binary
        if len(body) != end + binary:
            return f"no inference answer: {len(body) - end} bytes of tensors where {binary} were announced"
        return None


def inference_answer(text: bytes, outputs: frozenset[str]) -> int | str:
    """Bytes of tensors that follow an inference answer's JSON, or what is wrong with it."""
    try:
        answer = json.loads(text)
        if "error" in answer:
            return f"inference error: {answer['error']}"
        found = {output["name"]: output for output in answer["outputs"]}
        missing = sorted(outputs - set(found))
        if missing or not found:
            return f"no inference answer: it lacks the outputs {missing}"
        binary = 0
        for output in found.values():
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None and "data" not in output:
                return f"no inference answer: output {output['name']!r} has no data"
            binary += int(size or 0)
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"no inference answer: {text[:60]!r}"
    return binary
