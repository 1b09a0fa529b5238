"""What the `engine` section of a study may say beside `name: triton`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from search_spaces.environment import is_secret, is_variable
from tuner.adapter_options import option_faults
from tuner.errors import OptionsError, UsageError
from tuner.units import Dimension, parse_quantity

OWN_FLAGS: Final = frozenset(
    {
        "--allow-grpc",
        "--allow-http",
        "--backend-directory",
        "--disable-auto-complete-config",
        "--http-address",
        "--http-port",
        "--load-model",
        "--model-control-mode",
        "--model-repository",
        "--model-store",
        "--strict-model-config",
    }
)
"""Flags that the engine writes itself, and those that would change which model is served, or how."""


def _flag(argument: str) -> str:
    name = argument.partition("=")[0]
    if not argument.startswith("--"):
        raise ValueError(f"{argument!r} is no flag. Write one per entry, as --flag=value")
    if name in OWN_FLAGS:
        raise ValueError(f"{name} is set by the tuner. Leave it out")
    return argument


def _variable(name: str) -> str:
    if not is_variable(name):
        raise ValueError(f"{name!r} is no name of a variable. Use letters, digits and _")
    if is_secret(name):
        raise ValueError(f"{name} looks like a secret, and options are stored and exported. Pass it another way")
    return name


def _quantity(value: object, dimension: Dimension) -> float:
    if not isinstance(value, str):
        raise ValueError(
            f"{value!r} has no unit. Write for example {'120 s' if dimension is Dimension.TIME else '64 MiB'}"
        )
    try:
        quantity = parse_quantity(value, dimension)
    except UsageError as error:
        raise ValueError(str(error).rstrip(".")) from error
    if quantity <= 0:
        raise ValueError(f"{value!r} is not above 0. Write more")
    return quantity


def _seconds(value: object) -> float:
    return _quantity(value, Dimension.TIME)


def _bytes(value: object) -> int:
    return round(_quantity(value, Dimension.BYTES))


def _as_tuple(value: object) -> object:
    # YAML has lists, strict validation wants tuples.
    return tuple(value) if isinstance(value, list) else value


class ValueRange(BaseModel):
    """Values of one input: whole numbers from low to high - 1, others from low up to high."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(0.0, description="Smallest value.", allow_inf_nan=False)
    high: float = Field(description="End of the values, itself left out.", allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> ValueRange:
        if not self.low < self.high:
            raise ValueError(f"Values from {self.low:g} to {self.high:g} are no range. Write low < high")
        return self


class TritonOptions(BaseModel):
    """Options of the Triton engine."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    backend: Literal["auto", "onnxruntime", "python"] = Field(
        "auto",
        description="Backend that runs the model. python runs onnxruntime from a model.py that is written into the "
        "model repository; it is what serving-tuner/triton and the packages of PyPI have. auto: onnxruntime where "
        "the server has it.",
    )
    image: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Container image. Unset: serving-tuner/triton:2.51 (built by `make image-triton`) on CPUs, "
        "nvcr.io/nvidia/tritonserver on GPUs or where backend is onnxruntime.",
    )
    version: Annotated[str, Field(pattern=r"^\d\d\.\d\d$")] = Field(
        "24.10", description="Release of NVIDIA's image, where that is used; 24.10 is Triton 2.51."
    )
    server: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Folder of a Triton installation (with bin/tritonserver) for the process runner. Unset: "
        "tritonserver on the path, /opt/tritonserver, or the package nvidia-pytriton.",
        json_schema_extra={"format": "path"},
    )
    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)] | None = Field(
        None, description="Name of the model on the server. Unset: that of its file or folder."
    )
    inputs: Mapping[str, ValueRange] = Field(
        default_factory=dict,
        description="By name of an input, the values that requests carry. Unset: token ids of the whole "
        "vocabulary, ones for masks, 0 to 255 for bytes, 0 to 1 otherwise.",
    )
    extra_args: Annotated[tuple[Annotated[str, AfterValidator(_flag)], ...], BeforeValidator(_as_tuple)] = Field(
        (), description="Further flags of tritonserver, one per entry, as --flag=value."
    )
    environment: Mapping[Annotated[str, AfterValidator(_variable)], str] = Field(
        default_factory=dict, description="Further environment variables of the server; no secrets."
    )
    shm_size: Annotated[int, BeforeValidator(_bytes), WithJsonSchema({"type": "string", "examples": ["256 MiB"]})] = (
        Field(
            256 * 2**20,
            description="Limit of /dev/shm in a container, through which the python backend moves tensors (256 MiB).",
        )
    )
    start_deadline: Annotated[
        float, BeforeValidator(_seconds), WithJsonSchema({"type": "string", "examples": ["120 s"]})
    ] = Field(120.0, description="The server must be ready within this time (120 s).")

    @property
    def server_folder(self) -> Path | None:
        """The installation that the user names."""
        return None if self.server is None else Path(self.server).expanduser().absolute()


def parse_options(options: Mapping[str, object]) -> TritonOptions:
    """The options, checked.

    Raises:
        OptionsError: all faults, each at its place.
    """
    try:
        return TritonOptions.model_validate(dict(options))
    except ValidationError as error:
        faults = option_faults(TritonOptions.model_fields, error.errors(), {"inputs": ValueRange.model_fields})
        raise OptionsError("triton", faults) from error
