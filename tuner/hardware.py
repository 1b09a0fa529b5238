"""What a GPU (or a CPU share) can do at best: the numbers a roofline is drawn from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tuner.errors import UsageError
from tuner.step import NumberFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What an hour of one device costs somewhere.

    Attributes:
        usd_per_hour: on demand, one device.
        source: provider and instance it was read from.
        date: ISO date on which it was read.
    """

    usd_per_hour: float
    source: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A type of accelerator.

    Attributes:
        name: in the catalogue (`h100_sxm`).
        label: for people.
        memory_bytes: of one device.
        bandwidth_bytes_per_s: of its memory.
        flops_per_s: dense peak by number format; what is missing is computed in the next wider one.
        link_bytes_per_s: one way, between devices of a node.
        node_devices: devices that share that link.
        network_bytes_per_s: one way, per device, between nodes.
        architecture: generation, for choosing the nearest profiled device.
        prices: known prices.
    """

    name: str
    label: str
    memory_bytes: float
    bandwidth_bytes_per_s: float
    flops_per_s: Mapping[NumberFormat, float]
    link_bytes_per_s: float
    node_devices: int = 8
    network_bytes_per_s: float = 25e9
    architecture: str = ""
    prices: tuple[Price, ...] = field(default=())

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "bandwidth_bytes_per_s", "link_bytes_per_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"Device {self.name!r}: {name} is {getattr(self, name)}. Write more than 0.")
        if not self.flops_per_s.get(NumberFormat.BF16, 0) > 0:
            raise UsageError(f"Device {self.name!r} has no peak for bf16. Write flops: {{bf16: ...}}.")

    def peak_flops_per_s(self, format: NumberFormat) -> float:
        """Peak at which products with weights of `format` are computed."""
        for candidate in _WIDER[format]:
            if candidate in self.flops_per_s:
                return self.flops_per_s[candidate]
        return self.flops_per_s[NumberFormat.BF16]

    def link_among(self, devices: int) -> float:
        """Bytes per second, one way and per device, among so many: of the node's link, or of the network beyond it."""
        return self.link_bytes_per_s if devices <= self.node_devices else self.network_bytes_per_s

    def computes(self, format: NumberFormat) -> bool:
        """Whether the device multiplies in `format` itself, rather than unpacking to a wider one."""
        return any(candidate in self.flops_per_s for candidate in _SAME[format])


_SAME = {
    NumberFormat.FP32: (NumberFormat.FP32,),
    NumberFormat.BF16: (NumberFormat.BF16,),
    NumberFormat.FP8: (NumberFormat.FP8,),
    NumberFormat.FP8_BLOCK: (NumberFormat.FP8,),
    NumberFormat.INT8: (NumberFormat.INT8,),
    NumberFormat.INT4: (NumberFormat.BF16,),
    NumberFormat.NVFP4: (NumberFormat.NVFP4,),
    NumberFormat.MXFP4: (NumberFormat.NVFP4,),
}
_WIDER = {
    NumberFormat.FP32: (NumberFormat.FP32,),
    NumberFormat.BF16: (NumberFormat.BF16,),
    NumberFormat.FP8: (NumberFormat.FP8,),
    NumberFormat.FP8_BLOCK: (NumberFormat.FP8,),
    NumberFormat.INT8: (NumberFormat.INT8,),
    NumberFormat.INT4: (NumberFormat.BF16,),
    NumberFormat.NVFP4: (NumberFormat.NVFP4, NumberFormat.FP8),
    NumberFormat.MXFP4: (NumberFormat.NVFP4, NumberFormat.FP8),
}


def plain_name(device: str) -> str:
    """A device's name however people write it: `RTX 4090` and `rtx_4090` are one."""
    return re.sub(r"[^a-z0-9]", "", device.lower())


def named_gpu(text: str, known: Mapping[str, Hardware]) -> Hardware | None:
    """The GPU that `text` names: `h100_sxm`, `H100`, `NVIDIA H100 80GB HBM3`; `None` where none fits."""
    words = set(re.findall(r"[a-z]+\d+[a-z]*|\d+|[a-z]+", text.lower()))
    plain = plain_name(text)
    best: tuple[float, Hardware] | None = None
    for name, hardware in known.items():
        if plain in (plain_name(name), plain_name(hardware.label)):
            return hardware
        parts = name.split("_")
        model = "".join(parts[:2]) if parts[0] == "rtx" else parts[0]
        if model not in words and model not in plain:
            continue
        score = 10 * len(model) + sum(part in words for part in parts[1:]) + (parts[-1] == "sxm") * 0.5
        if best is None or score > best[0]:
            best = (score, hardware)
    return None if best is None else best[1]
