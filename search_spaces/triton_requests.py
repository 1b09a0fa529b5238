"""KServe v2 requests for an ONNX model, from what the workload says of their sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from search_spaces.onnx_model import OnnxDim, OnnxModel, OnnxTensor
from search_spaces.triton_options import ValueRange
from tuner.errors import ModelError, UsageError, did_you_mean
from tuner.launch import KServeRequest, TensorInput
from tuner.workload import RequestShapes, TensorShapes

SEQUENCE_LENGTH: Final = 128
"""Guess for the length of token sequences: what sentence encoders are commonly benchmarked with."""

IMAGE_SIDE: Final = 224
"""Guess for the height and width of images: ImageNet's usual crop."""

_SEQUENCE: Final = re.compile(r"seq|len|tok|time|frame|step", re.IGNORECASE)
_SIDE: Final = re.compile(r"height|width|^[hw]$", re.IGNORECASE)
_MASK: Final = re.compile(r"mask", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Sizes that the workload gives, by name of a dimension or of an input."""

    given: Mapping[str, tuple[int, ...]]

    def of(self, tensor: OnnxTensor, dim: OnnxDim, model: OnnxModel) -> tuple[int, ...]:
        if dim.size is not None:
            return (dim.size,)
        if dim.name and dim.name in self.given:
            return self.given[dim.name]
        if tensor.name in self.given:
            return self.given[tensor.name]
        guess = _guess(tensor, dim)
        if guess is None:
            called = f"Dimension {dim.name!r}" if dim.name else "A dimension without a name"
            raise UsageError(
                f"{called} of input {tensor.name!r} of {model.path.name} varies, and nothing says its size. Write "
                f"{{{dim.name or tensor.name}: SIZE}} under workload.requests.tensors.dims."
            )
        return (guess,)


def kserve_request(
    model: OnnxModel, name: str, requests: RequestShapes, values: Mapping[str, ValueRange]
) -> KServeRequest:
    """How to ask `model` something.

    Sizes of dimensions that vary come from the workload; where it is silent, token sequences (integers,
    or a dimension so called) are guessed to be `SEQUENCE_LENGTH` long and images `IMAGE_SIDE` wide and
    high. Dimensions of one name share one size within a request.

    Args:
        model: what is served.
        name: under which the server knows it.
        requests: sizes, by name of a dimension or of an input, and rows.
        values: by name of an input, what its elements are drawn from.

    Raises:
        UsageError: the workload is of another kind, names what the model does not have, leaves out a size
            that cannot be guessed, or asks for more rows than the model takes.
    """
    if not isinstance(requests, TensorShapes):
        raise UsageError(
            "Triton serves ONNX models, and the workload's requests carry no tensors. Write workload.requests.tensors."
        )
    _check_names(model, requests, values)
    if requests.rows > 1 and not model.batches:
        raise UsageError(
            f"Requests carry {requests.rows} rows, but {model.path.name} cannot batch: its first dimension does not "
            "vary in every input and output. Write rows: 1, or export the model with a dynamic batch."
        )
    sizes = _Sizes(dict(requests.dims))
    return KServeRequest(
        model_name=name,
        inputs=tuple(_input(tensor, model, requests.rows, sizes, values.get(tensor.name)) for tensor in model.inputs),
    )


def _input(tensor: OnnxTensor, model: OnnxModel, rows: int, sizes: _Sizes, values: ValueRange | None) -> TensorInput:
    if not tensor.dims:
        raise ModelError(
            f"Input {tensor.name!r} of {model.path.name} is a scalar, which Triton does not take. Give it a dimension."
        )
    inner = tensor.dims[1:] if model.batches else tensor.dims
    dims = [sizes.of(tensor, dim, model) for dim in inner] or [(1,)]
    labels = [dim.name if dim.size is None else "" for dim in inner] or [""]
    if model.batches:
        dims, labels = [(rows,), *dims], ["", *labels]
    low, high = (values.low, values.high) if values is not None else _values(tensor, model)
    return TensorInput(
        name=tensor.name, datatype=tensor.datatype, dims=tuple(dims), labels=tuple(labels), low=low, high=high
    )


def _values(tensor: OnnxTensor, model: OnnxModel) -> tuple[float, float]:
    if not tensor.is_integer:
        return 0.0, 1.0
    if tensor.name in model.table_rows:
        return 0.0, float(model.table_rows[tensor.name])
    if _MASK.search(tensor.name):
        return 1.0, 2.0  # nothing is masked
    if tensor.datatype == "UINT8":
        return 0.0, 256.0
    return 0.0, 2.0  # valid whatever the numbers mean


def _guess(tensor: OnnxTensor, dim: OnnxDim) -> int | None:
    if _SIDE.search(dim.name):
        return IMAGE_SIDE
    if _SEQUENCE.search(dim.name) or tensor.is_integer:
        return SEQUENCE_LENGTH
    if not dim.name and len(tensor.dims) == 4:
        return IMAGE_SIDE
    return None


def _check_names(model: OnnxModel, requests: TensorShapes, values: Mapping[str, ValueRange]) -> None:
    inputs = {tensor.name for tensor in model.inputs}
    inner = [tensor.dims[1:] if model.batches else tensor.dims for tensor in model.inputs]
    dims = {dim.name for dims in inner for dim in dims if dim.size is None and dim.name}
    batch = {tensor.dims[0].name for tensor in model.inputs if tensor.dims} if model.batches else set()
    for name, _ in requests.dims:
        if name in batch - dims - inputs:
            raise UsageError(f"{name!r} is the batch dimension of {model.path.name}. Write rows instead of its size.")
        if name not in dims | inputs:
            raise UsageError(
                f"{model.path.name} has no dynamic dimension and no input called {name!r}. "
                f"{did_you_mean(name, dims | inputs)}"
            )
        if name in inputs - dims and all(
            dim.size is not None
            for tensor, rest in zip(model.inputs, inner, strict=True)
            if tensor.name == name
            for dim in rest
        ):
            raise UsageError(f"Input {name!r} of {model.path.name} has one size only. Leave {name!r} out of dims.")
    for name in values:
        if name not in inputs:
            raise UsageError(f"{model.path.name} has no input called {name!r}. {did_you_mean(name, inputs)}")
