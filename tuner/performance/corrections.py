"""Correction factors: the few numbers between a sum of operators and a running engine.

They are physical, shared by all models and devices, and learned from measured runs of other models
(`benchmarks/performance_fit.py`); docs/performance-model.md tells what each one means.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np

from tuner.errors import UsageError
from tuner.performance.grid import Array

SHIPPED: Final = Path(__file__).with_name("corrections.json")
DEFAULT_BUDGET: Final = 8192.0
"""Tokens that engines compute in one step by default."""


class Engine(enum.Enum):
    """Engines whose runs taught the factors; another engine is predicted as the first of them."""

    VLLM = "vllm"
    SGLANG = "sglang"
    TRTLLM = "trtllm"

    @property
    def gathers(self) -> bool:
        """Whether all copies of attention gather each other's tokens, and scatter the experts' sums, by default (vLLM,
        `allgather_reducescatter`); the others send a token to the GPUs of its experts alone when they decode."""
        return self is Engine.VLLM

    @classmethod
    def named(cls, name: str) -> Engine:
        """The engine called `name`.

        Raises:
            UsageError: none is.
        """
        for engine in cls:
            if engine.value == name.strip().lower().replace("-", "").replace("tensorrtllm", "trtllm"):
                return engine
        raise UsageError(f"No measured run taught engine {name!r}. Known: {', '.join(e.value for e in cls)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrections:
    """All factors; where a factor differs by engine it is a tuple in the order of `Engine`.

    Attributes:
        matmul, attention, experts, collective: times of the engine's kernels over those of the tables.
        kernel_s: time between two kernels of a step, s, unless they are launched as dependents of one another.
        serial_host: where the engine's loop does not run beside the GPU (vLLM before 0.14), how much of it adds up.
        polled_steps: mean steps that a request waits where the engine looks for new ones every 30 steps.
        replicated: factor on `prompt_chain` where attention is replicated and a pass waits for every replica.
        acceptance: probability that a drafted token is accepted after those before it, in answers of 1024 tokens.
        acceptance_longer: how much higher it is in answers of 8192.
        level: times of decode steps.
        prefill: GPU time of prompts inside an engine over the sum of their operators.
        prefill_experts: the same of their routed experts, beyond `prefill`.
        host_s: time of the engine's own loop per step, s; it runs beside the GPU and shows where it is longer.
        host_per_sequence_s: the same per running sequence, s.
        host_per_request_s: the same once per request, s.
        launch_s: time to launch one kernel of a pass over prompts, s.
        synchronized: share of the sequences that run in step where lengths vary.
        first_token_s: time outside the engine's steps before a first token, s.
        request_s: the same per running sequence, s.
        prompt_chain: own prompt's passes before a first token.
        first_token_steps: mean steps before a first token.
        opening: time of the prompts of an opening burst over the sum of their shares of full chunks.
        draft_layers: time of drafting one token, in layers of a decode step.
    """

    matmul: float
    attention: float
    experts: float
    collective: float
    kernel_s: float
    serial_host: float
    polled_steps: float
    replicated: float
    acceptance: float
    acceptance_longer: float
    level: tuple[float, ...]
    prefill: tuple[float, ...]
    prefill_experts: tuple[float, ...]
    host_s: tuple[float, ...]
    host_per_sequence_s: tuple[float, ...]
    host_per_request_s: tuple[float, ...]
    launch_s: tuple[float, ...]
    synchronized: tuple[float, ...]
    first_token_s: tuple[float, ...]
    request_s: tuple[float, ...]
    prompt_chain: tuple[float, ...]
    first_token_steps: tuple[float, ...]
    opening: tuple[float, ...]
    draft_layers: tuple[float, ...]

    def by_engine(self) -> dict[str, tuple[float, ...]]:
        """The factors that differ by engine."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, tuple)}

    def of(self, name: str, engines: Sequence[Engine]) -> Array:
        """The factor `name` of each of `engines`."""
        values, order = self.by_engine()[name], list(Engine)
        return np.array([values[order.index(engine)] for engine in engines], dtype=np.float64)

    def to_json(self) -> str:
        """As `from_mapping` reads it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(values, indent=2)

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Corrections:
        """From parsed JSON.

        Raises:
            UsageError: a factor is missing or unknown.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            odd = sorted(set(values) ^ names)
            raise UsageError(
                f"The correction factors lack or do not know {', '.join(odd)}. Fit them with this version."
            )
        made = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**made)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far predictions of unseen models were off, as 5 % and 95 % quantiles of log(measured / predicted).

    Attributes:
        low, high: quantiles.
    """

    low: float
    high: float

    def widened(self, factor: float) -> Spread:
        """The same, `factor` times as wide."""
        return Spread(low=self.low * factor, high=self.high * factor)

    def joined(self, other: Spread) -> Spread:
        """That of a sum of two independent errors, near enough."""
        return Spread(low=-math.hypot(self.low, other.low), high=math.hypot(self.high, other.high))


BORROWED: Final = Spread(low=-0.44, high=0.24)
"""Of products by the tables of the most alike device, measured on four (`benchmarks/published_profiles.py --judge`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What `corrections.json` holds: the factors, and the spreads by metric and kind of model.

    Attributes:
        corrections: the factors.
        spreads: by `tpot` or `ttft`, then `dense` or `experts`.
        origin: what they were learned from.
    """

    corrections: Corrections
    spreads: Mapping[str, Mapping[str, Spread]]
    origin: str

    def spread(self, metric: str, has_experts: bool) -> Spread:
        """Of `tpot` or `ttft` for a kind of model."""
        return self.spreads[metric]["experts" if has_experts else "dense"]


def shipped(path: Path = SHIPPED) -> Learned:
    """The factors that come with this version.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Learned(
            corrections=Corrections.from_mapping(values["corrections"]),
            spreads={
                metric: {kind: Spread(**quantiles) for kind, quantiles in kinds.items()}
                for metric, kinds in values["spreads"].items()
            },
            origin=str(values["origin"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"The correction factors {path} cannot be read: {error}. Reinstall the package.") from error
