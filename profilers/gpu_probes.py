"""What must be timed on a GPU to know a model's steps there at any load: points of operator tables.

A pass over a batch of one length, which is what `probes` covers, says little of a server that mixes prompts and
decoding: here every product runs over a ladder of rows, and attention over grids of batch and length.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from profilers.probe import Probe, ProbeKind, probe_of
from tuner.model_graph import ModelGraph
from tuner.operators import AllReduce, Attention, Experts, MatMul
from tuner.step import NumberFormat, Rows, Shard
from tuner.traced_operators import Convolution

_LADDERS: Final = {
    "rows": ((1, 64, 512, 4096), (8, 256, 2048, 16), (2, 4, 32, 128, 1024, 8192), (96, 192, 384, 768, 1536, 3072)),
    "lengths": ((128, 1024, 4096), (512, 2048, 8192), (32, 256, 16384)),
    "prompts": ((1, 8), (2, 4, 16), (32, 64)),
    "sequences": ((1, 64), (8, 256), (2, 16, 32, 128), (4, 512)),
    "contexts": ((128, 1024, 8192), (512, 2048, 4096), (32, 16384, 32768)),
}
"""Coarse values first, each further group between or beyond those before: a profile that is cut short is coarse."""
_MOST_SEQUENCES: Final = 512
_MOST_PROMPT_TOKENS: Final = 32768
_MEMORY_SHARE: Final = 0.1
"""Of the free memory, for what one probe reads."""
_MULTIPLIED: Final = {
    NumberFormat.BF16: NumberFormat.BF16,
    NumberFormat.FP32: NumberFormat.BF16,
    NumberFormat.FP8: NumberFormat.FP8,
}
"""Formats of weights that torch multiplies as engines do; single precision is converted on loading."""


def gpu_probes(
    graph: ModelGraph, length: int, memory_bytes: float, shard: Shard | None = None, gpus: int = 1
) -> list[Probe]:
    """Points that serve the model: the coarsest of every operator first, and the largest work first among those.

    Norms, activations and additions are not among them: engines fuse them, and tables hold none.

    Args:
        length: tokens of a sequence that is surely asked about.
        memory_bytes: that is free.
        shard: how the model is cut.
        gpus: of this machine; sums over more are left out.
    """
    shard = shard or Shard()
    found: dict[Probe, int] = {}
    for operator in graph.operators:
        if isinstance(operator, MatMul):
            points = _products(operator, shard)
        elif isinstance(operator, Attention):
            points = _attention(operator, shard, length, graph.max_context)
        elif isinstance(operator, Experts):
            points = _experts(operator, shard)
        elif isinstance(operator, Convolution):
            points = _convolutions(operator)
        elif isinstance(operator, AllReduce) and operator.group(shard) <= gpus:
            points = _sums(operator, shard)
        else:
            continue
        for level, probe in points:
            if probe.values_moved * 2.0 <= _MEMORY_SHARE * memory_bytes:
                found[probe] = min(level, found.get(probe, level))
    return sorted(found, key=lambda probe: (found[probe], -probe.flops, -probe.values_moved, probe))


def untimed_formats(graph: ModelGraph) -> set[NumberFormat]:
    """Formats of weights whose products torch does not compute as engines do."""
    products = {operator.format for operator in graph.operators if isinstance(operator, MatMul)}
    experts = {operator.format for operator in graph.operators if isinstance(operator, Experts)}
    return (products - set(_MULTIPLIED)) | {each for each in experts if _MULTIPLIED.get(each) != NumberFormat.BF16}


def _graded(ladder: str) -> Iterator[tuple[int, int]]:
    """Values of a ladder with their group, coarse ones first."""
    return ((level, value) for level, group in enumerate(_LADDERS[ladder]) for value in group)


def _products(operator: MatMul, shard: Shard) -> Iterator[tuple[int, Probe]]:
    format = _MULTIPLIED.get(operator.format)
    if format is None or operator.rows is Rows.PATCH:
        return
    outputs, inputs = operator.shape(shard)
    for level, rows in _graded("rows"):
        if operator.rows is Rows.TOKEN or rows <= _MOST_SEQUENCES * operator.rows_each:
            yield level, Probe(ProbeKind.MATMUL.value, rows, outputs, inputs, format=format.value)


def _attention(operator: Attention, shard: Shard, length: int, longest: int | None) -> Iterator[tuple[int, Probe]]:
    if operator.rows is Rows.PATCH or operator.head_dim != operator.value_dim:
        return
    heads, kv_heads = operator.shape(shard)
    width, head, window = heads * operator.head_dim, operator.head_dim, operator.window or 0
    limit = longest or max(_LADDERS["contexts"][-1])
    asked = (0, operator.length or length)
    for level, tokens in [asked] if operator.length is not None else [asked, *_graded("lengths")]:
        if tokens > min(limit, window or limit):  # torch has no fast kernel with a window
            continue
        for more, batch in _graded("prompts"):
            if batch * tokens <= _MOST_PROMPT_TOKENS:
                yield (
                    level + more,
                    Probe(
                        ProbeKind.ATTENTION.value, batch * tokens, width, head, tokens,
                        causal=operator.causal, kv_heads=kv_heads, window=window,
                    ),
                )  # fmt: skip
    for level, context in _graded("contexts") if operator.keeps_cache else ():
        for more, count in _graded("sequences") if context <= limit else ():
            yield (
                level + more,
                Probe(
                    ProbeKind.DECODE_ATTENTION.value, count, width, head, context,
                    causal=True, kv_heads=kv_heads, window=window,
                ),
            )  # fmt: skip


def _convolutions(operator: Convolution) -> Iterator[tuple[int, Probe]]:
    for level, images in _graded("sequences"):
        probe = probe_of(operator, images, 1)
        assert probe is not None
        yield level, probe


def _sums(operator: AllReduce, shard: Shard) -> Iterator[tuple[int, Probe]]:
    for level, rows in _graded("rows"):
        probe = probe_of(operator, rows, 1, shard)
        if probe is not None:
            yield level, probe


def _experts(operator: Experts, shard: Shard) -> Iterator[tuple[int, Probe]]:
    if _MULTIPLIED.get(operator.format) != NumberFormat.BF16 or not operator.gated:
        return
    said = {
        "experts": operator.experts, "chosen": operator.chosen,
        "tensor": shard.expert_tensor, "groups": shard.expert_parallel,
    }  # fmt: skip
    detail = json.dumps(said)
    for level, rows in _graded("rows"):
        yield level, Probe(ProbeKind.EXPERTS.value, rows, operator.hidden, operator.inner, detail=detail)
