"""The parameters of a vLLM server and the rules that tie them.

Defaults and rules are those of vLLM 0.32.0; the file that states each is named beside it, relative to `vllm/`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from search_spaces.huggingface import LanguageModel
from tuner.device import DeviceKind, DeviceType
from tuner.errors import UsageError
from tuner.parameter import DEVICE, Condition, Parameter, Scale, Value, powers_of_two
from tuner.space import Rule, Space
from tuner.workload import ClosedLoop, TokenShapes, TraceReplay, Workload

NOT_QUANTIZED: Final = "none"
GIB: Final = 2**30

_UNKNOWN_CONTEXT: Final = 2048  # config/model.py, _get_and_verify_max_len
_CPU_HEAD_SIZES: Final = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # v1/attention/backends/cpu_attn.py
_CPU_BLOCK_SIZES: Final = (32, 64, 128, 256)  # multiples of 32, the same file
_GPU_BLOCK_SIZES: Final = (16, 32, 64, 128)  # multiples of 16, v1/attention/backends/flash_attn.py
_CPU_BLOCK_SIZE: Final = 128  # platforms/cpu.py
_GPU_BLOCK_SIZE: Final = 16  # config/cache.py
_MEMORY_UTILIZATION: Final = 0.92  # config/cache.py
_UNSTABLE_IN_FLOAT16: Final = ("gemma2", "gemma3", "gemma3_text", "glm4")  # config/model.py
_LONGEST_STEP: Final = 131_072  # no step of more tokens is worth trying
_PROCESS_BYTES: Final = 3 * GIB  # three processes with torch in them; 2.7 GiB measured with a model of 40 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingLimits:
    """What model, options and traffic together allow.

    Attributes:
        max_model_len: the longest sequence that the server accepts, tokens.
        longest_request: prompt and answer of the longest request of the workload, tokens.
        longest_prompt: its prompt, tokens.
        clients: how many requests can be in flight; `None` in an open loop.
    """

    max_model_len: int
    longest_request: int
    longest_prompt: int
    clients: int | None

    @classmethod
    def of(cls, model: LanguageModel, max_model_len: int | None, workload: Workload) -> ServingLimits:
        """The limits; `max_model_len` is the user's.

        Raises:
            UsageError: the workload asks for no tokens, or for more than the server can accept.
        """
        context = model.context_tokens
        if max_model_len is not None and context is not None and max_model_len > context:
            raise UsageError(
                f"max_model_len is {max_model_len}, but the model was made for {context} tokens. "
                f"Write {context} or less under `engine`."
            )
        length = max_model_len or context or _UNKNOWN_CONTEXT
        shapes = workload.requests
        if not isinstance(shapes, TokenShapes):
            raise UsageError(
                "vLLM serves language models, and the workload's requests carry no tokens. "
                "Write input_tokens and output_tokens under workload.requests."
            )
        prompt, answer = _longest(workload, shapes)
        if prompt + answer > length:
            raise UsageError(
                f"The workload's longest request has {prompt} input and {answer} output tokens, {prompt + answer} "
                f"together, but the server accepts {length}. Shorten the requests"
                + (f", or raise max_model_len (up to {context})." if context and context > length else ".")
            )
        clients = workload.arrival.clients if isinstance(workload.arrival, ClosedLoop) else None
        return cls(max_model_len=length, longest_request=prompt + answer, longest_prompt=prompt, clients=clients)


def _longest(workload: Workload, shapes: TokenShapes) -> tuple[int, int]:
    prompts = [max(shapes.input_tokens.high, shapes.shared_prefix_tokens)]
    answers = [shapes.output_tokens.high]
    if isinstance(workload.arrival, TraceReplay):
        # A trace's own lengths go before the drawn ones.
        rows = workload.arrival.requests
        prompts = [row.input_tokens or prompts[0] for row in rows]
        answers = [row.output_tokens or answers[0] for row in rows]
        return max(zip(prompts, answers, strict=True), key=sum)
    return prompts[0], answers[0]


def build_space(model: LanguageModel, limits: ServingLimits, devices: tuple[DeviceType, ...], *, lossy: bool) -> Space:
    """Parameters with vLLM's defaults on the first device type, and the rules."""
    cpus = tuple(device for device in devices if device.kind is DeviceKind.CPU)
    gpus = tuple(device for device in devices if device.kind is DeviceKind.GPU)
    parameters = [
        Parameter(
            name=DEVICE,
            values=tuple(device.name for device in devices),
            default=devices[0].name,
            says="device type that serves",
        ),
        *_batching(limits, devices),
        *_cache(model, devices),
        *_numbers(model, devices, lossy=lossy),
        *_parallelism(devices),
    ]
    if gpus:
        parameters.append(
            Parameter(
                name="gpu_memory_utilization",
                values=(0.80, 0.85, 0.90, 0.92, 0.95),
                default=_MEMORY_UTILIZATION,
                scale=Scale.LINEAR,
                active_when=(_on(gpus),),
                says="share of GPU memory that vLLM may take",
            )
        )
    counted = tuple(device for device in cpus if cpu_count(device) is not None)
    if counted:
        parameters.append(_cpu_threads(counted))
    if cpus:
        size = _kv_cache_gib(model, limits, cpus)
        parameters.append(
            Parameter(
                name="kv_cache_gib",
                values=(size,),
                default=size,
                scale=Scale.LOG,
                active_when=(_on(cpus),),
                says="memory of the key-value cache; enough for every request that can be in flight",
            )
        )
    return Space(parameters=tuple(parameters), rules=_rules(model, limits, devices, {p.name for p in parameters}))


