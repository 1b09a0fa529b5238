"""What a configuration makes of a server, in words that all engines share: what predictions are made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import UsageError
from tuner.parameter import Config
from tuner.step import NumberFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicBatching:
    """A server that joins waiting requests and answers a batch with one pass of the model.

    Attributes:
        max_batch_size: most requests in one pass.
        max_queue_delay_s: how long the oldest request may wait for company.
        preferred_batch_sizes: sizes that are sent at once, ascending; empty prefers the largest batch.
        instances: copies of the model that compute at the same time (on each GPU).
        threads: of each copy; 0 takes as many as the machine has cores.
    """

    max_batch_size: int
    max_queue_delay_s: float = 0.0
    preferred_batch_sizes: tuple[int, ...] = ()
    instances: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        if self.max_batch_size < 1 or self.instances < 1 or self.max_queue_delay_s < 0 or self.threads < 0:
            raise UsageError(
                f"Batches of {self.max_batch_size}, {self.instances} instances, {self.threads} threads, a delay of "
                f"{self.max_queue_delay_s} s serve nothing. Write 1 or more, and a delay of 0 or more."
            )
        sizes = self.preferred_batch_sizes
        if any(not 1 <= size <= self.max_batch_size for size in sizes) or list(sizes) != sorted(set(sizes)):
            raise UsageError(f"preferred_batch_sizes {list(sizes)} are not ascending within 1..{self.max_batch_size}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuousBatching:
    """A server that decodes many sequences together, which come and go at every step.

    Attributes:
        max_num_seqs, max_num_batched_tokens: sequences, and tokens, of one step.
        tensor, pipeline: GPUs (or workers) that share each layer; groups of layers.
        weights: number format of the weights; `None` as the model's files say.
        cache: number format of keys and values.
        block_size: tokens in one block of the cache.
        prefix_caching: prompts that begin alike share their cache.
        memory_share: share of a GPU's memory that the engine may take.
        cache_bytes: size of the cache where it is set, on CPUs.
        threads: of each worker, on CPUs; 0 takes as many as the device has cores.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    tensor: int = 1
    pipeline: int = 1
    weights: NumberFormat | None = None
    cache: NumberFormat = NumberFormat.BF16
    block_size: int = 16
    prefix_caching: bool = False
    memory_share: float = 0.9
    cache_bytes: float | None = None
    threads: int = 0


Serving = DynamicBatching | ContinuousBatching


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model with what a study asks of it.

    Attributes:
        reader: entry point in `tuner.model_readers` that reads it.
        path: of the model.
        serving: what a configuration makes of the server.
        rows: rows that one request carries (tensors).
        row_tokens: sizes of one row's sequence, equally likely (tensors); empty for token workloads.
        max_tokens: longest sequence that the server accepts (tokens); 0 where it makes no difference.
    """

    reader: str
    path: Path
    serving: Callable[[Config], Serving]
    rows: int = 1
    row_tokens: tuple[int, ...] = ()
    max_tokens: int = 0
