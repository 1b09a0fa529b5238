"""What is said of options that an adapter refuses."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tuner.adapter_options import option_faults


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    low: int = 0


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(default=1, description="How large.")
    name: str = ""
    inputs: dict[str, Inner] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _is_short(cls, name: str) -> str:
        if len(name) > 3:
            raise ValueError(f"{name!r} is too long. Write three letters")
        return name


def faults(options: dict[str, object]) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        Options.model_validate(options)
    found = option_faults(Options.model_fields, caught.value.errors(), {"inputs": Inner.model_fields})
    return {fault.where: f"{fault.problem} {fault.remedy}" for fault in found}


def test_every_fault_is_told_with_value_and_remedy() -> None:
    assert faults({"size": "huge", "name": "abcd"}) == {
        "size": "Input should be a valid integer, unable to parse string as an integer (it is 'huge'). How large.",
        "name": "'abcd' is too long. Write three letters.",
    }


def test_unknown_options_bring_their_nearest_neighbours() -> None:
    told = faults({"sise": 1, "inputs": {"ids": {"lo": 1}}})
    assert "'sise' is no option. Did you mean 'size'?" in told["sise"]
    assert "'lo' is no option. Did you mean 'low'?" in told["inputs.ids.lo"]
