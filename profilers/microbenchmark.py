"""The operator profiler: times probes within a time limit, goes on where it stopped, writes a table.

Every result is appended to a journal as soon as it is there; an interrupted profile loses at most the probe it was
timing, and a line torn by a crash is dropped when the profile goes on.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from profilers import collectives, onnx_calls
from profilers.probe import Probe
from profilers.timing import Timing, time_call
from profilers.torch_calls import torch_call
from tuner.errors import UnavailableError, UsageError
from tuner.units import format_bytes

FORMAT: Final = "serving-tuner profile 2"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What has been timed.

    Attributes:
        timings: by probe.
        missing: probes that the time limit left out.
        origin: device, software and date.
    """

    timings: dict[Probe, Timing]
    missing: tuple[Probe, ...]
    origin: dict[str, str]


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
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UnavailableError("No CUDA device is here. Profile with --device cpu, or on a machine with a GPU.")
    if runtime == "onnxruntime" and not (onnx_calls.is_installed() and device == "cpu"):
        raise UnavailableError(
            "Operators of onnxruntime are timed on the CPU, with onnxruntime installed. "
            "Write --device cpu and install it (pip install onnxruntime), or choose --runtime torch."
        )
    _check_memory(probes, device)
    if threads is not None:
        torch.set_num_threads(threads)
    origin = _origin(device, runtime)
    timings = _read_journal(journal, origin)
    start = time.monotonic()
    journal.parent.mkdir(parents=True, exist_ok=True)
    wanted = [probe for probe in probes if probe not in timings]
    with journal.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(json.dumps({"format": FORMAT, **origin}) + "\n")
        for probe, timing in _timings(wanted, device, runtime, lambda: start + limit_s - time.monotonic()):
            timings[probe] = timing
            file.write(json.dumps({**dataclasses.asdict(probe), **dataclasses.asdict(timing)}) + "\n")
            file.flush()
            watch(sum(probe in timings for probe in probes), len(probes))
    missing = tuple(probe for probe in wanted if probe not in timings)
    return Profile(timings={p: timings[p] for p in probes if p in timings}, missing=missing, origin=origin)


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
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table, partial, compression="zstd")
    os.replace(partial, path)


def _check_memory(probes: Sequence[Probe], device: str) -> None:
    """Half of what is free must hold the largest probe: absurd lengths end here, not in a killed process."""
    on_gpu = device.startswith("cuda")
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    largest = max(probes, key=lambda probe: probe.values_held, default=None)
    needed = 0.0 if largest is None else largest.values_held * (2.0 if on_gpu else 4.0)
    if largest is not None and needed > free / 2:
        raise UsageError(
            f"Timing {largest.kind} of {largest.rows} rows needs {format_bytes(needed)}, and {format_bytes(free)} of "
            "memory are free. Choose a smaller batch or fewer tokens."
        )


def _timings(
    probes: Sequence[Probe], device: str, runtime: str, left_s: Callable[[], float]
) -> Iterator[tuple[Probe, Timing]]:
    """Times probes until nothing is left of the limit; collectives last, those of one group together."""
    groups: dict[int, list[Probe]] = defaultdict(list)
    for probe in probes:
        if probe.kind in collectives.KINDS:
            groups[probe.rows].append(probe)
        elif left_s() > 0:
            yield probe, _timed(probe, device, runtime)
    for group in groups.values():
        if left_s() > 0:
            yield from collectives.time_collectives(group, device, left_s())


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
        "software": f"{runtime} {importlib.metadata.version(runtime)}",
        "date": datetime.date.today().isoformat(),
    }


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