def cpu_count(device: DeviceType) -> int | None:
    """Whole cores that a device type has; `None` where it is not limited."""
    counts = [] if device.cpus is None else [max(1, math.floor(device.cpus))]
    if device.cpuset is not None:
        counts.append(len(cpu_ids(device.cpuset)))
    return min(counts, default=None)


def cpu_ids(cpuset: str) -> tuple[int, ...]:
    """The cores that `0-1,4` names."""
    ids: list[int] = []
    for part in cpuset.split(","):
        low, _, high = part.strip().partition("-")
        if not low.isdigit() or (high and not high.isdigit()):
            raise UsageError(f"The cpuset {cpuset!r} names no cores. Write for example 0-1,4.")
        ids.extend(range(int(low), int(high or low) + 1))
    return tuple(dict.fromkeys(ids))


def _on(devices: tuple[DeviceType, ...]) -> Condition:
    return Condition(parameter=DEVICE, values=tuple(device.name for device in devices))


def _batch_defaults(device: DeviceType) -> tuple[int, int]:
    """Default max_num_seqs and max_num_batched_tokens: engine/arg_utils.py, get_batch_defaults."""
    if device.kind is DeviceKind.CPU:
        return 128, 2048
    memory = device.gpu_memory_bytes or 0
    if memory >= 160 * GIB:
        return 1024, 16384
    if memory >= 70 * GIB and "a100" not in (device.gpu_model or "").lower():
        return 1024, 8192
    return 256, 2048


def _batching(limits: ServingLimits, devices: tuple[DeviceType, ...]) -> list[Parameter]:
    seqs, tokens = _batch_defaults(devices[0])
    # engine/arg_utils.py, _set_default_max_num_seqs_and_batched_tokens_args: neither exceeds what the other fills.
    tokens = min(tokens, seqs * limits.max_model_len)
    seqs = min(seqs, tokens)
    most_seqs = max(_batch_defaults(device)[0] for device in devices)
    most_tokens = max(2 * max(_batch_defaults(device)[1] for device in devices), limits.max_model_len)
    in_flight = None if limits.clients is None else limits.clients * limits.longest_prompt
    return [
        Parameter(
            name="max_num_seqs",
            values=_up_to(powers_of_two(1, most_seqs), seqs, limits.clients),
            default=seqs,
            scale=Scale.LOG,
            says="how many sequences are computed together",
        ),
        Parameter(
            name="max_num_batched_tokens",
            values=_up_to(powers_of_two(32, _next_power_of_two(min(most_tokens, _LONGEST_STEP))), tokens, in_flight),
            default=tokens,
            scale=Scale.LOG,
            says="token budget of one step: more for throughput, fewer so that prompts delay answers less",
        ),
        Parameter(
            name="enable_chunked_prefill",
            values=(True, False),
            default=True,
            says="split long prompts over several steps",
        ),
        Parameter(
            name="enable_prefix_caching",
            values=(True, False),
            default=True,
            says="keep the cache of prompts that begin alike",
        ),
        Parameter(
            # Requests carry no priorities, so the policies cannot be told apart: nothing to search by default.
            name="scheduling_policy",
            values=("fcfs",),
            default="fcfs",
            says="order of waiting requests: fcfs or priority",
        ),
    ]


def _up_to(values: tuple[int, ...], default: int, enough: int | None) -> tuple[int, ...]:
    """`values` with `default`, less those that differ from another one only beyond what is ever `enough`."""
    kept = {default, *values}
    if enough is not None:
        sufficient = default if default >= enough else min((v for v in kept if v >= enough), default=max(kept))
        kept = {default, *(value for value in kept if value < enough), sufficient}
    return tuple(sorted(kept))


def _next_power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()


