"""The profiler that `tune profile` finds by entry point: torch operators on the device at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from profilers.microbenchmark import profile, write_profile
from profilers.pass_time import operator_s
from profilers.probe import probes
from tuner.model_graph import ModelGraph
from tuner.operators import Operator


def profile_model(
    graph: ModelGraph,
    device: str,
    batches: Sequence[int],
    length: int,
    folder: Path,
    limit_s: float,
    watch: Callable[[int, int], None],
) -> Callable[[Operator, int], float | None]:
    """Times a model's operators, those of `folder` not again, and writes `folder/profile.parquet`.

    Returns:
        Seconds of an operator for a batch of `length`-token sequences, `None` where it was not timed.
    """
    found = profile(probes(graph, batches, length), device, folder / "journal.jsonl", limit_s, watch=watch)
    write_profile(found, folder / "profile.parquet")

    def seconds(operator: Operator, batch: int) -> float | None:
        return operator_s(operator, found, batch, length)

    return seconds
