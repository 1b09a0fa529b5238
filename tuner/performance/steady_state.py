"""Closed form of a closed loop of requests on one replica: from times of steps to TPOT and TTFT.

Every request decodes `o` tokens beside b - 1 others; each of those ends and is replaced once while it stays
(Little's law), but only the prompts computed while it decodes, not those before its first token, slow its tokens.

    d         a decode step of b sequences at mean context; h the engine's own loop beside it
    p, p1     a prompt's share of a full chunk of k prompts; a prompt alone
    l         launching the kernels of one pass over prompts, which no graph captures
    n         prompts that a pass finds: 1 + (arrivals during a pass), at most k
    c         passes until a prompt's first token, 3/2 or 5/2 times as many where requests have one length
    w         a pass over n prompts: (work(n)^3 + l^3)^(1/3), work from p1 at n = 1 to k p at n = k
    s         share of the sequences that run in step: they end, and send their next prompts, together
    e         tokens that a step adds to a sequence: 1, or with k' drafted 1 + q + ... + q^k'; m = (o - 1) / e steps
    stay      later + m step

    step  = ((d + x)^3 + h^3)^(1/3),   x = (b - 1) (w / n) ((1 - s) step / stay + s / (2 m)),   TPOT = step / e
    later = t0 + r b + (1 - s) c w1 + s ((b + k) p / 2 + l) + a step
    first = t0 + r b + g ((b + k) p / 2 + l) + step
    TTFT  = first / 10 + 9 later / 10 + waiting ((m + 1) step + later) / b

Steps awaited, a, are the engine's own and those until it looks for requests and until every copy of attention has
one. A draft costs the time of a few layers; d has all tokens that are verified. Where no graph captures decode steps
either, launching their kernels runs beside them: d is (d^3 + l^3)^(1/3), l of a decode step.

In step, the prompts of a cohort follow one another: the i-th waits for i - 1 others before its first token and
for the remaining ones after it, hence s/2. An engine that computes prompts before it decodes (SGLang)
stops all decoding for a pass; the others compute both in one pass, which hides d behind l. Benchmarks send ten
requests per client, and all clients start at once: a tenth of the requests meets the opening burst. Requests
beyond what the cache holds wait for a place.

Requests of one length that started together run in step for ever where prompts come first, s = 1: decoding starts
when the last prompt is done, so that all end in one step. An engine that computes both in one pass parts them by
whole budgets, for ever too, so that none meets more prompts than one pass holds, s = 0. Where lengths vary, s is
learned. An engine that computes both in one pass may be one place short of its clients, which no row says
(`ClosedLoads.may_be_short`): then each request waits for another to end, waiting = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.performance.corrections import Corrections, Engine
from tuner.performance.grid import Array
from tuner.performance.step_time import StepParts

POLLED_STEPS = 30.0
"""Steps between looks for requests to which the factor `polled_steps` belongs."""

OPENING_SHARE = 0.1
"""Requests that meet the opening burst: benchmarks send ten per client."""

_SHORT = 0.25
"""Probability that an engine that may be a place short of its clients is: an assumption, after one of four recorded
campaigns. Below a half, forecasts hardly depend on it; calibration starts from it."""

_SHORT_ANSWER, _LONG_ANSWER = 1024.0, 8192.0
"""Output tokens at which drafts are accepted with `acceptance`, and with `acceptance_longer` more."""

_PASSES = 1.5
"""Passes from a prompt's arrival to its first token where requests of one length follow one another in passes without a
gap: half of the one at hand, and its own. An engine that plans a pass while another runs needs one more."""

_POINTWISE = 1.3
_ROUNDS = 6
"""TPOT, the stay and the prompts of a pass depend on one another; half a step in logarithms each, they settle
within 1 % in five rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoads:
    """What is known of each configuration, arrays of one shape.

    Attributes:
        decode: a step of all running sequences at mean context.
        beside_prompts: what it takes longer, s, if it also computes prompts, beside the work on these.
        prompt: one prompt alone.
        chunked_prompt: one prompt's share of a full chunk.
        layers: of the model.
        running: sequences decoding at once on one attention replica.
        waiting: sequences that found no place.
        queueing: sequences whose prompts one attention replica computes: those running, unless prompts are apart.
        filling: prompts that a full chunk holds, at least one.
        drafted: tokens that a sequence drafts ahead and verifies in each step.
        output_tokens: of one request.
        engines: which engine.
        serial_host: whether its loop waits for the GPU.
        captured: whether its decode steps are replayed from graphs.
        dependent_launch: whether kernels start before those ahead of them have ended, so that no time passes between.
        prompts_first: whether it computes prompts before it decodes, instead of both in one pass.
        fixed_lengths: whether all requests have one length.
        separate_prefill: whether prompts are computed elsewhere and never slow decoding.
        polling: share of `polled_steps` that a request waits before the engine looks for it.
        opening_share: requests that meet an opening burst.
        replicated: whether attention is replicated, so that passes wait for the longest of several prompts.
        attention_replicas: copies of attention that step together.
        balanced_steps: steps that a prompt waits at most until each of them has one, 0 if it does not wait.
    """

    decode: StepParts
    beside_prompts: Array
    prompt: StepParts
    chunked_prompt: StepParts
    layers: Array
    running: Array
    waiting: Array
    queueing: Array
    filling: Array
    drafted: Array
    output_tokens: Array
    engines: Sequence[Engine]
    serial_host: NDArray[np.bool_]
    captured: NDArray[np.bool_]
    dependent_launch: NDArray[np.bool_]
    prompts_first: NDArray[np.bool_]
    fixed_lengths: NDArray[np.bool_]
    separate_prefill: NDArray[np.bool_]
    polling: Array
    opening_share: Array
    replicated: NDArray[np.bool_]
    attention_replicas: Array
    balanced_steps: Array

    @property
    def started_together(self) -> NDArray[np.bool_]:
        """Benchmarks whose requests, all of one length, started together and compute prompts where they decode."""
        return np.asarray(self.fixed_lengths & (self.opening_share > 0) & ~self.separate_prefill)

    @property
    def may_be_short(self) -> NDArray[np.bool_]:
        """Runs that may have had one place less than clients; a single client has its place."""
        return np.asarray(self.started_together & ~self.prompts_first & (self.running + self.waiting > 1.0))

    @property
    def short_share(self) -> Array:
        """Probability that a run had one place less than clients."""
        return np.where(self.may_be_short, _SHORT, 0.0)


