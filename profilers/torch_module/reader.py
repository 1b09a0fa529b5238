"""Any `torch.nn.Module` becomes a `ModelGraph` through `torch.export`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.export import Dim

from profilers.torch_module.tracer import Tracer
from profilers.traced.assemble import assemble
from profilers.traced.fit import Size
from profilers.traced.graph import graph_of
from profilers.traced.trace import Trace
from tuner.errors import ModelError
from tuner.model_graph import ModelGraph
from tuner.step import OperatorKind
from tuner.traced_operators import Extent, TracedWork

_BATCHES: Final = (2, 4)
_LENGTHS: Final = (16, 32, 48)


def read_module(module: torch.nn.Module, example_inputs: Sequence[Any], name: str = "") -> ModelGraph:
    """The graph that `module` runs for inputs like `example_inputs`.

    The first dimension of tensors that share its size with the first input is the batch; the second dimension of
    whole-number inputs (token ids) is the length. What the module fixes stays as it is in the examples; the graph's
    `assumptions` say so.

    Args:
        module: is read in evaluation mode, and left in the mode it was in.
        example_inputs: positional arguments; tensors with a batch of 2 or more and lengths of 3 or more.
        name: for people; the module's class where empty.

    Raises:
        ModelError: the inputs are no such tensors, or `torch.export` cannot trace the module.
    """
    first = next((each for each in example_inputs if isinstance(each, torch.Tensor) and each.dim() > 0), None)
    if first is None:
        raise ModelError("read_module needs an example input that is a tensor with a batch dimension. Give one.")
    if first.shape[0] < 2:
        raise ModelError("The example inputs hold a batch of 1, which torch.export takes for fixed. Give 2 or more.")
    title = name or type(module).__name__
    tracer = Tracer(_export(module, example_inputs, first, title))
    symbols, fixed, notes = _symbols(tracer, first)
    batches, lengths = _sizes(first, symbols, fixed, example_inputs)
    traces: dict[Size, Trace] = {}
    for batch in batches:
        for length in lengths:
            sizes = {symbol: batch if axis == "batch" else length for symbol, axis in symbols.items()}
            traces[batch, length] = tracer.trace({symbol: size or 1 for symbol, size in sizes.items()})
    operators = assemble(traces, title)
    held = {weight.name for trace in traces.values() for node in trace.nodes for weight in node.weights}
    idle = [weight for path, weight in tracer.parameters.items() if path not in held]
    for weight in idle:
        operators = (*operators, TracedWork(
            name=weight.name, count=1, traced_kind=OperatorKind.ELEMENTWISE, operation="unused", work=Extent(),
            moved=Extent(), weights=weight.parameters, format=weight.format,
        ))  # fmt: skip
    if idle:
        notes = (*notes, f"{len(idle)} parameters are not used by this pass: they take memory alone")
    return graph_of(title, "torch", operators, notes)


def _export(module: torch.nn.Module, inputs: Sequence[Any], first: torch.Tensor, title: str) -> Any:
    def dims(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dim() == 0:
            return None
        vary = {0: Dim.AUTO} if value.shape[0] == first.shape[0] else {}
        if value.dim() > 1 and _holds_ids(value) and value.shape[1] > 2:
            vary[1] = Dim.AUTO
        return vary or None

    training = module.training
    try:
        with torch.no_grad(), _plain_attention():
            module.eval()
            shapes = tuple(dims(value) for value in inputs)
            return torch.export.export(module, tuple(inputs), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # tracing runs the module's own code, which raises what it likes
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"torch.export cannot trace {title}: {type(error).__name__}: {lines[0]}. "
            "Give inputs that its forward() takes, or a module without control flow that depends on values."
        ) from error
    finally:
        module.train(training)


def _holds_ids(value: torch.Tensor) -> bool:
    return not value.dtype.is_floating_point and value.dtype is not torch.bool


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Encoder layers as their operations, not as one fused kernel."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _symbols(tracer: Tracer, first: torch.Tensor) -> tuple[dict[Any, str], int | None, tuple[str, ...]]:
    """Which symbol is the batch and which the length; the batch's size where the module fixes it."""
    symbols: dict[Any, str] = {}
    fixed: int | None = None
    notes: list[str] = []
    for name in tracer.inputs:
        if not isinstance(name, str):
            continue
        value = tracer.placeholder(name)
        dims: Sequence[Any] = value.shape if isinstance(value, torch.Tensor) else ()
        for axis, dim in enumerate(dims):
            if isinstance(dim, torch.SymInt):
                for symbol in dim.node.expr.free_symbols:
                    symbols.setdefault(symbol, "batch" if axis == 0 else "length")
    if "batch" not in symbols.values():
        fixed = int(first.shape[0])
        notes.append(f"the module fixes its batch: one pass counts as {fixed} sequences")
    if "length" not in symbols.values() and first.dim() == 2 and _holds_ids(first):
        notes.append(f"the module fixes its length at {first.shape[1]} tokens")
    return symbols, fixed, tuple(notes)


def _sizes(
    first: torch.Tensor, symbols: dict[Any, str], fixed: int | None, inputs: Sequence[Any]
) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
    batches = _BATCHES if fixed is None else (fixed,)
    if "length" not in symbols.values():
        return batches, (None,)
    longest = max(int(each.shape[1]) for each in inputs if isinstance(each, torch.Tensor) and each.dim() > 1)
    # lengths that the example vouches for: a table of positions may end soon after it
    return batches, _LENGTHS if longest >= _LENGTHS[-1] else tuple(sorted({3, (longest + 3) // 2, longest}))
