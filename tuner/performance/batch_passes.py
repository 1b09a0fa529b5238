"""Passes of a model over a batch of requests: how long on one device, and what copies of it take from one another."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from tuner.model_graph import ModelGraph
from tuner.performance.corrections import BORROWED
from tuner.performance.grid import Array
from tuner.performance.host_table import HostTable
from tuner.performance.operator_table import OperatorTable
from tuner.performance.step_time import StepLoads, StepTime
from tuner.serving import DynamicBatching
from tuner.step import Shard

REQUEST_S: Final = 0.08e-3
"""Core time that a server spends on one request outside the model: HTTP, copying tensors in and out."""
PASS_S: Final = 0.3e-3
"""Core time of one pass outside its operators: scheduling, the hand-over to the backend and back."""
PARALLEL: Final = 0.85
"""t threads, each with a core, compute t to this power times as fast as one."""
SPINNING: Final = 0.4
"""Threads with less than a core each spin while they wait for one another: t of them get t to minus this power done."""
CROWDING: Final = 0.3
"""All copies' threads spin for a while after their work: on a share f of a core for each, f to this power is left."""
_LAUNCH_S: Final = 4e-6
_SHARED_GPU: Final = 0.85
"""k copies on one GPU each go at k to minus this power: small passes leave room for one another."""
_GPU_SPREAD: Final = 0.5
"""Half the width of the 90 % interval on a GPU, as a logarithm."""
_GRID: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


class BatchPasses(abc.ABC):
    """Passes of one model on one device type.

    Args:
        rows: of one request.
        row_tokens: sizes of one row, equally likely; requests of different sizes take passes of their own.

    Attributes:
        spread: half the width of the 90 % interval of times, as a logarithm.
        origin: where times come from, for people.
    """

    spread: float
    origin: str

    def __init__(self, rows: int, row_tokens: Sequence[int]) -> None:
        self._rows, self._sizes = rows, tuple(row_tokens) or (1,)
        self._known = np.zeros(0)

    def service_s(self, largest: int) -> Array:
        """Seconds of a batch of 1, 2, ... `largest` requests with the device to itself and one thread."""
        if self._known.size < largest:
            grid = np.array([size for size in _GRID if size < largest] + [largest], dtype=np.float64)
            share = grid / len(self._sizes)
            seconds = np.zeros(grid.size)
            for tokens in self._sizes:
                seconds += np.minimum(share, 1.0) * self._pass_s(self._rows * np.maximum(share, 1.0), tokens)
            every = np.arange(1.0, largest + 1.0)
            self._known = np.interp(every, grid, seconds) + PASS_S + REQUEST_S * every
        return self._known[:largest]

    @abc.abstractmethod
    def speeds(self, settings: DynamicBatching) -> Array:
        """Speed of each instance while 1, 2, ... of them are busy, shape (instances on all GPUs,)."""

    @abc.abstractmethod
    def weights_bytes(self) -> float:
        """Of one copy of the model."""

    @abc.abstractmethod
    def _pass_s(self, sequences: Array, tokens: int) -> Array: ...


class CorePasses(BatchPasses):
    """On cores of this machine's kind.

    Args:
        graph: the model.
        table: of one core.
        cores: that the device type may use.
        rows, row_tokens: as in `BatchPasses`.
    """

    def __init__(
        self, graph: ModelGraph, table: HostTable, cores: float, rows: int = 1, row_tokens: Sequence[int] = ()
    ) -> None:
        super().__init__(rows, row_tokens)
        self._graph, self._table, self._cores = graph, table, cores
        self.spread = (0.25 if table.is_measured else 0.8) * (1.5 if graph.assumptions else 1.0)
        self.origin = table.origin

    def speeds(self, settings: DynamicBatching) -> Array:
        """Busy copies divide the cores; threads beyond the cores also wait for one another."""
        threads = settings.threads or self._table.core.count
        busy = np.arange(1, settings.instances + 1)
        share = np.minimum(self._cores / (busy * threads), 1.0)
        if threads == 1:
            return np.asarray(share)
        spinning = np.where(share < 1.0, float(threads) ** -SPINNING, 1.0)
        crowded = min(self._cores / (settings.instances * threads), 1.0) ** CROWDING
        return np.asarray(threads**PARALLEL * share * spinning * crowded)

    def weights_bytes(self) -> float:
        return self._graph.weight_bytes(Shard())

    def _pass_s(self, sequences: Array, tokens: int) -> Array:
        return self._table.pass_s(self._graph, sequences, tokens)


class GpuPasses(BatchPasses):
    """On GPUs of one type, each with its own copies.

    Args:
        graph: the model.
        table: of the GPU.
        gpus: how many.
        rows, row_tokens: as in `BatchPasses`.
    """

    def __init__(
        self, graph: ModelGraph, table: OperatorTable, gpus: int, rows: int = 1, row_tokens: Sequence[int] = ()
    ) -> None:
        super().__init__(rows, row_tokens)
        self._graph, self._gpus = graph, gpus
        self._step = StepTime(graph, table, Shard())
        of_table = math.hypot(_GPU_SPREAD, BORROWED.low) if table.is_borrowed else _GPU_SPREAD
        self.spread = of_table * (1.5 if graph.assumptions else 1.0)
        self.origin = table.label

    def speeds(self, settings: DynamicBatching) -> Array:
        """Copies on one GPU share it; those on different ones do not."""
        busy = np.arange(1, settings.instances * self._gpus + 1)
        return np.asarray(np.ceil(busy / self._gpus) ** -_SHARED_GPU)

    def weights_bytes(self) -> float:
        return self._graph.weight_bytes(Shard())

    def _pass_s(self, sequences: Array, tokens: int) -> Array:
        parts = self._step.parts(StepLoads.prefill(sequences, np.full(sequences.shape, float(tokens))))
        return np.asarray(parts.total + _LAUNCH_S * parts.kernels)
