"""How many copies of an operator a timing goes through in turn."""

from __future__ import annotations

import math
from typing import Final

from profilers.probe import Probe, ProbeKind

_CACHE_BYTES: Final = 48e6
"""Beyond the caches of one core: a model's weights have left them when the next pass comes."""
_CALL_FLOPS: Final = 1e9
"""Of one call at most, so that five of them take a fraction of a second."""
_CALL_BYTES: Final = 128e6
"""That one call writes at most."""
_MOST: Final = 64


def copies(probe: Probe) -> int:
    """Enough weights to leave the cache, as between two passes of a model; one where computing dominates."""
    weights = 0.0
    if probe.kind in (ProbeKind.MATMUL.value, ProbeKind.CONVOLUTION.value):
        weights = probe.convolution().parameters if probe.detail else float(probe.width * probe.inner)
    wanted = _CACHE_BYTES / (4.0 * weights) if weights else 8.0
    limits = [_MOST, wanted, _CALL_BYTES / (4.0 * max(probe.values_moved - weights, 1.0))]
    if probe.flops:
        limits.append(_CALL_FLOPS / probe.flops)
    return max(1, math.floor(min(limits)))
