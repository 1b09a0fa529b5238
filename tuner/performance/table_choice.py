"""Which measured device stands for a device: itself, or the one most alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from tuner.hardware import Hardware, named_gpu
from tuner.performance.operator_table import OperatorTable
from tuner.performance.table_file import PROFILED
from tuner.step import NumberFormat


def tables_for(
    catalogue: Mapping[str, Hardware], folder: Path, profiles: Path | None = None
) -> dict[str, OperatorTable]:
    """A table for every device of the catalogue; those without one borrow the nearest device's ratios.

    Args:
        catalogue: device types by name.
        folder: holds one folder of table files per measured device, and profiles that come with the package.
        profiles: the user's, as `tune profile` keeps them; `None` leaves them out.
    """
    places = [folder] if profiles is None else [profiles, folder]
    found_in = [profiled_tables(catalogue, place) for place in places]
    own = {name: [path for found in found_in for path in found.get(name, ())] for name in catalogue}
    measured = [hardware for name, hardware in catalogue.items() if (folder / name / "gemm.parquet").is_file()]
    found: dict[str, OperatorTable] = {}
    for name, hardware in catalogue.items():
        near = hardware if hardware in measured else nearest(hardware, measured)
        found[name] = OperatorTable(hardware, None if near is None else folder / near.name, near, own[name])
    return found


def profiled_tables(catalogue: Mapping[str, Hardware], profiles: Path) -> dict[str, list[Path]]:
    """Folders of tables below `profiles` that were timed on a device of the catalogue, by its name."""
    found: dict[str, list[Path]] = {}
    for folder in sorted(profiles.rglob(f"{PROFILED}/*/")) if profiles.is_dir() else []:
        hardware = named_gpu(folder.name, catalogue)
        if hardware is not None:
            found.setdefault(hardware.name, []).append(folder)
    return found


def nearest(hardware: Hardware, measured: list[Hardware]) -> Hardware | None:
    """The measured device most alike: same generation first, then the ratio of compute to bandwidth, then size."""
    if not measured:
        return None

    def distance(other: Hardware) -> float:
        generation = 0.0 if other.architecture == hardware.architecture else 1.0
        formats = len(set(other.flops_per_s) ^ set(hardware.flops_per_s)) * 0.2
        balance = abs(math.log(_balance(other) / _balance(hardware)))
        size = abs(math.log(other.bandwidth_bytes_per_s / hardware.bandwidth_bytes_per_s))
        return generation + formats + balance + 0.3 * size

    return min(measured, key=distance)


def _balance(hardware: Hardware) -> float:
    return hardware.peak_flops_per_s(NumberFormat.BF16) / hardware.bandwidth_bytes_per_s