@dataclass(frozen=True, slots=True)
class Latencies:
    """Mean times, s."""

    ttft_s: Array
    tpot_s: Array


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Passes over prompts: p1, p, k and l of the module's text, s."""

    alone: Array
    chunked: Array
    filling: Array
    launch: Array

    def work(self, count: Array) -> Array:
        """GPU time of `count` prompts in one pass."""
        apart = np.clip(1.0 - (count - 1.0) / np.maximum(self.filling - 1.0, 1e-9), 0.0, 1.0)
        return count * self.chunked + (self.alone - self.chunked) * apart


def latencies(loads: ClosedLoads, factors: Corrections, short: NDArray[np.bool_] | None = None) -> Latencies:
    """TTFT and TPOT of every configuration.

    Args:
        loads: n configurations.
        factors: to predict with.
        short: shape (n,), those that are a place short of their clients where they may be; none without it.
    """
    engine = _by_engine(factors, loads.engines)
    gaps = np.where(loads.dependent_launch, 0.0, factors.kernel_s * loads.decode.replayed)
    decode = (decode_s(loads.decode, factors) + gaps) * engine["level"]
    decode = decode * (1.0 + engine["draft_layers"] * loads.drafted / loads.layers)
    decode = _joined(decode, np.where(loads.captured, 0.0, engine["launch_s"] * loads.decode.kernels))
    accepted = _accepted(loads, factors)
    running, output = loads.running, (loads.output_tokens - 1.0) / accepted + 1.0
    host = engine["host_s"] + running * (engine["host_per_sequence_s"] + engine["host_per_request_s"] / output)
    routed = engine["prefill_experts"] - 1.0
    prompts = _Prompts(
        alone=engine["prefill"] * (prompt_s(loads.prompt) + routed * loads.prompt.experts) + gaps,
        chunked=engine["prefill"] * (prompt_s(loads.chunked_prompt) + routed * loads.chunked_prompt.experts)
        + gaps / loads.filling,
        filling=np.minimum(loads.filling, loads.queueing),
        launch=engine["launch_s"] * loads.prompt.kernels,
    )
    in_step = np.where(loads.fixed_lengths, loads.started_together & loads.prompts_first, engine["synchronized"])
    waiting = loads.waiting if short is None else loads.waiting + (short & loads.may_be_short)
    mixed = np.where(loads.prompts_first, 0.0, engine["level"] * factors.attention * loads.beside_prompts)
    hidden = np.where(loads.prompts_first, 0.0, decode)
    others = np.where(loads.separate_prefill, 0.0, np.maximum(running - 1.0, 0.0))
    steps = np.maximum(output - 1.0, 1.0)
    outside = engine["first_token_s"] + engine["request_s"] * running
    cohort = (loads.queueing + prompts.filling) * prompts.chunked / 2.0
    chain = engine["prompt_chain"] * np.where(loads.fixed_lengths, _PASSES + ~loads.serial_host, 1.0)
    own = chain * np.where(loads.replicated, factors.replicated, 1.0) * _joined(prompts.alone, prompts.launch)
    before = outside + (1.0 - in_step) * own + in_step * (cohort + prompts.launch)
    awaited = engine["first_token_steps"] + factors.polled_steps * loads.polling + _balanced(loads, running / steps)
    tpot = _joined(decode, host) + others / output * prompts.chunked
    count = np.ones_like(tpot)
    for _ in range(_ROUNDS):
        work = prompts.work(count)
        stay = before + (awaited + steps) * tpot
        count = np.clip(1.0 + running / stay * _joined(work, prompts.launch), 1.0, prompts.filling)
        slowed = others * ((1.0 - in_step) * tpot / stay + in_step / (2.0 * steps))
        passes = slowed / count
        between = passes * _joined(work, np.maximum(prompts.launch - hidden, 0.0)) + np.minimum(passes, 1.0) * mixed
        beside = _joined(decode + between, host)
        tpot = np.sqrt(tpot * np.where(loads.serial_host, decode + between + factors.serial_host * host, beside))
    first = outside + engine["opening"] * (cohort + prompts.launch) + tpot
    later = before + awaited * tpot
    queueing = waiting * (output * tpot + later) / running
    return Latencies(
        ttft_s=loads.opening_share * first + (1.0 - loads.opening_share) * later + queueing, tpot_s=tpot / accepted
    )


