"""What may be set for an ONNX model on Triton, and what Triton does when nothing is set.

The defaults are those of the onnxruntime backend, whose configuration Triton completes by itself:

* `max_batch_size` 4 and dynamic batching on, where the first dimension of all inputs and outputs varies, and no
  queue delay (onnxruntime_backend, README, "Default Max Batch Size");
* one instance per GPU, two on CPUs (core, `SetDefaultInstanceCount` in src/model_config_utils.cc);
* as many threads per instance as onnxruntime sees cores (README, "Model Config Options").
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

from tuner.device import DeviceKind, DeviceType
from tuner.parameter import DEVICE, Condition, Parameter, Scale, powers_of_two
from tuner.space import Rule, Space

DYNAMIC_BATCHING: Final = "dynamic_batching"
MAX_BATCH_SIZE: Final = "max_batch_size"
QUEUE_DELAY: Final = "max_queue_delay_microseconds"
PREFERRED: Final = "preferred_batch_size"
INSTANCES: Final = "instance_count"
THREADS: Final = "intra_op_thread_count"

_DEFAULT_BATCH: Final = 4
_LARGEST_BATCH: Final = 128
_QUEUE_DELAYS_US: Final = (0, 100, 250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
_DEFAULT_INSTANCES: Final = {DeviceKind.CPU: 2, DeviceKind.GPU: 1}
_GPU_INSTANCES: Final = 8  # beyond, instances rather fill the memory than the GPU
_OVERSUBSCRIPTION: Final = 4
_LEAST_THREADS: Final = 16


class PreferredBatch(StrEnum):
    """Batches that are sent without waiting for a full one."""

    NONE = "none"
    HALF = "half"
    QUARTER = "quarter"

    def sizes(self, max_batch_size: int) -> tuple[int, ...]:
        """The sizes, ascending; empty where only a full batch is preferred, which is Triton's default."""
        divisors = {PreferredBatch.NONE: (), PreferredBatch.HALF: (2, 1), PreferredBatch.QUARTER: (4, 2, 1)}[self]
        return tuple(max_batch_size // divisor for divisor in divisors)


def build_space(devices: Sequence[DeviceType], *, batches: bool, rows: int) -> Space:
    """The search space.

    Args:
        devices: device types, at least one.
        batches: whether requests can be joined.
        rows: rows that one request carries.
    """
    parameters = [
        Parameter(
            name=DEVICE,
            values=tuple(device.name for device in devices),
            default=devices[0].name,
            says="Device type.",
        )
    ]
    rules = []
    if batches:
        parameters += _batching(rows)
        rules += [
            Rule(
                over=(MAX_BATCH_SIZE,),
                holds=lambda max_batch_size: max_batch_size is None or max_batch_size >= rows,
                says=f"{MAX_BATCH_SIZE} must be at least the {rows} rows of a request.",
            ),
            Rule(
                over=(MAX_BATCH_SIZE, PREFERRED),
                holds=lambda max_batch_size, preferred_batch_size: (
                    preferred_batch_size != PreferredBatch.QUARTER.value or max_batch_size >= 4
                ),
                says=f"{PREFERRED} quarter needs a {MAX_BATCH_SIZE} of 4 or more.",
            ),
        ]
    cores = {device.name: _cores(device) for device in devices}
    parameters += [
        Parameter(
            name=INSTANCES,
            values=_instance_counts(devices),
            default=_DEFAULT_INSTANCES[devices[0].kind],
            scale=Scale.LOG,
            says="Copies of the model that run at the same time (per GPU).",
        ),
        Parameter(
            name=THREADS,
            values=_thread_counts(cores.values()),
            default=0,
            scale=Scale.LOG,
            says="Threads of each instance within an operator; 0 leaves the number to onnxruntime.",
        ),
    ]
    rules.append(
        Rule(
            over=(DEVICE, INSTANCES, THREADS),
            holds=lambda device, instance_count, intra_op_thread_count: (
                instance_count * intra_op_thread_count <= max(_LEAST_THREADS, _OVERSUBSCRIPTION * cores[device])
            ),
            says=f"{INSTANCES} x {THREADS} must not be more than {_OVERSUBSCRIPTION} times the device's cores.",
        )
    )
    return Space(parameters=tuple(parameters), rules=tuple(rules))


def _batching(rows: int) -> list[Parameter]:
    on = (Condition(parameter=DYNAMIC_BATCHING, values=(True,)),)
    largest = max(_LARGEST_BATCH, 2 ** math.ceil(math.log2(rows) + 1))
    return [
        Parameter(
            name=DYNAMIC_BATCHING,
            values=(False, True),
            default=True,
            says="Join waiting requests and run them as one.",
        ),
        Parameter(
            name=MAX_BATCH_SIZE,
            values=powers_of_two(2, largest),
            default=_DEFAULT_BATCH,
            scale=Scale.LOG,
            active_when=on,
            says="Most rows that run as one; without dynamic batching, the rows of a request.",
        ),
        Parameter(
            name=QUEUE_DELAY,
            values=_QUEUE_DELAYS_US,
            default=0,
            scale=Scale.LOG,
            active_when=on,
            says="Longest wait for a larger batch, in microseconds.",
        ),
        Parameter(
            name=PREFERRED,
            values=tuple(choice.value for choice in PreferredBatch),
            default=PreferredBatch.NONE.value,
            active_when=on,
            says=f"Smaller batches that end the wait too: a half, or a quarter, of {MAX_BATCH_SIZE}.",
        ),
    ]


def _cores(device: DeviceType) -> float:
    return device.cpus if device.cpus is not None else float(os.cpu_count() or 1)


def _instance_counts(devices: Iterable[DeviceType]) -> tuple[int, ...]:
    """1 to 4 always, then in growing steps up to twice the cores."""
    most = max(_GPU_INSTANCES if device.kind is DeviceKind.GPU else math.ceil(2 * _cores(device)) for device in devices)
    steps = [step for power in powers_of_two(4, max(most, 4)) for step in (power, power * 3 // 2) if step <= most]
    return tuple(sorted({1, 2, 3, 4, *steps}))


def _thread_counts(cores: Iterable[float]) -> tuple[int, ...]:
    """onnxruntime's choice, and powers of two up to the cores (2 always, to see whether it helps)."""
    most = math.ceil(max(cores))
    return tuple(sorted({0, 1, 2, *powers_of_two(1, most), most}))
