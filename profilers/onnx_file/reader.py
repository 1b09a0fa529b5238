"""ONNX models: a file, or a folder that holds one, becomes a `ModelGraph`; the weights themselves are not read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from profilers.onnx_file.interpreter import Interpreter, UntraceableError
from profilers.traced.assemble import assemble
from profilers.traced.fit import Size
from profilers.traced.graph import graph_of
from profilers.traced.trace import Trace
from tuner.errors import ModelError
from tuner.model_graph import ModelGraph
from tuner.step import NumberFormat

_LENGTHS: Final = ((16, 32, 48), (256, 512, 768), (16_000, 32_000, 48_000))
"""Tokens, patches or mel frames, samples of sound: the first that the graph takes."""

_FREE_SIZE: Final = 224
"""What a dimension that may vary is read at where another one is the length: the side of an image, as a rule."""


class OnnxReader:
    """Reads `.onnx` files: every shape is computed at a few batch sizes and lengths, and amounts are fitted to them."""

    def accepts(self, path: Path) -> bool:
        """Whether `path` is an ONNX file, or a folder that holds one and no `config.json`."""
        if path.is_dir():
            return not (path / "config.json").is_file() and any(path.glob("*.onnx"))
        return path.suffix == ".onnx"

    def read(self, path: Path, weights: NumberFormat | None = None) -> ModelGraph:
        """The model at `path`.

        Args:
            path: the file, or a folder with `model.onnx` or one other `.onnx` file.
            weights: must be `None`: a file says how its weights are stored.

        Raises:
            ModelError: the file is missing, damaged, of a newer version, or contradicts itself.
        """
        if weights is not None:
            raise ModelError(f"{path} says itself how its weights are stored. Export it again as {weights.value}.")
        file = _file(path)
        model = _load(file)
        axes = _axes(model.graph)
        interpreter = Interpreter(model, file.parent)
        traces, assumptions = _traces(interpreter, model.graph, axes, str(file))
        if interpreter.untraced:
            names = ", ".join(sorted(interpreter.untraced))
            assumptions = (*assumptions, f"sizes after {names} depend on values: counted by what goes in")
        name = path.name if path.is_dir() else path.stem
        return graph_of(name, "onnx", assemble(traces, str(file)), (*axes.assumptions, *assumptions))


@dataclass(frozen=True, slots=True)
class _Axes:
    """Which dimensions of the inputs vary, and with what.

    Attributes:
        inputs: by name, each dimension a number, "batch", "length", or `None` for another that may vary.
        assumptions: what had to be supposed.
    """

    inputs: Mapping[str, tuple[int | str | None, ...]]
    assumptions: tuple[str, ...]

    def vary(self, axis: str) -> bool:
        return any(axis in dims for dims in self.inputs.values())

    def shapes(self, batch: int, length: int | None) -> dict[str, tuple[int, ...]]:
        sizes = {"batch": batch, "length": length or 1}
        return {
            name: tuple(
                dim if isinstance(dim, int) else _FREE_SIZE if dim is None else sizes[dim] for dim in dims
            )
            for name, dims in self.inputs.items()
        }  # fmt: skip


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if (path / "model.onnx").is_file():
        return path / "model.onnx"
    found = sorted(path.glob("*.onnx"))
    if len(found) != 1:
        raise ModelError(f"{path} holds {len(found)} ONNX files, none called model.onnx. Give the path of one.")
    return found[0]


def _load(file: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(file), load_external_data=False)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}. Give an .onnx file.") from error
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{file} is damaged, or no ONNX file: {error}. Export or copy it again.") from error
    if not model.graph.node:
        raise ModelError(f"{file} is damaged, or no ONNX file: it holds no operation. Export or copy it again.")
    _check_order(file, model.graph)
    for each in model.opset_import:
        newest = onnx.defs.onnx_opset_version()
        if each.domain in ("", "ai.onnx") and each.version > newest:
            raise ModelError(
                f"{file} is of operator set {each.version}; the onnx package here reads up to {newest}. "
                "Upgrade it (pip install -U onnx), or export with an older operator set."
            )
    try:
        return onnx.inliner.inline_local_functions(model) if model.functions else model
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{file}: its functions cannot be put in place: {error}. Export it again.") from error


def _check_order(file: Path, graph: onnx.GraphProto) -> None:
    """Whether every operation reads what is given or was made before it, as the format demands."""
    given = [each.name for each in graph.input] + [each.name for each in graph.initializer]
    made = {"", *given, *(each.values.name for each in graph.sparse_initializer)}
    for node in graph.node:
        missing = [name for name in node.input if name not in made]
        if missing:
            label = f"{node.op_type} {node.name!r}" if node.name else node.op_type
            problem = (
                f"{file} is damaged: {label} reads {missing[0]!r}, which is no input and no operation before it makes."
            )
            raise ModelError(f"{problem} Export or copy it again.")
        made.update(node.output)


def _axes(graph: onnx.GraphProto) -> _Axes:
    """The first dimension of the inputs, if it varies, is the batch; see `_lengths` for the others."""
    constant = {tensor.name for tensor in graph.initializer}
    fed = [each for each in graph.input if each.name not in constant]
    dims = {
        each.name: [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{each.name}.{axis}"
            for axis, dim in enumerate(each.type.tensor_type.shape.dim)
        ]
        for each in fed
    }
    batches = {shape[0] for shape in dims.values() if shape and isinstance(shape[0], str)}
    others = list(dict.fromkeys(
        dim for shape in dims.values() for dim in shape[1:] if isinstance(dim, str) and dim not in batches
    ))  # fmt: skip
    integers = {each.name for each in fed if each.type.tensor_type.elem_type in (6, 7)}
    lengths = _lengths(others, {name: shape for name, shape in dims.items() if name in integers})
    free = [name for name in others if name not in lengths]
    assumptions = []
    if free:
        assumptions.append(f"dimensions {', '.join(free)} vary: read at {_FREE_SIZE}")
    if len(lengths) > 1:
        assumptions.append(f"dimensions {', '.join(sorted(lengths))} are taken to be one length")
    return _Axes(
        {
            name: tuple(
                dim if isinstance(dim, int) else "batch" if dim in batches else "length" if dim in lengths else None
                for dim in shape
            )
            for name, shape in dims.items()
        },
        tuple(assumptions),
    )


def _lengths(others: list[str], integers: Mapping[str, list[int | str]]) -> set[str]:
    """Varying dimensions that are the length of a sequence: of token ids, or called so, or the only one there is."""
    ids = {dim for shape in integers.values() for dim in shape[1:2] if isinstance(dim, str)} & set(others)
    called = {dim for dim in others if any(word in dim.lower() for word in ("seq", "len", "token", "time", "frame"))}
    return ids or called or (set(others) if len(others) == 1 else set())


def _traces(
    interpreter: Interpreter, graph: onnx.GraphProto, axes: _Axes, source: str
) -> tuple[dict[Size, Trace], tuple[str, ...]]:
    """The graph at every size that its amounts are fitted to, and what had to be supposed."""
    fault = ""
    batches = (1, 2) if axes.vary("batch") else (1,)
    notes = () if axes.vary("batch") else (f"the file fixes its batch: one pass counts as {_fixed_batch(axes)}",)
    for tried in (batches, (1,)):
        for lengths in _LENGTHS if axes.vary("length") else ((None,),):
            try:
                return {
                    (_sequences(axes, batch), length): interpreter.trace(axes.shapes(batch, length))
                    for batch in tried
                    for length in lengths
                }, notes
            except UntraceableError as error:
                fault = fault or str(error)
        notes = ("the graph takes one sequence at a time, whatever its inputs say: batches are counted as so many",)
    raise ModelError(f"The shapes in {source} contradict each other: {fault}. Export it again.")


def _sequences(axes: _Axes, batch: int) -> int:
    return batch if axes.vary("batch") else _fixed_batch(axes)


def _fixed_batch(axes: _Axes) -> int:
    first = [dims[0] for dims in axes.inputs.values() if dims]
    return first[0] if first and isinstance(first[0], int) and first[0] > 0 else 1
