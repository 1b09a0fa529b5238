"""What a configuration of Triton means to the performance model."""

from __future__ import annotations

import math

from search_spaces.triton_space import (
    DYNAMIC_BATCHING,
    INSTANCES,
    MAX_BATCH_SIZE,
    PREFERRED,
    QUEUE_DELAY,
    THREADS,
    PreferredBatch,
)
from tuner.launch import KServeRequest
from tuner.parameter import Config
from tuner.serving import DynamicBatching


def serving(config: Config, rows: int | None) -> DynamicBatching:
    """Batches are counted in requests of `rows` each; `None` for a model that cannot batch."""
    instances, threads = int(config[INSTANCES]), int(config[THREADS])
    if rows is None or config.get(DYNAMIC_BATCHING) is not True:
        return DynamicBatching(max_batch_size=1, instances=instances, threads=threads)
    largest = int(config[MAX_BATCH_SIZE])
    sizes = {size // rows for size in PreferredBatch(str(config[PREFERRED])).sizes(largest)} - {0}
    return DynamicBatching(
        max_batch_size=max(largest // rows, 1),
        max_queue_delay_s=int(config[QUEUE_DELAY]) * 1e-6,
        preferred_batch_sizes=tuple(sorted(sizes)),
        instances=instances,
        threads=threads,
    )


def row_tokens(request: KServeRequest, batches: bool) -> tuple[int, ...]:
    """Sizes of one row: what varies in whole-number inputs, else in the first input."""
    inputs = [entry for entry in request.inputs if entry.datatype.startswith(("INT", "UINT"))] or list(request.inputs)
    dims = inputs[0].dims[1:] if batches else inputs[0].dims
    sizes = [1]
    for choices in dims:
        sizes = [size * choice for size in sizes for choice in choices]
    return tuple(sizes) if len(sizes) <= 64 else (round(math.fsum(sizes) / len(sizes)),)
