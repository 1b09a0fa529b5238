"""Rows of serving runs as tables of measurements write them, read into what the model needs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from tuner.errors import UsageError
from tuner.model_graph import ModelGraph
from tuner.operators import Attention, Experts, LatentAttention
from tuner.performance.corrections import Engine
from tuner.performance.published_sweeps import Apart, Launch, Run, is_of_one_length, is_published, launch
from tuner.step import NumberFormat, Rows, Shard

_FORMATS: Final = {
    "bfloat16": NumberFormat.BF16,
    "bf16": NumberFormat.BF16,
    "fp8": NumberFormat.FP8,
    "fp8_block": NumberFormat.FP8_BLOCK,
    "nvfp4": NumberFormat.NVFP4,
    "fp4": NumberFormat.NVFP4,
    "mxfp4": NumberFormat.MXFP4,
    "w4a16_mxfp4": NumberFormat.MXFP4,
    "int4_wo": NumberFormat.INT4,
    "int4": NumberFormat.INT4,
    "int8": NumberFormat.INT8,
}
_MAX_TOKENS: Final = 10_000_000
_MAX_DEVICES: Final = 1024
_OVERLAPPED_SINCE: Final = {Engine.VLLM: (0, 14), Engine.SGLANG: (0, 4), Engine.TRTLLM: (0, 0)}
"""Releases from which an engine's loop runs beside the GPU by default."""


_BY_DEFAULT: Final = Launch()


class Declined(Exception):
    """A row that is not predicted, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One group of GPUs that serves prompts, tokens or both.

    Attributes:
        shard: how the model is cut.
        replicas: groups like this one.
        batch: sequences running in each attention replica.
    """

    shard: Shard
    replicas: float
    batch: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRow:
    """One serving run.

    Attributes:
        model, device: names.
        engine: which one.
        serial_host: its loop does not run beside the GPU.
        weights, experts: number formats that the row states, `None` where it states none.
        quantized: the row says that weights are stored in 8 bits or fewer.
        input_tokens, output_tokens: of one request.
        decode: where tokens are decoded.
        prefill: where prompts are computed, `None` for the same place.
        fixed_lengths: all requests have one length, and each client waits for its answer before it sends the next.
        version: of the engine, empty where it is not known; runs of one version share its errors.
        opening_burst: means include the burst with which the clients of a short benchmark all start.
        launched: how, where published scripts say so.
    """

    model: str
    device: str
    engine: Engine
    serial_host: bool
    weights: NumberFormat | None
    experts: NumberFormat | None
    quantized: bool
    input_tokens: float
    output_tokens: float
    decode: Placement
    prefill: Placement | None
    fixed_lengths: bool
    version: str = ""
    opening_burst: bool = True
    launched: Launch = _BY_DEFAULT


def read_row(values: Mapping[str, str]) -> ServingRow:
    """A row by its columns' names; see `silicon_e2e` in docs/performance-model.md.

    Raises:
        Declined: the row lacks something, or states what cannot be.
    """
    try:
        engine = Engine.named(_text(values, "backend"))
    except UsageError as error:
        raise Declined(str(error)) from error
    weights = _format(values, "gemm_quant_mode")
    experts = _format(values, "moe_quant_mode")
    precision = values.get("precision", "").strip().lower()
    disaggregated = _disaggregated(values)
    decode = _placement(values, "decode_" if disaggregated else "")
    prefill = _placement(values, "prefill_") if disaggregated else None
    source, version = values.get("source", ""), values.get("backend_version", "").strip()
    launched = _BY_DEFAULT
    if is_published(source):
        run = _run(values, engine, precision, decode, disaggregated)
        launched = launch(run)
        if launched.apart is not None:
            prefill, decode = _apart(launched.apart, run.clients)
        if launched.clients is not None:
            decode = replace(decode, batch=launched.clients)
    overlapped = launched.overlapped
    if overlapped is None:
        overlapped = _version(version) >= _OVERLAPPED_SINCE[engine]
    inputs, outputs = (_number(values, name, low=1, high=_MAX_TOKENS) for name in ("isl", "osl"))
    return ServingRow(
        model=_text(values, "model_path"),
        device=_text(values, "system"),
        engine=engine,
        serial_host=not overlapped,
        weights=weights or _format(values, "precision"),
        experts=experts or weights or _format(values, "precision"),
        quantized=precision not in ("", "bf16", "bfloat16", "fp16"),
        input_tokens=max(inputs * launched.mean_length, 1.0),
        output_tokens=max(outputs * launched.mean_length, 1.0),
        decode=decode,
        prefill=prefill,
        fixed_lengths=is_of_one_length(source),
        version=version,
        launched=launched,
    )


