"""How one configuration of vLLM becomes a command line and an environment.

Flags are those of `vllm serve` 0.32.0 (`engine/arg_utils.py`, `entrypoints/`).
"""

from __future__ import annotations

from typing import Final

from search_spaces.cores import cpu_ids
from search_spaces.huggingface import LanguageModel
from search_spaces.vllm_options import VllmOptions
from search_spaces.vllm_rules import GIB, NOT_QUANTIZED
from tuner.device import DeviceKind, DeviceType
from tuner.parameter import Config

_FLAGS: Final = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "scheduling_policy",
    "dtype",
    "kv_cache_dtype",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "gpu_memory_utilization",
)
_SWITCHES: Final = ("enable_chunked_prefill", "enable_prefix_caching")
_UNBOUND: Final = "nobind"  # utils/ompmultiprocessing.py

REFUSALS: Final = (
    r"ValidationError: \d+ validation errors? for \w+Config",  # every setting is checked by a pydantic class
    r"max_num_batched_tokens \(\d+\) (is smaller than max_model_len|must be greater than or equal)",
    r"must be divisible by tensor parallel size",
    r"is not divisible by",
    r"(No valid|Selected|Invalid) attention backend",
    r"[Bb]lock[ _]size .*(not supported|must be|multiple|divisible)",
    r"No common block size",
    r"To serve at least one request with the models?'?s? max seq len",
    r"does not support (float16|bfloat16|fp8)",
    r"[Qq]uantization .*not supported",
    r"NotImplementedError: ",
    r"vllm: error: |error: (argument|unrecognized arguments)",
)
"""Lines with which vLLM gives up on a combination, as opposed to a machine that is short of something."""


def arguments(
    model: LanguageModel, options: VllmOptions, device: DeviceType, config: Config, *, name: str, max_model_len: int
) -> tuple[str, ...]:
    """The flags of `vllm serve`, without model, host and port; every parameter is written out."""
    argv = ["--served-model-name", name, "--max-model-len", str(max_model_len)]
    if options.load_format != "auto":
        argv += ["--load-format", options.load_format]
    if options.trust_remote_code:
        argv.append("--trust-remote-code")
    if enforces_eager(options, device):
        argv.append("--enforce-eager")
    for parameter in _FLAGS:
        if parameter in config:
            argv += ["--" + parameter.replace("_", "-"), str(config[parameter])]
    for parameter in _SWITCHES:
        flag = parameter.replace("_", "-")
        argv.append(f"--{flag}" if config[parameter] is True else f"--no-{flag}")
    quantization = str(config["quantization"])
    if quantization not in (NOT_QUANTIZED, model.quantization):
        argv += ["--quantization", quantization]
    if "kv_cache_gib" in config:
        argv += ["--kv-cache-memory-bytes", str(int(config["kv_cache_gib"]) * GIB // workers(config))]
    return (*argv, *options.extra_args)


def enforces_eager(options: VllmOptions, device: DeviceType) -> bool:
    """Whether compilation is skipped."""
    if options.enforce_eager is not None:
        return options.enforce_eager
    return device.kind is DeviceKind.CPU


def workers(config: Config) -> int:
    """How many worker processes the configuration has."""
    return int(config["tensor_parallel_size"]) * int(config["pipeline_parallel_size"])


def environment(device: DeviceType, config: Config) -> dict[str, str]:
    """Variables that decide how the configuration runs."""
    variables = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    if device.kind is DeviceKind.GPU:
        return variables
    variables["VLLM_HOST_IP"] = "127.0.0.1"
    threads = config.get("cpu_threads")
    if threads is not None:
        binding = _binding(device, workers(config), int(threads))
        variables["VLLM_CPU_OMP_THREADS_BIND"] = binding
        if binding == _UNBOUND:
            # Only then do workers take their number of threads from here.
            variables["OMP_NUM_THREADS"] = str(threads)
    return variables


def _binding(device: DeviceType, worker_count: int, threads: int) -> str:
    """Cores of each worker's threads (`0,1|2,3`), where the device has cores of its own."""
    ids = [] if device.cpuset is None else cpu_ids(device.cpuset)
    if len(ids) < worker_count * threads:
        return _UNBOUND
    slices = (ids[worker * threads : (worker + 1) * threads] for worker in range(worker_count))
    return "|".join(",".join(map(str, cores)) for cores in slices)
