"""Performance models of a study's device types: what the study knows, put together with tables and catalogue."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol, cast

import numpy as np

from tuner.device import DeviceKind, DeviceType
from tuner.errors import UnpredictableError, did_you_mean
from tuner.hardware import Hardware, named_gpu
from tuner.metric import Metric, MetricRef
from tuner.model_graph import ModelGraph
from tuner.performance.batch_passes import PARALLEL, BatchPasses, CorePasses, GpuPasses
from tuner.performance.batch_serving import MOST_SIMULATED, BatchServing
from tuner.performance.continuous_serving import ContinuousServing
from tuner.performance.corrections import shipped
from tuner.performance.grid import Array
from tuner.performance.host_table import Core, HostTable, profile_folder, read_host_table, this_core
from tuner.performance.operator_table import OperatorTable
from tuner.performance.predicted_metrics import PredictedMetrics
from tuner.performance.simulated_load import SimulatedLoad
from tuner.performance.simulation.serving import ServingSimulation
from tuner.performance.table_choice import tables_for
from tuner.serving import ContinuousBatching, DynamicBatching, ServedModel, Serving
from tuner.step import NumberFormat
from tuner.study import adapters
from tuner.study.catalogue import catalogue
from tuner.study.read_model import read_graph
from tuner.trial import TrialPlan
from tuner.units import format_bytes
from tuner.workload import TokenShapes

OPERATOR_TABLES: Final = "tuner.operator_tables"
_TAIL: Final = 2.0
"""Latencies, of which the tail matters, are off by more than rates are."""
_CPU_MEMORY: Final = 64e9
"""Of a device type without a limit: no configuration is refused for it."""


class DeviceModel(Protocol):
    """Predicts what servers on one device type answer."""

    @property
    def origin(self) -> str:
        """Where its times come from, for people."""
        ...

    def predict(self, settings: Sequence[Serving]) -> PredictedMetrics:
        """Every metric of the plan that can be told, without costs."""
        ...

    def simulate(self, settings: Serving) -> SimulatedLoad:
        """One configuration under the whole load of a trial.

        Raises:
            UnpredictableError: it cannot run.
        """
        ...


class Batches:
    """Servers with dynamic batching.

    Attributes:
        passes: of the model on the device.
        plan: how a trial is measured.
        memory_bytes: that all copies on one device share, `None` where it is not limited.
    """

    def __init__(self, passes: BatchPasses, plan: TrialPlan, memory_bytes: float | None) -> None:
        self.passes, self.plan, self.memory_bytes = passes, plan, memory_bytes
        self._serving = BatchServing(passes, plan)

    @property
    def origin(self) -> str:
        """Where its times come from."""
        return self.passes.origin

    def predict(self, settings: Sequence[Serving]) -> PredictedMetrics:
        """See `DeviceModel.predict`."""
        values: dict[MetricRef, Array] = {}
        refusals = [""] * len(settings)
        for place, each in enumerate(settings):
            assert isinstance(each, DynamicBatching)
            refusals[place] = self._refusal(each)
            if not refusals[place]:
                for ref, value in self._serving.metrics(each).items():
                    values.setdefault(ref, np.full(len(settings), np.nan))[place] = value
        one = np.full(len(settings), self.passes.spread)
        spreads = {ref: one * (_TAIL if ref.metric is Metric.LATENCY else 1.0) for ref in values}
        return PredictedMetrics(values=values, spreads=spreads, refusals=tuple(refusals), origin=self.origin)

    def simulate(self, settings: Serving) -> SimulatedLoad:
        """See `DeviceModel.simulate`."""
        assert isinstance(settings, DynamicBatching)
        if reason := self._refusal(settings):
            raise UnpredictableError(f"The configuration cannot run: {reason}.")
        if settings.max_batch_size > MOST_SIMULATED:
            problem = f"Batches of {settings.max_batch_size} are larger than any load that is simulated."
            raise UnpredictableError(f"{problem} Write {MOST_SIMULATED} or less.")
        return BatchServing(self.passes, self.plan, thorough=True).load(settings)

    def _refusal(self, settings: DynamicBatching) -> str:
        """Copies that exceed the memory with their weights alone; what else they need is not known surely."""
        needed = settings.instances * self.passes.weights_bytes()
        if self.memory_bytes is None or needed <= self.memory_bytes:
            return ""
        return (
            f"weights of {settings.instances} copies ({format_bytes(needed)}) exceed the "
            f"{format_bytes(self.memory_bytes)} of the device"
        )


class Sequences:
    """Servers with continuous batching."""

    def __init__(
        self,
        read: Callable[[NumberFormat | None], ModelGraph],
        table: Callable[[int], OperatorTable],
        plan: TrialPlan,
        max_tokens: int,
    ) -> None:
        self.read, self.table, self.plan, self.max_tokens = read, table, plan, max_tokens
        self._serving = ContinuousServing(read, table, shipped(), plan, max_tokens)

    @property
    def origin(self) -> str:
        """Where its times come from."""
        return self.table(0).label

    def predict(self, settings: Sequence[Serving]) -> PredictedMetrics:
        """See `DeviceModel.predict`."""
        return self._serving.predict([each for each in settings if isinstance(each, ContinuousBatching)])

    def simulate(self, settings: Serving) -> SimulatedLoad:
        """See `DeviceModel.simulate`."""
        assert isinstance(settings, ContinuousBatching)
        if (reason := self._serving.refusal(settings)) is not None:
            raise UnpredictableError(f"The configuration cannot run: {reason}.")
        graph, table = self.read(settings.weights), self.table(settings.threads)
        return ServingSimulation(settings, graph, table, shipped(), self.plan, self.max_tokens).run()


def device_model(served: ServedModel, device: DeviceType, plan: TrialPlan) -> DeviceModel:
    """The model of one device type.

    Raises:
        UnpredictableError: the device is not known, or the model cannot be read.
    """
    read = functools.cache(lambda weights: read_graph(served, weights))
    graph = read(None)
    hardware = None if device.kind is DeviceKind.CPU else _gpu(device)
    if isinstance(plan.workload.requests, TokenShapes):
        if not graph.generates:
            raise UnpredictableError(f"{graph.name} does not generate tokens, so its answers cannot be predicted.")
        if hardware is None:
            core = this_core()
            return Sequences(read, lambda threads: _core_table(device, core, threads), plan, served.max_tokens)
        table = _gpu_table(hardware)
        return Sequences(read, lambda _: table, plan, served.max_tokens)
    if hardware is None:
        host = _host_table()
        cores = min(device.cpus or math.inf, _cpuset_size(device) or math.inf)
        cores = cores if math.isfinite(cores) else float(host.core.count)
        on_cores = CorePasses(graph, host, cores, served.rows, served.row_tokens)
        return Batches(on_cores, plan, None if device.memory_bytes is None else float(device.memory_bytes))
    on_gpus = GpuPasses(graph, _gpu_table(hardware), device.gpus, served.rows, served.row_tokens)
    return Batches(on_gpus, plan, hardware.memory_bytes)


def _gpu_table(hardware: Hardware) -> OperatorTable:
    folder = cast(Callable[[], Path], adapters.load(OPERATOR_TABLES, "shipped"))()
    return tables_for({**catalogue(), hardware.name: hardware}, folder, profile_folder())[hardware.name]


def _gpu(device: DeviceType) -> Hardware:
    """The catalogue's entry that a device type's GPU is called after."""
    text = device.gpu_model or device.name
    found = named_gpu(text, catalogue())
    if found is None:
        raise UnpredictableError(
            f"The device catalogue has no GPU called {text!r}. {did_you_mean(text, catalogue())} "
            f"Write gpu: NAME beside the device {device.name!r}."
        )
    return found if device.gpu_memory_bytes is None else replace(found, memory_bytes=float(device.gpu_memory_bytes))


@functools.lru_cache(maxsize=1)
def _host_table() -> HostTable:
    return read_host_table(profile_folder(), "onnxruntime")


def _core_table(device: DeviceType, core: Core, threads: int) -> OperatorTable:
    """The roofline of some cores of this machine's kind."""
    cores = min(float(threads or core.count), device.cpus or float(core.count))
    speed = 0.5 * core.flops_per_s * cores**PARALLEL  # inside an engine, products reach about half the peak
    bandwidth = core.bandwidth_bytes_per_s * cores
    hardware = Hardware(
        name=f"{device.name}, {cores:g} cores",
        label=f"{cores:g} cores of {core.name}",
        memory_bytes=float(device.memory_bytes or _CPU_MEMORY),
        bandwidth_bytes_per_s=bandwidth,
        flops_per_s={NumberFormat.FP32: speed, NumberFormat.BF16: speed * core.half_precision},
        link_bytes_per_s=bandwidth,
    )
    return OperatorTable(hardware, None)


def _cpuset_size(device: DeviceType) -> int | None:
    """Cores that `0-1,4` names; `None` where nothing is pinned."""
    if device.cpuset is None:
        return None
    bounds = [part.partition("-") for part in device.cpuset.split(",")]
    return sum(int(high or low) - int(low) + 1 for low, _, high in bounds)
