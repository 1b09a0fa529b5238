"""Timing one call on the device at hand, with its spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Of one call, s.

    Attributes:
        median_s: middle of the repeats.
        low_s, high_s: first and last quartile.
        repeats: how many calls were timed.
        kernel: that was timed, where several compute the same.
    """

    median_s: float
    low_s: float
    high_s: float
    repeats: int
    kernel: str = ""

    def of_one(self, runs: int, kernel: str = "") -> Timing:
        """Of one of the `runs` operations that a call was."""
        return Timing(
            median_s=self.median_s / runs,
            low_s=self.low_s / runs,
            high_s=self.high_s / runs,
            repeats=self.repeats,
            kernel=kernel,
        )


def time_call(
    call: Callable[[], object], device: str, budget_s: float = 0.25, least: int = 5, threads: int | None = None
) -> Timing:
    """Times `call` for about `budget_s`, at least `least` times after a warm-up.

    On a GPU the call is captured into a CUDA graph where it can be, the second-level cache is flushed before each
    repeat, and events take the time; on a CPU the wall clock does, or with one thread that thread's own clock, which
    stands still while other programs have the core.
    """
    if device.startswith("cuda"):
        return _time_cuda(call, budget_s, least)
    clock = time.thread_time if threads == 1 else time.perf_counter
    call()
    samples: list[float] = []
    end = time.perf_counter() + budget_s
    while len(samples) < least or (time.perf_counter() < end and len(samples) < 1000):
        start = clock()
        call()
        samples.append(clock() - start)
    return summary(samples)


def wake(device: str, seconds: float = 0.5) -> None:
    """Keeps a GPU busy until its clocks are up."""
    square = torch.randn(4096, 4096, dtype=torch.bfloat16, device=device)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(20):
            square @ square
        torch.cuda.synchronize(device)


def _time_cuda(call: Callable[[], object], budget_s: float, least: int) -> Timing:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    replay: Callable[[], object] = call
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        replay = graph.replay
    except RuntimeError:
        torch.cuda.synchronize()  # not every operator can be captured; it is then timed with its launch
    flush = torch.empty(256 * 2**20, dtype=torch.int8, device="cuda")
    samples: list[float] = []
    end = time.perf_counter() + budget_s
    while len(samples) < least or (time.perf_counter() < end and len(samples) < 1000):
        flush.zero_()
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        stop = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        replay()
        stop.record()
        stop.synchronize()
        samples.append(start.elapsed_time(stop) * 1e-3)
    return summary(samples)


def summary(samples: list[float]) -> Timing:
    """Median and quartiles of the repeats of a call, s."""
    if len(samples) < 2:
        return Timing(median_s=samples[0], low_s=samples[0], high_s=samples[0], repeats=1)
    low, median, high = statistics.quantiles(samples, n=4)
    return Timing(median_s=median, low_s=low, high_s=high, repeats=len(samples))