def _cache(model: LanguageModel, devices: tuple[DeviceType, ...]) -> list[Parameter]:
    if not model.uniform_attention:
        return []  # the attention backend dictates the block size
    sizes = {size for device in devices for size in _block_sizes(device)}
    return [
        Parameter(
            name="block_size",
            values=tuple(sorted(sizes)),
            default=_CPU_BLOCK_SIZE if devices[0].kind is DeviceKind.CPU else _GPU_BLOCK_SIZE,
            scale=Scale.LOG,
            says="tokens in one block of the key-value cache",
        )
    ]


def _block_sizes(device: DeviceType) -> tuple[int, ...]:
    return _CPU_BLOCK_SIZES if device.kind is DeviceKind.CPU else _GPU_BLOCK_SIZES


def _numbers(model: LanguageModel, devices: tuple[DeviceType, ...], *, lossy: bool) -> list[Parameter]:
    dtypes = ["bfloat16", "float16"]
    if any(device.kind is DeviceKind.CPU for device in devices):
        dtypes.append("float32")
    if model.model_type in _UNSTABLE_IN_FLOAT16:
        dtypes.remove("float16")
    # config/model.py, _resolve_auto_dtype: as stored, but float32 is halved.
    default = model.dtype if model.dtype in dtypes and model.dtype != "float32" else "bfloat16"
    if model.quantization is not None:
        dtypes = [default]
    quantization = model.quantization or NOT_QUANTIZED
    quantizations = [quantization]
    kv_dtypes = ["auto"]
    if lossy:
        quantizations += ["fp8"] if model.quantization is None else []
        kv_dtypes.append("fp8")
    return [
        Parameter(name="dtype", values=tuple(dtypes), default=default, says="type of weights and activations"),
        Parameter(
            name="quantization",
            values=tuple(quantizations),
            default=quantization,
            says="how weights are quantised; the checkpoint's own way, or fp8 made while loading",
        ),
        Parameter(name="kv_cache_dtype", values=tuple(kv_dtypes), default="auto", says="type of the key-value cache"),
    ]


def _parallelism(devices: tuple[DeviceType, ...]) -> list[Parameter]:
    gpus = max((device.gpus for device in devices), default=0)
    workers = max([gpus, *(cpu_count(device) or 1 for device in devices if device.kind is DeviceKind.CPU)])
    return [
        Parameter(
            name="tensor_parallel_size",
            values=powers_of_two(1, min(workers, max(gpus, 8))),
            default=1,
            scale=Scale.LOG,
            says="workers among which every layer is split",
        ),
        Parameter(
            name="pipeline_parallel_size",
            values=powers_of_two(1, max(gpus, 1)),
            default=1,
            scale=Scale.LOG,
            says="workers among which the layers are dealt out",
        ),
    ]


def _cpu_threads(devices: tuple[DeviceType, ...]) -> Parameter:
    most = max(cpu_count(device) or 1 for device in devices)
    first = cpu_count(devices[0]) or 1
    # utils/ompmultiprocessing.py reserves one core per worker for the processes beside it, where there are more.
    default = max(1, first - 1)
    values = range(1, most + 1) if most <= 8 else sorted({*powers_of_two(1, most), default, most - 1, most})
    return Parameter(
        name="cpu_threads",
        values=tuple(values),
        default=default,
        scale=Scale.LINEAR,
        active_when=(_on(devices),),
        says="threads of each worker; vLLM itself leaves one core to the processes beside it",
    )


def _kv_cache_gib(model: LanguageModel, limits: ServingLimits, devices: tuple[DeviceType, ...]) -> int:
    """Enough for all that can be in flight, as far as memory goes.

    vLLM's own default is 92 % of the memory, which does not start where anything else runs on the machine.
    """
    if model.kv_values_per_token is None:
        enough = 4
    else:
        in_flight = limits.clients or max(_batch_defaults(device)[0] for device in devices)
        # In float32, and twice, so that cached prefixes need not give way; or else one longest sequence.
        values = max(in_flight * limits.longest_request * 4, limits.max_model_len) * model.kv_values_per_token
        enough = math.ceil(2 * values / GIB)
    room = [
        (device.memory_bytes - model.weights_bytes - _PROCESS_BYTES) // GIB
        for device in devices
        if device.memory_bytes is not None
    ]
    return max(1, min([_next_power_of_two(max(1, enough)), *room]))


