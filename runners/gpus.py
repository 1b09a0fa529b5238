"""GPUs of this machine, as far as runners must know them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tuner.device import DeviceKind, DeviceType
from tuner.errors import UnavailableError

_QUERY_DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU: its index and its UUID, either of which names it."""

    index: str
    uuid: str


def nvidia_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs of this machine; empty where there is none, or no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        answer = subprocess.run(
            [program, "--query-gpu=index,uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_QUERY_DEADLINE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [line.split(",") for line in answer.stdout.splitlines() if line.count(",") == 1]
    return tuple(Gpu(index=index.strip(), uuid=uuid.strip()) for index, uuid in rows)


def require_gpus(device: DeviceType, found: Callable[[], tuple[Gpu, ...]]) -> None:
    """That the GPUs of `device` are here; machines are not asked for what a CPU type does not need.

    Raises:
        UnavailableError: they are not.
    """
    if device.kind is not DeviceKind.GPU:
        return
    gpus = found()
    if len(gpus) < device.gpus:
        raise UnavailableError(
            f"Device {device.name!r} has {device.gpus} GPUs, and nvidia-smi finds {len(gpus)} on this machine. "
            "Install the NVIDIA driver, lower gpus, or run the study where the GPUs are."
        )
    known = {name for gpu in gpus for name in (gpu.index, gpu.uuid)}
    unknown = [name for name in device.gpu_ids if name not in known]
    if unknown:
        raise UnavailableError(
            f"Device {device.name!r} names the GPUs {', '.join(unknown)}, and this machine has "
            f"{', '.join(f'{gpu.index} ({gpu.uuid})' for gpu in gpus)}. Write one of these ids."
        )


def visible_gpus(device: DeviceType) -> Mapping[str, str]:
    """Environment that shows a process the GPUs of `device` and no others."""
    if device.kind is not DeviceKind.GPU:
        return {"CUDA_VISIBLE_DEVICES": ""}
    ids = device.gpu_ids[: device.gpus] or tuple(str(index) for index in range(device.gpus))
    return {"CUDA_VISIBLE_DEVICES": ",".join(ids)}
