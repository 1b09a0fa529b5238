"""Settings by the engine's own names, read into what is simulated: engines of one kind, or prefill and decode workers.

Names are vLLM's. A whole of several engines has none there: `prefill_workers` and `decode_workers` are engines that
compute prompts and tokens apart, and what may differ between them is set with the same prefixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from tuner.errors import ModelError, UnknownNameError, UsageError, did_you_mean
from tuner.hardware import Hardware
from tuner.model_graph import ModelGraph
from tuner.operators import Experts
from tuner.performance.memory import UTILIZATION, memory_need
from tuner.performance.simulation.continuous import Scheduler
from tuner.performance.simulation.deployment import Deployment, Engines, PrefillDecode
from tuner.step import NumberFormat, Shard

_WHOLE: Final = {
    "block_size": (1, 2**16),
    "data_parallel_size": (1, 2**10),
    "decode_workers": (1, 2**10),
    "max_model_len": (1, 2**31),
    "max_num_batched_tokens": (1, 2**31),
    "max_num_seqs": (1, 2**20),
    "num_gpu_blocks_override": (1, 2**40),
    "prefill_workers": (1, 2**10),
    "shared_prefix_tokens": (0, 2**31),
    "tensor_parallel_size": (1, 2**10),
}
"""Least and largest of the settings that are whole numbers."""
_OF_WORKERS: Final = (
    "enable_expert_parallel",
    "gpu_memory_utilization",
    "max_num_batched_tokens",
    "max_num_seqs",
    "num_gpu_blocks_override",
    "tensor_parallel_size",
)
"""What prefill and decode workers may be set to apart."""
_PREFILL, _DECODE = "prefill_", "decode_"
SETTINGS: Final = (
    *_WHOLE,
    "enable_expert_parallel",
    "enable_prefix_caching",
    "gpu_memory_utilization",
    "kv_cache_dtype",
    *(prefix + name for prefix in (_PREFILL, _DECODE) for name in _OF_WORKERS),
)
"""Settings that the simulator knows, under vLLM's names (and `shared_prefix_tokens`, which is the traffic's)."""
_CACHES: Final = {
    "auto": NumberFormat.BF16,
    "bfloat16": NumberFormat.BF16,
    "float16": NumberFormat.BF16,
    "fp8": NumberFormat.FP8,
    "fp8_e4m3": NumberFormat.FP8,
    "fp8_e5m2": NumberFormat.FP8,
}


def read_settings(values: Mapping[str, str], graph: ModelGraph, hardware: Hardware) -> Deployment:
    """Settings as text.

    Raises:
        UnknownNameError: a setting that the simulator does not know.
        UsageError: a value that the setting cannot have, settings that contradict each other, or a model that does not
            fit.
        ModelError: a shard that does not divide the model.
    """
    for name in values:
        if name not in SETTINGS:
            raise UnknownNameError("setting", name, SETTINGS)
    ranks = _whole(values, "data_parallel_size", 1)
    of_workers = [name for name in values if name.startswith((_PREFILL, _DECODE))]
    if not of_workers:
        return _engines(values, graph, hardware, ranks)
    if missing := [name for name in (f"{_PREFILL}workers", f"{_DECODE}workers") if name not in values]:
        raise UsageError(
            f"{of_workers[0]} is {values[of_workers[0]]!r}, but there is no {' and no '.join(missing)}. "
            f"Set both, or leave {', '.join(of_workers)} out."
        )
    if ranks > 1:
        raise UsageError(
            f"data_parallel_size is {values['data_parallel_size']!r} beside prefill_workers and decode_workers: "
            "workers of several ranks are not simulated. Leave it out, and set more workers instead."
        )
    prefill, decode = (_workers(values, prefix, graph, hardware) for prefix in (_PREFILL, _DECODE))
    return PrefillDecode(prefill=prefill, decode=decode)


def _workers(values: Mapping[str, str], prefix: str, graph: ModelGraph, hardware: Hardware) -> Engines:
    """Workers with `prefix`: set as both are, where they have no settings of their own."""
    count = _whole(values, f"{prefix}workers", 1)
    own = {name: values[prefix + name] for name in _OF_WORKERS if prefix + name in values}
    try:
        return replace(_engines({**values, **own}, graph, hardware, 1), replicas=count)
    except (UsageError, ModelError) as error:
        raise type(error)(f"{prefix}workers: {error}") from error


def _engines(values: Mapping[str, str], graph: ModelGraph, hardware: Hardware, ranks: int) -> Engines:
    """One engine of `ranks` in step where the model has experts, else as many engines."""
    shard = _shard(values, graph, hardware, ranks)
    kept = values.get("kv_cache_dtype", "auto")
    if kept not in _CACHES:
        raise UsageError(f"kv_cache_dtype is {kept!r}. {did_you_mean(kept, _CACHES)}")
    cache = _CACHES[kept]
    block = _whole(values, "block_size", 16)
    tokens = _whole(values, "max_num_batched_tokens", 8192)
    need = memory_need(
        graph, shard, hardware.memory_bytes, float(block), float(tokens), cache,
        _share(values, "gpu_memory_utilization", UTILIZATION),
    )  # fmt: skip
    if need.refusal is not None:
        raise UsageError(f"{graph.name} does not fit {hardware.label}: {need.refusal}. Raise tensor_parallel_size.")
    # a block's share of a long sequence: sliding windows keep less than their length in tokens
    length = _whole(values, "max_model_len", graph.max_context or 32768)
    per_block = graph.cache_bytes(float(length), shard, cache) / max(length / block, 1.0)
    limited = "max_model_len" in values or graph.max_context is not None
    blocks = _whole(values, "num_gpu_blocks_override", max(int(need.cache_bytes / max(per_block, 1.0)), 1))
    caching = _switch(values, "enable_prefix_caching", True)
    return Engines(
        shard=shard,
        replicas=ranks // shard.attention_replicas,
        cache=cache,
        scheduler=Scheduler(
            max_num_seqs=_whole(values, "max_num_seqs", 256),
            max_num_batched_tokens=tokens,
            blocks=blocks,
            block_size=block,
            max_model_len=length if limited else None,
            prefix_caching=caching,
            shared_prefix_tokens=_whole(values, "shared_prefix_tokens", 0) if caching else 0,
        ),
    )


def _shard(values: Mapping[str, str], graph: ModelGraph, hardware: Hardware, ranks: int) -> Shard:
    """How each engine is cut.

    Experts are spread over the GPUs of all ranks, whole ones with `enable_expert_parallel`, else a part of every one
    (vLLM, "Data Parallel Deployment"), so that ranks step together; a dense model's have nothing in common.
    """
    tensor, spread = _whole(values, "tensor_parallel_size", 1), _switch(values, "enable_expert_parallel", False)
    if tensor > hardware.node_devices and hardware.network_bytes_per_s < hardware.link_bytes_per_s:
        raise UsageError(
            f"tensor_parallel_size is {tensor}, but a node of {hardware.label} has {hardware.node_devices}: every "
            f"layer would wait for the network. Lower it to {hardware.node_devices} at most, and raise "
            "data_parallel_size."
        )
    if not graph.has_experts:
        if spread:
            raise UsageError(f"enable_expert_parallel is true, but {graph.name} has no experts. Leave it out.")
        shard = Shard.tensor_parallel(tensor)
        graph.check(shard)
        return shard
    gpus = tensor * ranks
    shard = Shard(
        tensor=tensor,
        attention_replicas=ranks,
        expert_tensor=1 if spread else gpus,
        expert_parallel=gpus if spread else 1,
    )
    for operator in graph.operators:
        if not isinstance(operator, Experts):
            continue
        shared = operator.experts if spread else operator.inner
        if shared % gpus:
            raise UsageError(
                f"{graph.name}: {f'{shared} experts' if spread else f'experts of width {shared}'} are not shared "
                f"evenly by the {gpus} GPUs of tensor_parallel_size x data_parallel_size. Choose sizes whose product "
                f"divides {shared}{'' if spread else ', or set enable_expert_parallel=true'}."
            )
    graph.check(shard)
    return shard


def _whole(values: Mapping[str, str], name: str, default: int) -> int:
    low, high = _WHOLE[name]
    number = _real(values, name, float(default))
    if not low <= number <= high or number % 1:
        raise UsageError(f"{name} is {values[name]!r}. Write a whole number from {low} to {high}.")
    return int(number)


def _share(values: Mapping[str, str], name: str, default: float) -> float:
    number = _real(values, name, default)
    if not 0 < number <= 1:
        raise UsageError(f"{name} is {values[name]!r}. Write a share above 0, at most 1.")
    return number


def _switch(values: Mapping[str, str], name: str, default: bool) -> bool:
    text = values.get(name, str(default)).lower()
    if text not in ("true", "false"):
        raise UsageError(f"{name} is {values[name]!r}. Write true or false.")
    return text == "true"


def _real(values: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(values.get(name, default))
    except ValueError:
        raise UsageError(f"{name} is {values[name]!r}. Write a number.") from None
