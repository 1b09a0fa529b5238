"""Closed form of a closed loop of requests on one replica: from times of steps to TPOT and TTFT.

Every request decodes `output` tokens; meanwhile each of the b sequences running beside it ends and is
replaced once, so that b prompts are computed during its stay (Little's law). With d the time of a decode step
of b sequences at mean context, p the time of one prompt inside a full chunk, s the share of prompts that wait
for one another rather than slow decoding, and h the engine's own loop:

    TPOT = max(d, h) + (1 - s) b p / output                          (max smoothed: 4-norm)
    TTFT = t0 + c p1 + q b p + TPOT + s (b + k) p / 2 + queueing      (k prompts fill one chunk)

Requests beyond what the cache holds wait for a place: queueing = (waiting) / (running / stay).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.performance.corrections import Corrections, Engine
from tuner.performance.grid import Array
from tuner.performance.step_time import StepParts

CHUNK_TOKENS = 8192.0
"""Tokens of prompts that engines compute in one step by default."""

_POINTWISE = 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoads:
    """What is known of each configuration, arrays of one shape.

    Attributes:
        decode: a step of all running sequences at mean context.
        prompt: one prompt alone.
        chunked_prompt: one prompt's share of a full chunk.
        layers: of the model.
        running: sequences decoding at once on one attention replica.
        waiting: sequences that found no place in the cache.
        input_tokens, output_tokens: of one request.
        engines: which engine.
        serial_host: whether its loop waits for the GPU.
        fixed_lengths: whether all requests have one length.
        separate_prefill: whether prompts are computed elsewhere and never slow decoding.
    """

    decode: StepParts
    prompt: StepParts
    chunked_prompt: StepParts
    layers: Array
    running: Array
    waiting: Array
    input_tokens: Array
    output_tokens: Array
    engines: Sequence[Engine]
    serial_host: NDArray[np.bool_]
    fixed_lengths: NDArray[np.bool_]
    separate_prefill: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Latencies:
    """Mean times, s."""

    ttft_s: Array
    tpot_s: Array


def latencies(loads: ClosedLoads, factors: Corrections) -> Latencies:
    """TTFT and TPOT of every configuration."""
    decode = (
        factors.matmul * loads.decode.matmul
        + factors.attention * loads.decode.attention
        + factors.experts * loads.decode.experts
        + _POINTWISE * loads.decode.pointwise
        + factors.collective * loads.decode.collective
        + factors.layer_s * loads.layers
    ) * factors.of("level", loads.engines)
    host = factors.of("host_s", loads.engines) + factors.of("host_per_sequence_s", loads.engines) * loads.running
    beside = (decode**4 + host**4) ** 0.25
    step = np.where(loads.serial_host, decode + factors.serial_host * host, beside)
    alone = prompt_s(loads.prompt, factors)
    chunked = prompt_s(loads.chunked_prompt, factors)
    synchronized = np.where(
        loads.fixed_lengths,
        factors.of("synchronized", loads.engines),
        factors.of("synchronized_ranged", loads.engines),
    )
    interference = np.where(loads.separate_prefill, 0.0, (1.0 - synchronized) * loads.running * chunked)
    tpot = step + interference / loads.output_tokens
    chain = factors.of("prompt_chain", loads.engines) * np.where(loads.fixed_lengths, factors.fixed_lengths, 1.0)
    steady = (
        factors.of("first_token_s", loads.engines)
        + chain * alone
        + factors.of("prompt_queue", loads.engines) * loads.running * chunked
        + tpot
        + factors.request_s * loads.running
    )
    filling = np.minimum(CHUNK_TOKENS / loads.input_tokens, loads.running)
    burst = np.where(loads.fixed_lengths, synchronized, 0.0) * (loads.running + filling) * chunked / 2.0
    stay = loads.output_tokens * tpot + steady
    return Latencies(ttft_s=steady + burst + loads.waiting * stay / loads.running, tpot_s=tpot)


def prompt_s(parts: StepParts, factors: Corrections) -> Array:
    """Time of prompts inside an engine, s."""
    return factors.prefill * (
        parts.matmul + parts.attention + parts.experts + _POINTWISE * parts.pointwise + parts.collective
    )
