"""The device catalogue: shipped as `devices.yaml`, widened or overruled by the user's own file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tuner.errors import Fault, StudyFileError, UsageError, shortened
from tuner.hardware import Hardware, Price
from tuner.step import NumberFormat

SHIPPED: Final = Path(__file__).with_name("devices.yaml")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Price(_Strict):
    usd_per_hour: float = Field(gt=0)
    source: str
    date: str


class _Device(_Strict):
    label: str = ""
    architecture: str = ""
    source: str
    memory: float = Field(gt=0)
    bandwidth: float = Field(gt=0)
    flops: dict[NumberFormat, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    link: float = Field(gt=0)
    node_devices: int = Field(default=8, ge=1)
    network: float = Field(default=25e9, gt=0)
    prices: list[_Price] = []


class _Catalogue(_Strict):
    devices: dict[str, _Device]


def catalogue(own: Path | None = None) -> Mapping[str, Hardware]:
    """Every device type by name; entries of the file `own` replace shipped ones of the same name.

    Raises:
        UsageError: a file cannot be read.
        StudyFileError: entries are wrong; all faults are reported together.
    """
    found = _read(SHIPPED)
    if own is not None:
        found.update(_read(own))
    return found


def _read(path: Path) -> dict[str, Hardware]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"The device catalogue {path} cannot be read: {error.strerror}. Give another --devices."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"The device catalogue {path} is no YAML: {error}. Write it as search_spaces/devices.yaml is."
        ) from error
    if not isinstance(values, dict):
        raise UsageError(f"The device catalogue {path} holds no devices. Write `devices:`, and below it one by name.")
    try:
        parsed = _Catalogue.model_validate(values)
    except ValidationError as error:
        faults = [
            Fault(
                where=".".join(str(part) for part in fault["loc"]),
                problem=f"{fault['msg']} (found {shortened(repr(fault['input']))}).",
                remedy="See search_spaces/devices.yaml for an example.",
            )
            for fault in error.errors()
        ]
        raise StudyFileError(str(path), faults) from error
    return {name: _hardware(name, device) for name, device in parsed.devices.items()}


def _hardware(name: str, device: _Device) -> Hardware:
    return Hardware(
        name=name,
        label=device.label or name,
        memory_bytes=device.memory,
        bandwidth_bytes_per_s=device.bandwidth,
        flops_per_s=device.flops,
        link_bytes_per_s=device.link,
        node_devices=device.node_devices,
        network_bytes_per_s=device.network,
        architecture=device.architecture,
        prices=tuple(Price(usd_per_hour=p.usd_per_hour, source=p.source, date=p.date) for p in device.prices),
    )
