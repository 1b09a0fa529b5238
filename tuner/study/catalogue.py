"""The device catalogue: what a GPU that a study names is."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Final, cast

from tuner.hardware import Hardware
from tuner.study import adapters

DEVICE_CATALOGUES: Final = "tuner.device_catalogues"


@functools.lru_cache(maxsize=1)
def catalogue() -> Mapping[str, Hardware]:
    """The accelerators that are known, by name."""
    return cast(Callable[[], Mapping[str, Hardware]], adapters.load(DEVICE_CATALOGUES, "shipped"))()


def named_gpu(text: str, known: Mapping[str, Hardware]) -> Hardware | None:
    """The GPU that `text` names: `h100_sxm`, `H100`, `NVIDIA H100 80GB HBM3`; `None` where none fits."""
    words = set(re.findall(r"[a-z]+\d+[a-z]*|\d+|[a-z]+", text.lower()))
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    best: tuple[float, Hardware] | None = None
    for name, hardware in known.items():
        if plain in (re.sub(r"[^a-z0-9]", "", each.lower()) for each in (name, hardware.label)):
            return hardware
        parts = name.split("_")
        model = "".join(parts[:2]) if parts[0] == "rtx" else parts[0]
        if model not in words and model not in plain:
            continue
        score = 10 * len(model) + sum(part in words for part in parts[1:]) + (parts[-1] == "sxm") * 0.5
        if best is None or score > best[0]:
            best = (score, hardware)
    return None if best is None else best[1]
