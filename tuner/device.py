"""Device types: what a configuration can be placed on, and what an hour of it costs."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from tuner.errors import UsageError


class DeviceKind(enum.Enum):
    """What does the computing."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceType:
    """A kind of machine share that can be had at a price.

    Attributes:
        name: what the study calls it.
        kind: CPU allotment or GPUs.
        price_per_hour: USD for one hour of the whole device type (all its GPUs).
        cpus: CPU share in cores, may be fractional; `None` leaves it unlimited.
        cpuset: cores to pin to, as Linux writes them (`0-1,4`); `None` leaves it to the system.
        memory_bytes: host memory limit; `None` leaves it unlimited.
        gpus: how many GPUs of the type one server may use; 0 for CPU types.
        gpu_ids: the ids or UUIDs of this machine's GPUs to use; empty means any `gpus` of them.
        gpu_model: what the GPU is called in the device catalogue, where it is in it.
        gpu_memory_bytes: memory of one GPU, where known.
    """

    name: str
    kind: DeviceKind = DeviceKind.CPU
    price_per_hour: float
    cpus: float | None = None
    cpuset: str | None = None
    memory_bytes: int | None = None
    gpus: int = 0
    gpu_ids: tuple[str, ...] = ()
    gpu_model: str | None = None
    gpu_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise UsageError("A device type has no name.")
        if not math.isfinite(self.price_per_hour) or self.price_per_hour < 0:
            raise UsageError(f"Device {self.name!r} costs {self.price_per_hour} USD/h. Write a price of 0 or more.")
        if self.cpus is not None and not self.cpus > 0:
            raise UsageError(f"Device {self.name!r} has {self.cpus} cpus. Write more than 0.")
        if self.kind is DeviceKind.GPU and self.gpus < 1:
            raise UsageError(f"Device {self.name!r} is a GPU type with {self.gpus} GPUs. Write gpus: 1 or more.")
        if self.kind is DeviceKind.CPU and self.gpus:
            raise UsageError(f"Device {self.name!r} is a CPU type with {self.gpus} GPUs. Write kind: gpu.")
        if self.gpu_ids and len(self.gpu_ids) < self.gpus:
            raise UsageError(f"Device {self.name!r} names {len(self.gpu_ids)} gpu_ids for {self.gpus} GPUs.")

    @property
    def price_per_second(self) -> float:
        """USD for one second."""
        return self.price_per_hour / 3600.0