def _disaggregated(values: Mapping[str, str]) -> bool:
    mode = (values.get("mode") or "").strip().lower()
    if mode not in ("", "nan", "agg", "disagg"):
        raise Declined(f"mode is {mode!r}, neither agg nor disagg")
    return mode == "disagg"


def resolved_formats(row: ServingRow, own: ModelGraph) -> tuple[NumberFormat | None, NumberFormat | None]:
    """Formats to read the model's weights and experts in, `None` for what its own files say.

    Tables label formats loosely: 4-bit expert checkpoints stay what they are whatever the label says, and "fp8" is
    the model's own kind of it.
    """
    kept = {getattr(op, "format", NumberFormat.BF16) for op in own.operators}
    if NumberFormat.MXFP4 in kept:
        return None, None
    weights, experts = row.weights, row.experts
    if weights is None and not row.quantized:
        return (None, None) if kept <= {NumberFormat.BF16} else (NumberFormat.BF16, NumberFormat.BF16)
    if weights is NumberFormat.INT4 and NumberFormat.INT4 in kept:
        return None, None
    if NumberFormat.FP8_BLOCK in kept:
        weights = NumberFormat.FP8_BLOCK if weights is NumberFormat.FP8 else weights
        experts = NumberFormat.FP8_BLOCK if experts is NumberFormat.FP8 else experts
    return weights, experts


def effective_shard(graph: ModelGraph, shard: Shard, node_devices: int) -> tuple[Shard, bool]:
    """The shard as an engine can run it, and whether it was read as a wide expert-parallel deployment.

    Experts spread over more GPUs than a node has are served with attention replicated on every GPU (no head count
    divides so far), whichever column states the GPUs. Where rows do not say how experts are cut, or only half of it,
    the GPUs that share attention share them.

    Raises:
        Declined: heads do not divide over the GPUs, experts are on another number of GPUs than attention is, or there
            are more stages than layers.
    """
    if shard.pipeline > graph.layers:
        raise Declined(f"{shard.pipeline} stages (pp_size) are more than the model's {graph.layers} layers")
    if not graph.has_experts:
        shard = Shard(tensor=shard.tensor, expert_tensor=shard.tensor, pipeline=shard.pipeline)
    elif shard.tensor > max(node_devices, 8):
        return Shard(attention_replicas=shard.tensor, expert_parallel=shard.tensor), True
    else:
        shard = _with_experts(graph, shard)
    for operator in graph.operators:
        if isinstance(operator, Attention | LatentAttention) and operator.heads % shard.tensor:
            if getattr(operator, "rows", Rows.TOKEN) is Rows.PATCH:
                continue
            raise Declined(f"{operator.heads} attention heads are not shared evenly by {shard.tensor} GPUs")
    return shard, False


def _with_experts(graph: ModelGraph, shard: Shard) -> Shard:
    """The shard with its experts on as many GPUs as attention; 1 says nothing."""
    gpus, tensor, parallel = shard.tensor * shard.attention_replicas, shard.expert_tensor, shard.expert_parallel
    if tensor == 1 and gpus % parallel == 0:
        tensor = gpus // parallel
    elif parallel == 1 and gpus % tensor == 0:
        parallel = gpus // tensor
    if tensor * parallel != gpus:
        raise Declined(
            f"experts are on {tensor} x {parallel} GPUs (moe_tp_size x moe_ep_size), "
            f"attention on {shard.tensor} x {shard.attention_replicas} (tp_size x attention_dp_size)"
        )
    fewest = min(op.experts for op in graph.operators if isinstance(op, Experts))
    if parallel > fewest:
        raise Declined(f"{fewest} experts are fewer than the {parallel} GPUs (moe_ep_size) to share them out to")
    return replace(shard, expert_tensor=tensor, expert_parallel=parallel)


