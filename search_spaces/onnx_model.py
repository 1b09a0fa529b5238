"""What an ONNX file asks of a request: its inputs and outputs, without its weights."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from tuner.errors import ModelError
from tuner.ports import ModelSource

FILE_NAME: Final = "model.onnx"
"""What the model file of a folder is called."""

_DATATYPES: Final[Mapping[int, str]] = {
    onnx.TensorProto.BOOL: "BOOL",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.UINT16: "UINT16",
    onnx.TensorProto.UINT32: "UINT32",
    onnx.TensorProto.UINT64: "UINT64",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT16: "INT16",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.DOUBLE: "FP64",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.STRING: "BYTES",
}
"""Names of the KServe v2 protocol, by ONNX's numbers."""

_KEEPS_VALUES: Final = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Slice"})
"""Operators between an input and its look-up that leave the ids as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxDim:
    """One dimension: `size` is `None` where it may vary; `name` is empty where it has none."""

    size: int | None = None
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxTensor:
    """An input or output.

    Attributes:
        name: as the graph calls it.
        datatype: as the KServe v2 protocol calls it.
        dims: its dimensions; empty for a scalar.
    """

    name: str
    datatype: str
    dims: tuple[OnnxDim, ...]

    @property
    def is_integer(self) -> bool:
        """Whether it holds whole numbers."""
        return self.datatype.startswith(("INT", "UINT"))


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel:
    """An ONNX file, as far as requests are concerned.

    Attributes:
        path: the file.
        inputs, outputs: in the order of the graph.
        table_rows: by name of an input whose values look up rows of a table (token ids in an embedding),
            how many rows the smallest such table has.
        external_files: files beside it that hold weights, relative to its folder.
    """

    path: Path
    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    table_rows: Mapping[str, int] = field(default_factory=dict)
    external_files: tuple[str, ...] = ()

    @property
    def batches(self) -> bool:
        """Whether requests can be joined along the first dimension: it varies in every input and output."""
        return all(tensor.dims and tensor.dims[0].size is None for tensor in (*self.inputs, *self.outputs))


def read_onnx(source: ModelSource) -> OnnxModel:
    """The model in an ONNX file, or in a folder that holds one.

    Raises:
        ModelError: there is none, or it is damaged, incomplete, or has inputs that no server takes.
    """
    path = _find(source)
    try:
        status = path.stat()
    except OSError as error:
        raise ModelError(f"The model {path} cannot be read: {error.strerror}.") from error
    return _read(path, status.st_mtime_ns, status.st_size)


def _find(source: ModelSource) -> Path:
    if source.path is None:
        raise ModelError(
            f"{source.name!r} is a hub id, and Triton serves ONNX files. Export the model to ONNX (for example "
            f"`optimum-cli export onnx --model {source.name} model/`) and write the path of the file."
        )
    path = source.path
    if path.is_file():
        return path
    if not path.is_dir():
        raise ModelError(f"There is no {path}. Write the path of an ONNX file, or of a folder with {FILE_NAME}.")
    if (path / FILE_NAME).is_file():
        return path / FILE_NAME
    found = sorted(path.glob("*.onnx"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found)
        raise ModelError(f"The folder {path} holds several ONNX files: {names}. Write the path of one.")
    raise ModelError(f"The folder {path} holds no ONNX file. Export the model to ONNX, as {path / FILE_NAME}.")


# A study asks for the same model at every trial, and reading one takes as long as its file is large. A file that has
# changed is another model.
@functools.lru_cache(maxsize=8)
def _read(path: Path, modified_ns: int, size_bytes: int) -> OnnxModel:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise ModelError(f"The model {path} cannot be read: {error.strerror}.") from error
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{path} is damaged, or no ONNX file: {error}. Export or copy it again.") from error
    graph = model.graph
    if not model.ir_version or not graph.node or not graph.output:
        raise ModelError(f"{path} is damaged, or no ONNX file: it has no graph. Export or copy it again.")
    constants = {constant.name for constant in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if not inputs:
        raise ModelError(f"The model {path} has no inputs, so there is nothing to ask it.")
    return OnnxModel(
        path=path,
        inputs=tuple(_tensor(value, path) for value in inputs),
        outputs=tuple(_tensor(value, path) for value in graph.output),
        table_rows=_table_rows(graph),
        external_files=_external_files(graph, path),
    )


def _tensor(value: onnx.ValueInfoProto, path: Path) -> OnnxTensor:
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "nothing"
        raise ModelError(f"{value.name!r} of {path} is a {kind}, and servers exchange tensors only.")
    tensor = value.type.tensor_type
    datatype = _DATATYPES.get(tensor.elem_type)
    if datatype is None:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type else "undefined"
        raise ModelError(
            f"{value.name!r} of {path} has elements of type {kind}, which the KServe protocol does not carry. "
            "Cast it inside the graph."
        )
    if not tensor.HasField("shape"):
        raise ModelError(
            f"{value.name!r} of {path} does not say how many dimensions it has. Run "
            "`onnx.shape_inference.infer_shapes_path` on the file."
        )
    return OnnxTensor(name=value.name, datatype=datatype, dims=tuple(_dim(dim) for dim in tensor.shape.dim))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> OnnxDim:
    # Some exporters write a dimension that varies as -1 or 0.
    if dim.HasField("dim_value") and dim.dim_value > 0:
        return OnnxDim(size=dim.dim_value)
    return OnnxDim(name=dim.dim_param)


def _external_files(graph: onnx.GraphProto, path: Path) -> tuple[str, ...]:
    names = sorted({ExternalDataInfo(tensor).location for tensor in _tensors(graph) if uses_external_data(tensor)})
    for name in names:
        place = PurePosixPath(name)
        if not name or place.is_absolute() or ".." in place.parts:
            raise ModelError(
                f"The model {path} keeps weights in {name!r}, outside its folder. Save it again with onnx."
            )
        if not (path.parent / name).is_file():
            raise ModelError(
                f"The model {path} keeps its weights in {name!r}, and there is no such file beside it. Copy it to "
                f"{path.parent / name}."
            )
    return tuple(names)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every constant, those of nodes and inner graphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _tensors(inner)


def _table_rows(graph: onnx.GraphProto) -> dict[str, int]:
    tables = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    origin = {value.name: value.name for value in graph.input if value.name not in tables}
    rows: dict[str, int] = {}
    for node in graph.node:  # in an order in which each follows those it reads from
        if node.op_type in _KEEPS_VALUES and node.input and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        elif node.op_type == "Identity" and node.input and node.input[0] in tables:
            tables[node.output[0]] = tables[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in tables and node.input[1] in origin:
            shape = tables[node.input[0]]
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            name = origin[node.input[1]]
            if -len(shape) <= axis < len(shape):
                rows[name] = min(shape[axis], rows.get(name, shape[axis]))
    return rows
