"""The device catalogue that studies look their GPUs up in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Final, cast

from tuner.hardware import Hardware
from tuner.study import adapters

DEVICE_CATALOGUES: Final = "tuner.device_catalogues"


@functools.lru_cache(maxsize=1)
def catalogue() -> Mapping[str, Hardware]:
    """The accelerators that are known, by name."""
    return cast(Callable[[], Mapping[str, Hardware]], adapters.load(DEVICE_CATALOGUES, "shipped"))()