def _placement(values: Mapping[str, str], prefix: str) -> Placement:
    def size(name: str) -> int:
        """Where tables have nothing or 0, nothing is shared out."""
        return 1 if not _optional(values, prefix + name) else _devices(values, prefix + name)

    shard = Shard(
        tensor=_devices(values, f"{prefix}tp_size"),
        attention_replicas=size("attention_dp_size"),
        expert_tensor=size("moe_tp_size"),
        expert_parallel=size("moe_ep_size"),
        pipeline=size("pp_size"),
    )
    replicas = _optional(values, f"{prefix}num_workers") or 1.0
    batch = _optional(values, f"{prefix}batch_size") if prefix != "decode_" else _optional(values, "decode_batch_size")
    if batch is None:
        concurrency = _optional(values, "concurrency")
        if concurrency is None:
            raise Declined(f"the row has neither {prefix}batch_size nor concurrency")
        batch = concurrency / (replicas * shard.attention_replicas)
    if not 0 < batch < 1e7:
        raise Declined(f"{prefix}batch_size is {batch:g}: no batch")
    return Placement(shard=shard, replicas=replicas, batch=max(batch, 1.0))


def _run(values: Mapping[str, str], engine: Engine, precision: str, decode: Placement, disaggregated: bool) -> Run:
    """What decides how the row was launched."""
    shard = decode.shard
    return Run(
        model=_text(values, "model_path"),
        device=_text(values, "system"),
        precision=precision,
        version=values.get("backend_version", "").strip(),
        source=values.get("source", ""),
        measured=values.get("measured", ""),
        engine=engine,
        gpus=shard.gpus,
        replicas=shard.attention_replicas,
        expert_parallel=shard.expert_parallel,
        input_tokens=_number(values, "isl", low=1, high=_MAX_TOKENS),
        clients=decode.batch * shard.attention_replicas,
        disaggregated=disaggregated,
    )


def _apart(apart: Apart, clients: float) -> tuple[Placement, Placement]:
    """Where prompts and where tokens are computed."""

    def placed(workers: int, gpus: int) -> Placement:
        if apart.replicated:
            shard = Shard(attention_replicas=gpus, expert_parallel=gpus)
        else:
            shard = Shard(tensor=gpus, expert_parallel=gpus)
        return Placement(shard=shard, replicas=workers, batch=max(clients / (workers * shard.attention_replicas), 1.0))

    return placed(apart.prompt_workers, apart.prompt_gpus), placed(apart.token_workers, apart.token_gpus)


def _text(values: Mapping[str, str], name: str) -> str:
    text = (values.get(name) or "").strip()
    if not text:
        raise Declined(f"the row has no {name}")
    return text


def _optional(values: Mapping[str, str], name: str) -> float | None:
    text = (values.get(name) or "").strip()
    if not text or text.lower() == "nan":
        return None
    try:
        number = float(text)
    except ValueError:
        raise Declined(f"{name} is {text!r}: no number") from None
    if not math.isfinite(number):
        raise Declined(f"{name} is {text}: not finite")
    return number


def _number(values: Mapping[str, str], name: str, low: float, high: float) -> float:
    number = _optional(values, name)
    if number is None:
        raise Declined(f"the row has no {name}")
    if not low <= number <= high:
        raise Declined(f"{name} is {number:g}, outside {low:g} to {high:g}")
    return number


def _devices(values: Mapping[str, str], name: str) -> int:
    number = _number(values, name, low=1, high=_MAX_DEVICES)
    if number % 1:
        raise Declined(f"{name} is {number:g}: no whole number")
    return int(number)


def _format(values: Mapping[str, str], name: str) -> NumberFormat | None:
    text = (values.get(name) or "").strip().lower()
    if not text or text == "nan":
        return None
    if text not in _FORMATS:
        raise Declined(f"{name} is {text!r}: a number format that is not known")
    return _FORMATS[text]


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"\s*v?(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (99, 0)