def _accepted(loads: ClosedLoads, factors: Corrections) -> Array:
    """Tokens that a step adds to a sequence: its own, and of those drafted all before the first that is refused.

    Random prompts are followed by text that gets easier to foresee, so that acceptance grows with its length.
    """
    longer = np.log(np.maximum(loads.output_tokens, 1.0) / _SHORT_ANSWER) / np.log(_LONG_ANSWER / _SHORT_ANSWER)
    each = np.clip(factors.acceptance + factors.acceptance_longer * longer, 0.0, 1.0)
    most = int(loads.drafted.max(initial=0.0))
    return np.asarray(1.0 + sum(each**ahead * (loads.drafted >= ahead) for ahead in range(1, most + 1)))


def _balanced(loads: ClosedLoads, joining: Array) -> Array:
    """Mean steps that a prompt waits until each of r attention replicas has one, or for at most `balanced_steps`.

    r (ln r + 0.577) + 1/2 requests reach every replica, near enough (the coupon collector's problem). A prompt comes
    at any moment of the shorter of both times, joined smoothly.

    Args:
        loads: n configurations.
        joining: requests that come to one replica per step, shape (n,).
    """
    replicas = loads.attention_replicas
    reached = replicas * (np.log(replicas) + np.euler_gamma) + 0.5
    limit = np.maximum(loads.balanced_steps, 1e-9)
    return np.asarray(0.5 / (1.0 / limit + joining * replicas / reached))


def _by_engine(factors: Corrections, engines: Sequence[Engine]) -> dict[str, Array]:
    """Every factor that differs by engine, for each of `engines`."""
    order = {engine: place for place, engine in enumerate(Engine)}
    places = np.array([order[engine] for engine in engines], dtype=np.int64)
    return {name: np.asarray(values)[places] for name, values in factors.by_engine().items()}


def decode_s(parts: StepParts, factors: Corrections) -> Array:
    """Kernels of decode steps, without the time between them and at no engine's own level, shape (n,)."""
    return (
        factors.matmul * parts.matmul
        + factors.attention * parts.attention
        + factors.experts * parts.experts
        + _POINTWISE * parts.pointwise
        + factors.collective * parts.collective
    )


def prompt_s(parts: StepParts) -> Array:
    """GPU time of prompts by their operators, s."""
    return parts.matmul + parts.attention + parts.experts + _POINTWISE * parts.pointwise + parts.collective


def _joined(work: Array, beside: Array) -> Array:
    """GPU work, and its launches or the engine's loop, run beside each other: the longer of both, smoothed.

    Both vary from step to step, so that the longer one is longer on average than either mean; where they are alike, by
    a quarter.
    """
    return np.asarray((work**3 + beside**3) ** (1.0 / 3.0))
