"""The operator profiler: times probes within a time limit, goes on where it stopped, writes a table.

Every result is appended to a journal as soon as it is there; an interrupted profile loses at most the probe it was
timing, and a line torn by a crash is dropped when the profile goes on.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import re
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from profilers import collectives, onnx_calls
from profilers.gpu_calls import gpu_calls
from profilers.probe import Probe
from profilers.timing import Timing, time_call, wake
from profilers.torch_calls import torch_call
from tuner.errors import UnavailableError, UsageError
from tuner.units import format_bytes
from tuner.whole_file import replacement

FORMAT: Final = "serving-tuner profile 3"
_GPU_CALL_S: Final = 0.04
"""For the repeats of one kernel on a GPU: its times spread little."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What has been timed.

    Attributes:
        timings: by probe.
        missing: probes that the time limit left out.
        failed: probes that no kernel here computes, with what the last one said.
        origin: device, software and date.
    """

    timings: dict[Probe, Timing]
    missing: tuple[Probe, ...]
    origin: dict[str, str]
    failed: dict[Probe, str] = dataclasses.field(default_factory=dict)


def profile(
    probes: Sequence[Probe],
    device: str,
    journal: Path,
    limit_s: float = 180.0,
    threads: int | None = None,
    watch: Callable[[int, int], None] = lambda done, total: None,
    runtime: str = "torch",
) -> Profile:
    """Times `probes` on `device` (`cpu`, `cuda`, `cuda:1`), those in `journal` not again.

    Args:
        probes: most important first.
        device: where.
        journal: file that results are appended to.
        limit_s: wall time; what is left is reported as missing.
        threads: of the CPU; `None` leaves torch's choice.
        watch: told how many of how many are done.
        runtime: whose operators: `torch`, or `onnxruntime` (CPU only).

    Raises:
        UnavailableError: the device or the runtime is not there.
        UsageError: the journal belongs to another device, software or number of threads; a probe exceeds the memory.
    """
    _check_device(device)
    if runtime == "onnxruntime" and not (onnx_calls.is_installed() and device == "cpu"):
        raise UnavailableError(
            "Operators of onnxruntime are timed on the CPU, with onnxruntime installed. "
            "Write --device cpu and install it (pip install onnxruntime), or choose --runtime torch."
        )
    _check_memory(probes, device)
    if device.startswith("cuda"):
        wake(device)
    if threads is not None:
        torch.set_num_threads(threads)
    origin = _origin(device, runtime)
    timings = _read_journal(journal, origin)
    failed: dict[Probe, str] = {}
    start = time.monotonic()
    journal.parent.mkdir(parents=True, exist_ok=True)
    wanted = [probe for probe in probes if probe not in timings]
    with journal.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(json.dumps({"format": FORMAT, **origin}) + "\n")
        for probe, timing in _timings(wanted, device, runtime, lambda: start + limit_s - time.monotonic()):
            if isinstance(timing, str):
                failed[probe] = timing
                continue
            timings[probe] = timing
            file.write(json.dumps({**dataclasses.asdict(probe), **dataclasses.asdict(timing)}) + "\n")
            file.flush()
            watch(sum(probe in timings for probe in probes), len(probes))
    missing = tuple(probe for probe in wanted if probe not in timings and probe not in failed)
    return Profile(
        timings={p: timings[p] for p in probes if p in timings}, missing=missing, origin=origin, failed=failed
    )


def write_profile(found: Profile, path: Path) -> None:
    """As a Parquet table, one row per probe, its origin in the metadata; none where nothing was timed."""
    if not found.timings:
        return
    rows = [
        {**dataclasses.asdict(probe), **dataclasses.asdict(timing)} for probe, timing in sorted(found.timings.items())
    ]
    table = pa.Table.from_pylist(rows)
    table = table.replace_schema_metadata({"serving_tuner": json.dumps({"format": FORMAT, **found.origin})})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def free_memory_bytes(device: str) -> float:
    """Of the device, now.

    Raises:
        UnavailableError: it is not there.
    """
    _check_device(device)
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)


def _check_device(device: str) -> None:
    if not device.startswith("cuda"):
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise UnavailableError("No CUDA device is here. Profile with --device cpu, or on a machine with a GPU.")
    index = device.partition(":")[2]
    if index and not (index.isdigit() and int(index) < count):
        raise UnavailableError(f"There is no {device}: this machine has cuda:0 to cuda:{count - 1}. Name one of these.")


def _check_memory(probes: Sequence[Probe], device: str) -> None:
    """Half of what is free must hold the largest probe: absurd lengths end here, not in a killed process."""
    free = free_memory_bytes(device)
    largest = max(probes, key=lambda probe: _bytes_held(probe, device), default=None)
    needed = 0.0 if largest is None else _bytes_held(largest, device)
    if largest is not None and needed > free / 2:
        raise UsageError(
            f"Timing {largest.kind} of {largest.rows} rows needs {format_bytes(needed)}, and {format_bytes(free)} of "
            "memory are free. Choose a smaller batch or fewer tokens."
        )


def _bytes_held(probe: Probe, device: str) -> float:
    """Attention on a GPU is fused and keeps no scores."""
    return probe.values_moved * 2.0 if device.startswith("cuda") else probe.values_held * 4.0


def _timings(
    probes: Sequence[Probe], device: str, runtime: str, left_s: Callable[[], float]
) -> Iterator[tuple[Probe, Timing | str]]:
    """Times probes until nothing is left of the limit; collectives last, those of one group together.

    Yields:
        A probe and its timing, or why there is none.
    """
    on_gpu = device.startswith("cuda")
    groups: dict[int, list[Probe]] = defaultdict(list)
    for probe in probes:
        if probe.kind in collectives.KINDS:
            groups[probe.rows].append(probe)
        elif left_s() > 0:
            yield probe, _timed_on_gpu(probe, device) if on_gpu else _timed(probe, device, runtime)
    for group in groups.values():
        if left_s() > 0:
            yield from collectives.time_collectives(group, device, left_s())


def _timed_on_gpu(probe: Probe, device: str) -> Timing | str:
    """With the fastest of the kernels that compete, or why none computes it."""
    best: Timing | None = None
    reason = "no kernel"
    with torch.cuda.device(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each attention kernel tells why it does not fit before the next is tried
        try:
            calls, runs = gpu_calls(probe, device)
        except RuntimeError as error:  # out of memory, or a format that this GPU lacks
            return _first_line(error)
        for kernel, call in calls.items():
            try:
                timing = time_call(call, device, budget_s=_GPU_CALL_S).of_one(runs, kernel)
            except RuntimeError as error:
                reason = _first_line(error)
                continue
            if best is None or timing.median_s < best.median_s:
                best = timing
    return best or reason


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _timed(probe: Probe, device: str, runtime: str) -> Timing:
    if runtime == "onnxruntime":
        call, runs = onnx_calls.onnx_call(probe, torch.get_num_threads())
    else:
        call, runs = torch_call(probe, device)
    return time_call(call, device, threads=torch.get_num_threads()).of_one(runs)


def _origin(device: str, runtime: str) -> dict[str, str]:
    cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _cpu_name(),
        "threads": "" if cuda else str(torch.get_num_threads()),
        "software": f"{runtime} {importlib.metadata.version(runtime)}" + (_driver() if cuda else ""),
        "date": datetime.date.today().isoformat(),
    }


def _driver() -> str:
    """Versions of CUDA and of the driver, as far as they are told."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").split()
    except OSError:
        words = []
    driver = next((word for word in words if re.fullmatch(r"\d+\.\d+(\.\d+)?", word)), "")
    return f", CUDA {torch.version.cuda}" + (f", driver {driver}" if driver else "")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _read_journal(path: Path, origin: dict[str, str]) -> dict[Probe, Timing]:
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The profile journal {path} cannot be read: {error}. Remove it to start over.") from error
    if not text:
        return {}
    lines = text.splitlines()
    try:
        header = json.loads(lines[0])
        if not isinstance(header, dict):
            raise ValueError("it does not begin with what it is a profile of")
    except ValueError as error:
        raise UsageError(f"The profile journal {path} is damaged: {error}. Remove it to start over.") from error
    for name in ("format", "device", "threads", "software"):
        wanted = FORMAT if name == "format" else origin[name]
        if header.get(name) != wanted:
            raise UsageError(
                f"The profile journal {path} is of {name} {header.get(name)!r}, here it is {wanted!r}. "
                "Write to another file, or remove it to start over."
            )
    timings: dict[Probe, Timing] = {}
    kept = lines[:1]
    for line in lines[1:]:
        try:
            values = json.loads(line)
            probe = Probe(**{field.name: values[field.name] for field in dataclasses.fields(Probe)})
            timings[probe] = Timing(**{field.name: values[field.name] for field in dataclasses.fields(Timing)})
            kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # torn by a crash: timed again
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return timings
