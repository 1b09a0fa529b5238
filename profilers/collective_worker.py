"""One of the processes that time a collective together; rank 0 prints a JSON line for each, as soon as it is there.

    python -m profilers.collective_worker RANK WORLD BACKEND RENDEZVOUS_FILE < PROBES.json

Standard input is a JSON list of [kind, values]; see `profilers.collectives`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist

_BUDGET_S: Final = 0.25
_LEAST: Final = 5
_MOST: Final = 1000
_PATIENCE: Final = timedelta(seconds=60)


def main() -> None:
    rank, world, backend, rendezvous = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend, init_method=f"file://{rendezvous}", rank=rank, world_size=world, timeout=_PATIENCE
    )  # fmt: skip
    for kind, values in json.load(sys.stdin):
        samples = _samples(_call(kind, int(values), world, device), device)
        if rank == 0:
            print(json.dumps({"kind": kind, "values": values, "samples": samples}), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def _call(kind: str, values: int, world: int, device: torch.device) -> Callable[[], object]:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    mine = torch.ones(values, dtype=dtype, device=device)
    if kind == "all_reduce":
        return lambda: dist.all_reduce(mine)
    everyone = [torch.empty_like(mine) for _ in range(world)]
    return lambda: dist.all_gather(everyone, mine)


def _samples(call: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of each repeat, of the slowest process."""

    def once() -> float:
        dist.barrier()
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    trials = [once() for _ in range(3)]
    # every process must make as many repeats: the slowest says how many
    longest = torch.tensor([min(trials)], dtype=torch.float64, device=device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    repeats = min(max(int(_BUDGET_S / max(float(longest), 1e-6)), _LEAST), _MOST)
    samples = torch.tensor([once() for _ in range(repeats)], dtype=torch.float64, device=device)
    dist.all_reduce(samples, op=dist.ReduceOp.MAX)
    return [float(each) for each in samples.tolist()]


if __name__ == "__main__":
    main()