def _rules(
    model: LanguageModel, limits: ServingLimits, devices: tuple[DeviceType, ...], names: set[str]
) -> tuple[Rule, ...]:
    by_name = {device.name: device for device in devices}
    length = limits.max_model_len

    def divides(tensor_parallel_size: int) -> bool:
        kv_fits = model.kv_heads % tensor_parallel_size == 0 or tensor_parallel_size % model.kv_heads == 0
        return model.heads % tensor_parallel_size == 0 and kv_fits

    def places(device: str, tensor_parallel_size: int, pipeline_parallel_size: int) -> bool:
        target = by_name[device]
        workers = tensor_parallel_size * pipeline_parallel_size
        return workers <= (target.gpus if target.kind is DeviceKind.GPU else cpu_count(target) or workers)

    def threads_fit(device: str, tensor_parallel_size: int, cpu_threads: int | None) -> bool:
        cores = cpu_count(by_name[device])
        return cpu_threads is None or cores is None or tensor_parallel_size * cpu_threads <= cores

    def on_gpu(device: str) -> bool:
        return by_name[device].kind is DeviceKind.GPU

    rules = [
        Rule(
            over=("max_num_batched_tokens", "max_num_seqs"),
            holds=lambda max_num_batched_tokens, max_num_seqs: max_num_batched_tokens >= max_num_seqs,
            says="max_num_batched_tokens must be at least max_num_seqs: every sequence takes one token of the budget",
        ),
        Rule(
            over=("max_num_batched_tokens", "enable_chunked_prefill"),
            holds=lambda max_num_batched_tokens, enable_chunked_prefill: (
                enable_chunked_prefill or max_num_batched_tokens >= length
            ),
            says=f"without chunked prefill max_num_batched_tokens must be at least the {length} tokens of the longest "
            "sequence",
        ),
        Rule(
            over=("tensor_parallel_size",),
            holds=divides,
            says=f"tensor_parallel_size must divide {model.heads} attention heads, and share out {model.kv_heads} "
            "key-value heads evenly",
        ),
        Rule(
            over=(DEVICE, "tensor_parallel_size", "pipeline_parallel_size"),
            holds=places,
            says="tensor_parallel_size x pipeline_parallel_size needs as many GPUs (or CPU cores)",
        ),
        Rule(
            over=("pipeline_parallel_size",),
            holds=lambda pipeline_parallel_size: pipeline_parallel_size <= model.layers,
            says=f"pipeline_parallel_size must not exceed the {model.layers} layers",
        ),
        Rule(
            over=(DEVICE, "pipeline_parallel_size"),
            holds=lambda device, pipeline_parallel_size: on_gpu(device) or pipeline_parallel_size == 1,
            says="on CPUs the layers are not dealt out: one machine holds them all",
        ),
        Rule(
            over=(DEVICE, "dtype"),
            holds=lambda device, dtype: not on_gpu(device) or dtype != "float32",
            says="float32 is for CPUs; GPUs serve in half precision",
        ),
        Rule(
            over=(DEVICE, "quantization"),
            holds=lambda device, quantization: on_gpu(device) or quantization in (NOT_QUANTIZED, model.quantization),
            says="weights are quantised while loading on GPUs only",
        ),
        Rule(
            over=(DEVICE,),
            holds=lambda device: on_gpu(device) or model.head_size in _CPU_HEAD_SIZES or not model.uniform_attention,
            says=f"vLLM's CPU attention has no kernel for heads of {model.head_size} values",
        ),
    ]
    if model.inner_width is not None:
        width = model.inner_width
        rules.append(
            Rule(
                over=("tensor_parallel_size",),
                holds=lambda tensor_parallel_size: width % tensor_parallel_size == 0,
                says=f"tensor_parallel_size must divide the feed-forward width of {width}",
            )
        )
    if "block_size" in names:
        rules.append(
            Rule(
                over=(DEVICE, "block_size"),
                holds=lambda device, block_size: block_size % (16 if on_gpu(device) else 32) == 0,
                says="block_size must be a multiple of 16 on GPUs and of 32 on CPUs",
            )
        )
    if "cpu_threads" in names:
        rules.append(
            Rule(
                over=(DEVICE, "tensor_parallel_size", "cpu_threads"),
                holds=threads_fit,
                says="tensor_parallel_size x cpu_threads must not exceed the device's cores",
            )
        )
    if "kv_cache_gib" in names:
        rules.append(_memory_rule(model, limits, by_name))
    return tuple(rules)


def _memory_rule(model: LanguageModel, limits: ServingLimits, devices: dict[str, DeviceType]) -> Rule:
    def fits(device: str, dtype: str, kv_cache_gib: Value | None) -> bool:
        if kv_cache_gib is None:
            return True
        memory = devices[device].memory_bytes
        cache_bytes = int(kv_cache_gib) * GIB
        value_bytes = 4 if dtype == "float32" else 2
        longest = limits.max_model_len * (model.kv_values_per_token or 0) * value_bytes
        # An FP8 cache would hold twice as much: only what cannot fit in any type is refused.
        return longest <= 2 * cache_bytes and (memory is None or model.weights_bytes_as(dtype) + cache_bytes <= memory)

    return Rule(
        over=(DEVICE, "dtype", "kv_cache_gib"),
        holds=fits,
        says="the key-value cache must hold one longest sequence, and fit into the device's memory beside the weights",
    )
