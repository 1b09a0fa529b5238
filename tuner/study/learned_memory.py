"""What a study's own trials say of memory: configurations that surely run out of it, as others did.

Beside the rule that is known beforehand (`tuner.performance.memory`): how much a batch of a model needs is often not
known, but each trial tells a little (`tuner.performance.fitted_memory`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tuner.device import DeviceKind, DeviceType
from tuner.errors import TunerError
from tuner.hardware import named_gpu
from tuner.parameter import DEVICE, Config, Value
from tuner.performance.fitted_memory import FittedMemory, MemoryTrial
from tuner.ports import Predictable, SearchSpace
from tuner.serving import DynamicBatching, ServedModel
from tuner.strategies.candidates import Candidates, Positions
from tuner.study.catalogue import catalogue
from tuner.study.definition import Study
from tuner.study.record import TrialRecord
from tuner.trial import Reason

LIMIT: Final = 50_000
"""Configurations that are looked at, in two seconds or so; in a larger space nothing is learned."""
_PROBES: Final = 64
"""Configurations at which it is seen which parameters the server's batches and copies depend on."""


@dataclass(frozen=True, slots=True)
class _Demand:
    """What memory depends on: configurations of one group differ in copies and batch size alone."""

    group: tuple[Value, ...]
    copies: int
    batch: int


class LearnedMemory:
    """Learns from trials which configurations cannot fit; nothing where copies, batches or memory are not known.

    Trials speak of configurations on the same device type only (what a server needs beside its copies then plays no
    part), and with the same values of all parameters that copies and batches do not depend on, such as a number format.

    Args:
        study: what is tuned.
        engine: its adapter.
        candidates: every valid configuration.
    """

    def __init__(self, study: Study, engine: SearchSpace, candidates: Candidates) -> None:
        self._candidates = candidates
        self._memory = {device.name: bytes_ for device in study.task.devices if (bytes_ := _memory_bytes(device))}
        self._served: ServedModel | None = None
        if isinstance(engine, Predictable) and self._memory and len(candidates) <= LIMIT:
            try:
                self._served = engine.served_model(study.task)
            except TunerError:
                self._served = None
        self._apart: tuple[str, ...] | None = None
        self._positions: dict[_Demand, list[int]] = {}
        self._known: tuple[tuple[_Demand, bool], ...] = ()
        self._excluded: Positions = np.zeros(0, dtype=np.int64)

    def excluded(self, records: Sequence[TrialRecord]) -> Positions:
        """Positions of candidates that surely run out of memory, ascending."""
        if self._served is None or not any(_ran_out(record) for record in records):
            return self._excluded
        told = [
            (demand, record.observed is not None)
            for record in records
            if (record.observed is not None or _ran_out(record)) and (demand := self._demand(record.config)) is not None
        ]
        known = tuple(sorted(set(told), key=repr))
        if known != self._known:
            self._known = known
            self._excluded = self._learned(known)
        return self._excluded

    def _learned(self, known: Sequence[tuple[_Demand, bool]]) -> Positions:
        if not self._positions:
            for position in range(len(self._candidates)):
                demand = self._demand(self._candidates.config(position))
                if demand is not None:
                    self._positions.setdefault(demand, []).append(position)
        found: list[int] = []
        for group in {demand.group for demand, ran in known if not ran}:
            memory = self._memory[str(group[0])]
            rule = FittedMemory(
                [
                    MemoryTrial(copies=demand.copies, batch=demand.batch, memory_bytes=memory, ran=ran)
                    for demand, ran in known
                    if demand.group == group
                ]
            )
            for demand, positions in self._positions.items():
                if demand.group == group and rule.refuses(demand.copies, demand.batch, memory):
                    found += positions
        return np.array(sorted(found), dtype=np.int64)

    def _demand(self, config: Config) -> _Demand | None:
        if self._served is None or config.device not in self._memory:
            return None
        serving = self._served.serving(config)
        if not isinstance(serving, DynamicBatching):
            return None
        if self._apart is None:
            self._apart = self._told_apart(self._served)
        values = self._candidates.space.complete(config)
        return _Demand(
            group=(config.device, *(values[name] for name in self._apart)),
            copies=serving.instances,
            batch=serving.max_batch_size,
        )

    def _told_apart(self, served: ServedModel) -> tuple[str, ...]:
        """Parameters that a server's batches and copies do not depend on: what else they change is not known."""
        space = self._candidates.space
        generator = np.random.default_rng(0)
        drawn = generator.choice(len(self._candidates), size=min(_PROBES, len(self._candidates)), replace=False)
        probes = [self._candidates.config(int(position)) for position in drawn]
        apart = []
        for parameter in space.parameters:
            if parameter.name == DEVICE:
                continue
            others = (
                (probe, space.config({**space.complete(probe), parameter.name: value}))
                for probe in probes
                for value in parameter.values
            )
            if all(served.serving(probe) == served.serving(other) for probe, other in others):
                apart.append(parameter.name)
        return tuple(apart)


def _ran_out(record: TrialRecord) -> bool:
    return record.failure is not None and record.failure.reason is Reason.OUT_OF_MEMORY


def _memory_bytes(device: DeviceType) -> float | None:
    """That all copies on one device share; `None` where no limit is known."""
    if device.kind is DeviceKind.CPU:
        return None if device.memory_bytes is None else float(device.memory_bytes)
    if device.gpu_memory_bytes is not None:
        return float(device.gpu_memory_bytes)
    hardware = named_gpu(device.gpu_model or device.name, catalogue())
    return None if hardware is None else hardware.memory_bytes
