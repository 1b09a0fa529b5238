"""Step times as small tables, so that compiled code can look them up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner.performance.corrections import Corrections, Engine
from tuner.performance.grid import Array
from tuner.performance.steady_state import decode_s, prompt_s
from tuner.performance.step_time import StepLoads, StepParts, StepTime


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTables:
    """What a step costs, in s, as the sum of what it holds.

    Attributes:
        tokens, token_s: all layers' dense work by number of tokens in the step.
        sequences, sequence_s: output layer and sampling by number of sequences.
        batches, contexts, decode_s: attention of decoding, shape (batches, contexts), by sequences and mean context.
        mixed_decode_s: the same in a step that also computes prompts; kernels that serve both are slower at it.
        chunks, cached, prefill_s: attention of one prompt's chunk, shape (chunks, cached), by tokens and tokens before.
        host_s, host_per_sequence_s: the engine's own loop.
        skew, mixed_skew: share of the way from attention over the mean context to attention over the longest that
            unequal contexts cost, in steps that only decode and in mixed ones.
        overlapped: whether that loop runs beside the GPU (the longer counts, and a step is planned when the one before
            it begins) or before it (both count).
    """

    tokens: Array
    token_s: Array
    sequences: Array
    sequence_s: Array
    batches: Array
    contexts: Array
    decode_s: Array
    mixed_decode_s: Array
    chunks: Array
    cached: Array
    prefill_s: Array
    host_s: float
    host_per_sequence_s: float
    overlapped: bool
    skew: float = 0.0
    mixed_skew: float = 0.0

    @classmethod
    def of(
        cls, step: StepTime, factors: Corrections, engine: Engine, overlapped: bool, max_tokens: int, max_context: int
    ) -> StepTables:
        """From operator tables and correction factors; pipeline stages run one after another.

        Of one copy of attention; what several do together is left out (`ranks.Together` has it).
        """
        tokens = token_grid(max_tokens)
        dense = step.parts(StepLoads.decode(tokens, np.ones_like(tokens)), step.own)
        token_s = engine_s(tokens, dense, dense, factors, engine)
        level, prompts = (float(factors.of(name, [engine])[0]) for name in ("level", "prefill"))
        batches, contexts = token_grid(1024, 4), token_grid(max_context, 16)
        b, c = np.meshgrid(batches, contexts, indexing="ij")
        decoding = StepLoads.decode(b.ravel(), c.ravel())
        decode = step.parts(decoding).attention
        mixed = decode + step.beside_prompts(decoding)
        chunks, cached = token_grid(max_tokens, 16), np.concatenate([[0.0], token_grid(max_context, 64)])
        q, k = np.meshgrid(chunks, cached, indexing="ij")
        prefill = step.parts(
            StepLoads(
                prefill_sequences=np.ones(q.size), prefill_tokens=q.ravel(), prefill_context=k.ravel(),
                decode_sequences=np.zeros(q.size), decode_context=np.zeros(q.size),
            )
        ).attention.reshape(q.shape)  # fmt: skip
        host = float(factors.of("host_s", [engine])[0])
        each = float(factors.of("host_per_sequence_s", [engine])[0])
        scale = 1.0 if overlapped else factors.serial_host
        return cls(
            tokens=tokens,
            token_s=token_s,
            sequences=np.array([1.0, 2.0]),
            sequence_s=np.zeros(2),
            batches=batches,
            contexts=contexts,
            decode_s=level * factors.attention * decode.reshape(b.shape),
            mixed_decode_s=level * factors.attention * mixed.reshape(b.shape),
            chunks=chunks,
            cached=cached,
            prefill_s=prompts * prefill,
            host_s=host * scale,
            host_per_sequence_s=each * scale,
            overlapped=overlapped,
            skew=step.unequal_share(beside_prompts=False),
            mixed_skew=step.unequal_share(beside_prompts=True),
        )


def engine_s(tokens: Array, decoding: StepParts, prompts: StepParts, factors: Corrections, engine: Engine) -> Array:
    """What an engine takes for steps without their attention, s: short ones go at the speed of decoding, long ones at
    that of prompts.

    Args:
        tokens: of each step (of one copy of attention), shape (n,).
        decoding, prompts: parts of those steps by operator tables, as steps that decode and as passes over prompts.
        factors, engine: correction factors, and whose.
    """
    kernels_s = decode_s(decoding, factors) - factors.attention * decoding.attention
    slow = float(factors.of("level", [engine])[0]) * (kernels_s + factors.kernel_s * decoding.replayed)
    fast = float(factors.of("prefill", [engine])[0]) * (prompt_s(prompts) - prompts.attention)
    share = np.clip(np.log2(tokens / 256.0) / 3.0, 0.0, 1.0)
    return np.asarray((1 - share) * slow + share * np.maximum(fast, slow * 0.5))


def token_grid(high: int, start: int = 1) -> Array:
    """`start` to `high`, eight points to an octave, whole numbers."""
    count = max(2, int(np.ceil(8 * np.log2(max(high, start + 1) / start))) + 1)
    return np.unique(np.round(np.geomspace(start, max(high, start + 1), count)))
