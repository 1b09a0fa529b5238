"""What the `engine` section of a study may say beside `name: vllm`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from search_spaces.environment import is_secret, is_variable
from tuner.adapter_options import option_faults
from tuner.errors import Fault, OptionsError, UnitError
from tuner.units import Dimension, parse_quantity

VERSION: Final = "0.32.0"
"""The version of vLLM whose defaults and rules this package knows."""

OWN_FLAGS: Final = frozenset(
    {
        "--model",
        "--host",
        "--port",
        "--served-model-name",
        "--max-model-len",
        "--load-format",
        "--trust-remote-code",
        "--enforce-eager",
        "--max-num-seqs",
        "--max-num-batched-tokens",
        "--enable-chunked-prefill",
        "--no-enable-chunked-prefill",
        "--enable-prefix-caching",
        "--no-enable-prefix-caching",
        "--block-size",
        "--dtype",
        "--quantization",
        "-q",
        "--kv-cache-dtype",
        "--kv-cache-memory-bytes",
        "--tensor-parallel-size",
        "-tp",
        "--pipeline-parallel-size",
        "-pp",
        "--gpu-memory-utilization",
        "--device-memory-utilization",
        "--scheduling-policy",
        "--config",
    }
)
"""Flags that the engine writes itself, and `--config`, which would set them behind its back."""

_OWN_VARIABLES: Final = frozenset({"VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS"})


class VllmOptions(BaseModel):
    """Options of the vLLM engine."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+([.\w+-]*)$")] = Field(
        default=VERSION, description="Version of vLLM: the tag of the default images."
    )
    image: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Container image. Unset: vllm/vllm-openai on GPUs, serving-tuner/vllm-cpu "
        "(built by runners/images/vllm-cpu/build) on CPUs.",
    )
    max_model_len: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Longest sequence (prompt and answer) in tokens. Unset: what the model was made for."
    )
    load_format: Literal["auto", "safetensors", "pt", "dummy", "gguf", "bitsandbytes", "mistral"] = Field(
        default="auto",
        description="How weights are loaded; dummy makes random ones, which are served as fast as true ones.",
    )
    enforce_eager: bool | None = Field(
        default=None,
        description="Skip compilation and CUDA graphs: a faster start, slower steps. Unset: true on CPUs "
        "(the CPU image has no compiler), false on GPUs.",
    )
    lossy: bool = Field(
        default=False,
        description="Also try settings that change the answers: FP8 weights and an FP8 key-value cache.",
    )
    trust_remote_code: bool = Field(default=False, description="Run Python code that comes with the model.")
    served_model_name: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="Name of the model in the API. Unset: the last part of its path or id."
    )
    extra_args: tuple[str, ...] = Field(default=(), description="Further arguments of `vllm serve`, one per entry.")
    environment: Mapping[str, str] = Field(
        default_factory=dict, description="Further environment variables of the server; no secrets."
    )
    start_deadline: str = Field(default="300 s", description="The server must be ready within this time.")

    @field_validator("extra_args", mode="before")
    @classmethod
    def _list_of_texts(cls, value: object) -> object:
        # YAML has lists, strict validation wants tuples.
        return tuple(value) if isinstance(value, list) else value

    @property
    def start_deadline_s(self) -> float:
        """The deadline in seconds."""
        return parse_quantity(self.start_deadline, Dimension.TIME)


def parse_options(options: Mapping[str, object]) -> VllmOptions:
    """The options, checked.

    Raises:
        OptionsError: all faults, each at its place.
    """
    faults: list[Fault] = []
    parsed: VllmOptions | None = None
    try:
        parsed = VllmOptions.model_validate(dict(options))
    except ValidationError as error:
        faults += option_faults(VllmOptions.model_fields, error.errors())
    faults += _argument_faults(options.get("extra_args"))
    faults += _environment_faults(options.get("environment"))
    deadline = options.get("start_deadline")
    if isinstance(deadline, str):
        try:
            if not parse_quantity(deadline, Dimension.TIME) > 0:
                faults.append(Fault(where="start_deadline", problem=f"{deadline!r} is no time.", remedy="Write 300 s."))
        except UnitError as error:
            faults.append(Fault(where="start_deadline", problem=str(error), remedy=""))
    if faults or parsed is None:
        raise OptionsError("vllm", faults)
    return parsed


def _argument_faults(arguments: object) -> list[Fault]:
    if not isinstance(arguments, list | tuple):
        return []
    faults = []
    for position, argument in enumerate(arguments):
        if not isinstance(argument, str):
            continue  # reported by the schema
        flag = argument.partition("=")[0].replace("_", "-")
        if flag in OWN_FLAGS:
            faults.append(
                Fault(
                    where=f"extra_args.{position}",
                    problem=f"{argument!r} is set by the tuner.",
                    remedy="Fix the parameter under `search`, or use the option of that name under `engine`.",
                )
            )
    return faults


def _environment_faults(environment: object) -> list[Fault]:
    if not isinstance(environment, Mapping):
        return []
    faults = []
    for name in environment:
        where = f"environment.{name}"
        if not isinstance(name, str) or not is_variable(name):
            faults.append(
                Fault(where=where, problem=f"{name!r} is no name of a variable.", remedy="Use letters, digits and _.")
            )
        elif name in _OWN_VARIABLES:
            faults.append(
                Fault(where=where, problem=f"{name} is set by the tuner.", remedy="Fix cpu_threads under `search`.")
            )
        elif is_secret(name):
            faults.append(
                Fault(
                    where=where,
                    problem=f"{name} looks like a secret, and options are stored and exported.",
                    remedy="Download gated models with `hf download` beforehand: the server then needs no token.",
                )
            )
    return faults
